"""Algorithm 1: what locations of one layer stand for, reconstructed from their response fields.

What fills a response field is the sample's own feature or, to show what the codebook made of it, centroids: at every
location the one nearest to the feature, and at the probed location any code one asks for. The neighbours have to be
filled too, for a centroid alone decodes no better than a feature alone.

Step 4 keeps what the reconstruction of the receptive field depends on. With a feedback network that mirrors the
backbone that is the response field. Where the last step reads beyond it (`FeedbackNetwork.overreach`), the cells that
it reads there are kept too, so that the crop is that of the reconstruction from the whole feature.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.data.places import Box, Location
from fer_cli.errors import UsageError
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.network.backbone import OUTPUT, NetworkSpec, locations_near, receptive_field, response_field
from fer_cli.network.explained import ExplainedNetwork

FILLINGS = ("feature", "centroid")
"""What a response field can hold."""
_BATCH = 64


@dataclass(frozen=True)
class Probe:
    """The four things of Fig. 2: location, response field, reconstruction, receptive field.

    `reconstruction` is what the feedback network makes of the `kept` locations alone, the voxel values of the whole
    volume; `crop` is its part inside the receptive field. `kept` holds the response field, and what the last feedback
    step reads beyond it. `code` is that of the centroid at the location, None where the sample's own feature was kept.
    """

    layer: str
    map_shape: Location
    location: Location
    response_field: list[Location]
    receptive_field: Box
    reconstruction: Float[np.ndarray, "channel x y z"]
    code: int | None = None
    kept: Sequence[Location] = ()

    @property
    def crop(self) -> Float[np.ndarray, "channel cx cy cz"]:
        """The reconstruction inside the receptive field (step 6)."""
        return self.cut(self.reconstruction)

    def cut(self, volume: Float[np.ndarray, "channel x y z"]) -> Float[np.ndarray, "channel cx cy cz"]:
        """The part of a volume inside the receptive field."""
        (x0, x1), (y0, y1), (z0, z1) = self.receptive_field
        return volume[:, x0:x1, y0:y1, z0:z1]


def probe(
    network: ExplainedNetwork,
    volume: Float[np.ndarray, "channel x y z"],
    layer: str,
    location: Location,
    *,
    centroids_of: Codebook | None = None,
    code: int | None = None,
) -> Probe:
    """Run Algorithm 1 on one volume.

    With `centroids_of` the response field holds that codebook's centroids, and `code`, if given, the location.

    Raises UsageError for an unknown layer or code, LocationError for a location outside the layer.
    """
    (found,) = sweep(network, volume, layer, [location], centroids_of=centroids_of, code=code)
    return found


@torch.inference_mode()
def sweep(
    network: ExplainedNetwork,
    volume: Float[np.ndarray, "channel x y z"],
    layer: str,
    locations: Sequence[Location],
    *,
    centroids_of: Codebook | None = None,
    code: int | None = None,
) -> Iterator[Probe]:
    """Run Algorithm 1 at several locations of a layer, decoded in batches; raises what `probe` raises."""
    spec, backbone = network.spec, network.backbone
    shape = spec.map_shape(layer)
    if layer == OUTPUT:
        raise UsageError(f"{OUTPUT} has no features of the input; probe one of {', '.join(spec.layer_names[:-1])}.")
    boxes = [receptive_field(backbone, layer, location) for location in locations]
    reach = network.feedback.overreach
    feature = encode(network, torch.from_numpy(volume)[None], [layer])[layer]
    codes: np.ndarray | None = None
    if centroids_of is not None:
        flat = centroids_of.layer(FEEDFORWARD, layer).assign(feature)
        feature = centroids_of.feature_map(FEEDFORWARD, layer, flat, feature.device)
        codes = flat.reshape(shape)
    for start in range(0, len(locations), _BATCH):
        part = locations[start : start + _BATCH]
        kept = [locations_near(backbone, layer, boxes[start + row], margin=reach) for row in range(len(part))]
        filled = torch.zeros((len(part), *feature.shape[1:]), device=feature.device)
        for row, (location, places) in enumerate(zip(part, kept, strict=True)):
            x, y, z = (list(along) for along in zip(*places, strict=True))
            filled[row, :, x, y, z] = feature[0, :, x, y, z]
            if centroids_of is not None and code is not None:
                filled[row, :, *location] = _centroid(centroids_of, layer, location, code).to(feature.device)
        decoded = network.reconstruct(filled, layer).cpu().numpy()
        for row, (location, places) in enumerate(zip(part, kept, strict=True)):
            chosen = None if codes is None else int(codes[location]) if code is None else code
            field = response_field(backbone, layer, location)
            yield Probe(layer, shape, location, field, boxes[start + row], decoded[row], chosen, places)


def layer_locations(spec: NetworkSpec, layer: str, slices: Sequence[int] | None = None) -> list[Location]:
    """All locations of a layer, or those of the given horizontal slices (z); x slowest.

    Raises UsageError for an unknown layer or a slice outside it.
    """
    x, y, z = spec.map_shape(layer)
    if outside := sorted({height for height in slices or () if not 0 <= height < z}):
        raise UsageError(f"{layer} has the slices 0 to {z - 1}, not {', '.join(map(str, outside))}.")
    heights = range(z) if slices is None else sorted(set(slices))
    return list(product(range(x), range(y), heights))


def _centroid(codebook: Codebook, layer: str, location: Location, code: int) -> Float[Tensor, " filter"]:
    book = codebook.layer(FEEDFORWARD, layer)
    index = np.ravel_multi_index(location, codebook.spec.map_shape(layer))
    count = int(book.n_codes[index])
    if not 0 <= code < count:
        at = ",".join(map(str, location))
        raise UsageError(f"{layer} has the codes 0 to {count - 1} at {at}, not {code}.")
    return torch.from_numpy(book.centroids[index, code])
