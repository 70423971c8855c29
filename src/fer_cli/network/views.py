"""Views of a sample: the sample itself, and variations of it as training draws them (test-time augmentation).

The mean class probabilities over views tell misclassified samples from correct ones better than those of the sample
alone, and classify somewhat better. Every sample is varied in the same ways, so that what is said of it does not
depend on the samples read with it.

Source: Wang et al., "Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation with
convolutional neural networks", Neurocomputing 2019.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.volumes import InputSpec, Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import predict, predict_variations
from fer_cli.network.explained import ExplainedNetwork

VIEWS, FEW = 24, 8
"""Number of views by default: of volumes of up to `_LARGE` voxels, and of larger ones, where time matters."""
MOST = 360
_LARGE = 48**3


@dataclass(frozen=True)
class Views:
    """So many views of each sample, the sample as it is among them; the seed draws the variations."""

    number: int
    augmentation: Augmentation
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MOST:
            raise UsageError(f"{self.number} views cannot be taken; give 1 to {MOST}.")

    @property
    def vary(self) -> bool:
        """Whether any view differs from the sample."""
        return self.number > 1 and any(astuple(replace(self.augmentation, edge=False)))

    @property
    def passes(self) -> int:
        """How many volumes are classified for a sample."""
        return self.number if self.vary else 1

    @property
    def words(self) -> str:
        """How many there are, and how they vary."""
        if not self.vary:
            return "no views"
        settings = [(each.name, getattr(self.augmentation, each.name)) for each in fields(Augmentation)]
        return f"{self.number} views, {', '.join(f'{name} {value}' for name, value in settings if value)}"

    def probabilities(self, network: ExplainedNetwork, volumes: Volumes) -> Float[np.ndarray, "sample klass"]:
        """Mean class probabilities of each sample over its views."""
        if not self.vary:
            return predict(network, volumes).astype(np.float64)
        drawn = self.augmentation.draw(self.number - 1, torch.Generator().manual_seed(self.seed))
        means = []
        for volume in moved(volumes, network.backbone.device).split(1):
            varied = drawn.apply(volume.expand(self.number - 1, *volume.shape[1:]).contiguous())
            means.append(predict_variations(network, torch.cat([volume, varied])).astype(np.float64).mean(axis=0))
        return np.stack(means)

    def to_json(self) -> dict[str, Any]:
        """As an artifact holds it."""
        return asdict(self)


def views_of(model: Mapping[str, Any], read: InputSpec, *, number: int | None = None, vary: str | None = None) -> Views:
    """The views of a network's samples, given the configuration of its model.

    By default they vary as in its training. `vary` names other ways, as `Augmentation.parsed` reads them, such as
    `mirror=x,shift`, or `none`.

    Raises UsageError for what cannot be read, or a number of views that cannot be taken.
    """
    default = FEW if math.prod(read.volume) > _LARGE else VIEWS
    if vary is None:
        augmentation = Augmentation(**model["training"]["augmentation"])
    else:
        augmentation = replace(Augmentation.parsed(vary, option="--vary"), edge=read.kind == "intensity")
    return Views(default if number is None else number, augmentation)


def check_views(number: int | None, vary: str | None) -> None:
    """Raise UsageError for what `views_of` would refuse of any network."""
    Views(FEW if number is None else number, Augmentation.parsed(vary or "none", option="--vary"))


def views_from(stored: Mapping[str, Any] | None) -> Views | None:
    """The views that an artifact holds; None for an older one, which holds none."""
    return None if not stored else Views(**{**stored, "augmentation": Augmentation(**stored["augmentation"])})
