"""The codebooks of one network: codes of features, the maps centroids make, and class evidence.

A codebook holds, for each path, layer and location, k centroids with the class histogram and the exemplar
of the training samples each holds. Fitting them is in `clustering`. Class evidence follows the method page:
the log of a class's smoothed share in a code's histogram over the class's share in the training set.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

from fer_cli.codebooks.lookup import CentroidIndex
from fer_cli.errors import ArtifactError
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import round_to
from fer_cli.network.backbone import OUTPUT, NetworkSpec
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.schema import CODEBOOK

_CPU = torch.device("cpu")


@dataclass(eq=False)
class LayerCodebook:
    """The codes of one layer in one path; see `docs/schema.md`. Codes from `n_codes` of a location on do not exist."""

    centroids: Float32[np.ndarray, "location code filter"]
    histogram: Int32[np.ndarray, "location code klass"]
    exemplar: Int32[np.ndarray, "location code"]
    n_codes: Int32[np.ndarray, " location"]
    bits: int
    _indices: dict[torch.device, CentroidIndex] = field(default_factory=dict, init=False, repr=False)

    def assign(self, feature: Float[Tensor, "sample filter x y z"]) -> Int[np.ndarray, "sample location"]:
        """Code of the nearest centroid at every location, for the feature at the codebook's precision."""
        return self.look_up(feature)[1].cpu().numpy().T

    def look_up(
        self, feature: Float[Tensor, "sample filter x y z"]
    ) -> tuple[Float32[Tensor, "location sample filter"], Int[Tensor, "location sample"]]:
        """The same location by location, with the vectors that were looked up; both on the feature's device."""
        vectors = round_to(feature.detach().flatten(2).permute(2, 0, 1), self.bits).float().contiguous()
        return vectors, self.on(feature.device).search(vectors)

    def on(self, device: torch.device) -> CentroidIndex:
        """The centroids on a device, where they stay."""
        if device not in self._indices:
            centroids, n_codes = (torch.from_numpy(array).to(device) for array in (self.centroids, self.n_codes))
            self._indices[device] = CentroidIndex(centroids, n_codes)
        return self._indices[device]

    def relative_squares(
        self, feature: Float[Tensor, "sample filter x y z"]
    ) -> Float[np.ndarray, "location sample code"]:
        """Squared distance of each sample's feature to every centroid, less its own square: enough to order by.

        Infinite for codes that do not exist.
        """
        vectors = feature.flatten(2).permute(2, 0, 1)
        return self.on(feature.device).relative_squares(vectors).cpu().numpy()

    def chosen(
        self, codes: Int[np.ndarray, "sample location"], device: torch.device
    ) -> Float[Tensor, "sample location filter"]:
        """The centroids of the given codes, on a device."""
        centroids = self.on(device).centroids
        return centroids[torch.arange(codes.shape[1], device=device), moved(torch.from_numpy(codes), device)]

    def distances(
        self, feature: Float[Tensor, "sample filter x y z"], codes: Int[np.ndarray, "sample location"]
    ) -> Float[np.ndarray, " sample"]:
        """Squared distance of each sample's feature to the given centroids, summed over locations."""
        return self.location_distances(feature, codes).sum(axis=1)

    def location_distances(
        self, feature: Float[Tensor, "sample filter x y z"], codes: Int[np.ndarray, "sample location"]
    ) -> Float[np.ndarray, "sample location"]:
        """The same location by location."""
        vectors = feature.detach().flatten(2).transpose(1, 2).float()
        return (vectors - self.chosen(codes, feature.device)).double().square().sum(2).cpu().numpy()

    def chosen_exemplars(self, codes: Int[np.ndarray, "sample location"]) -> Int[np.ndarray, "sample location"]:
        """The training sample that each chosen centroid names."""
        return self.exemplar[np.arange(codes.shape[1]), codes].astype(np.int64)


def class_evidence(
    histogram: Int[np.ndarray, "*codes klass"], prior: Float[np.ndarray, " klass"]
) -> Float32[np.ndarray, "*codes klass"]:
    """Evidence of each code for each class, in nats: log of (smoothed share of the class in the code / prior).

    Smoothing adds as many imaginary samples as there are classes, spread as the prior is, so that an empty
    code is evidence of nothing.
    """
    weight = len(prior)
    count = histogram.sum(axis=-1, keepdims=True)
    share = (histogram + weight * prior) / (count + weight)
    return np.log(share / prior).astype(np.float32)


@dataclass(eq=False)
class Codebook:
    """The codebooks of both paths; `load(path, layer)` is called when a layer is first asked for.

    `prior` is the share of each class among the training samples that were clustered.
    """

    spec: NetworkSpec
    prior: Float[np.ndarray, " klass"]
    load: Callable[[str, str], LayerCodebook]
    _layers: dict[tuple[str, str], LayerCodebook] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def layer(self, path: str, layer: str) -> LayerCodebook:
        """Centroids, histograms and exemplars of a layer. Raises ArtifactError where they do not fit the network."""
        key = (path, layer)
        if key not in self._layers:
            book = self.load(path, layer)
            filters, wanted = self.spec.level_shape(layer)[0], self.spec.locations(layer)
            locations, _, width = book.centroids.shape
            if (locations, width) != (wanted, filters):
                raise ArtifactError(
                    f"the codebook's {layer} has {locations} locations of {width} filters, but the network has "
                    f"{wanted} of {filters}. Run 'fer cluster' again."
                )
            self._layers[key] = book
        return self._layers[key]

    def evidence(
        self, path: str, layer: str, codes: Int[np.ndarray, "sample location"]
    ) -> Float32[np.ndarray, "sample location klass"]:
        """Class evidence of the given codes, location by location, in nats."""
        book, places = self.layer(path, layer), np.arange(codes.shape[1])
        if len(codes) < book.centroids.shape[1]:  # fewer logarithms than for all codes
            return class_evidence(book.histogram[places, codes], self.prior)
        if (path, layer) not in self._tables:
            self._tables[path, layer] = class_evidence(book.histogram, self.prior)
        return self._tables[path, layer][places, codes]

    def feature_map(
        self, path: str, layer: str, codes: Int[np.ndarray, "sample location"], device: torch.device = _CPU
    ) -> Float[Tensor, "sample filter x y z"]:
        """The layer's feature made of the chosen centroids, on a device."""
        chosen = self.layer(path, layer).chosen(codes, device)
        return chosen.transpose(1, 2).unflatten(2, self.spec.map_shape(layer)).contiguous()


def open_codebook(path: Path, model: Artifact, spec: NetworkSpec) -> tuple[Codebook, Artifact]:
    """The codebook of a network, and its artifact. Raises LineageError if it was made from another model."""
    artifact = open_artifact(path, CODEBOOK)
    artifact.require_parent("model", model)

    precision = artifact.attribute("precision")

    def load(path: str, layer: str) -> LayerCodebook:
        with artifact.interpreted():
            return LayerCodebook(
                centroids=artifact.read(f"{path}/{layer}/centroid"),
                histogram=artifact.read(f"{path}/{layer}/histogram"),
                exemplar=artifact.read(f"{path}/{layer}/exemplar"),
                n_codes=artifact.read(f"{path}/{layer}/n_codes"),
                bits=precision[path][layer]["bits"],
            )

    counts = artifact.read(f"feedforward/{OUTPUT}/histogram").sum(axis=(0, 1))
    if len(counts) != len(spec.classes) or not counts.all():
        raise ArtifactError(f"{path} is damaged: its class counts are {counts.tolist()}. Run 'fer cluster' again.")
    return Codebook(spec, counts / counts.sum(), load), artifact
