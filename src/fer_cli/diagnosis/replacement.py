"""Activation patching: features of a layer replaced, at chosen locations, by those of donors."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError, first_line, is_out_of_memory
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import BATCH
from fer_cli.network.backbone import Backbone


@dataclass(frozen=True)
class Replacement:
    """Samples with their features at a layer, the donors' there, and two classes: the one wanted and the one given.

    `volumes` are the samples themselves, which decide whatever does not pass through the layer. Locations are flattened
    in C order of (x, y, z).
    """

    backbone: Backbone
    layer: str
    volumes: Volumes
    feature: Float[Tensor, "sample filter x y z"]
    donor: Float[Tensor, "sample filter x y z"]
    wanted: Int[Tensor, " sample"]
    given: Int[Tensor, " sample"]

    def __len__(self) -> int:
        return len(self.feature)

    @property
    def locations(self) -> int:
        """How many locations the layer has."""
        return int(np.prod(self.feature.shape[2:]))

    def rows(self, chosen: Int[Tensor, " chosen"]) -> "Replacement":
        """The same for some of the samples; one may be taken more than once."""
        return Replacement(
            self.backbone,
            self.layer,
            self._volumes_of(chosen),
            self.feature[chosen],
            self.donor[chosen],
            self.wanted[chosen],
            self.given[chosen],
        )

    def _volumes_of(self, chosen: Int[Tensor, " chosen"]) -> Volumes:
        """The volumes of some samples; of one sample again and again, without copies."""
        first = chosen[:1]
        if len(chosen) > 1 and bool((chosen == first).all()):
            return self.volumes[first].expand(len(chosen), -1, -1, -1, -1)
        return self.volumes[chosen]

    def replaced(self, where: Bool[Tensor, "sample location"]) -> Float[Tensor, "sample filter x y z"]:
        """The features with the donor's where marked."""
        return torch.where(where.view(-1, 1, *self.feature.shape[2:]), self.donor, self.feature)

    @torch.inference_mode()
    def logits(self, feature: Float[Tensor, "sample filter x y z"]) -> Float[Tensor, "sample klass"]:
        """Class logits when the layer holds `feature`."""
        parts = zip(self.volumes.split(BATCH), feature.split(BATCH), strict=True)
        return torch.cat([self._patched(volumes, part) for volumes, part in parts])

    def log_odds(self, logits: Float[Tensor, "sample klass"]) -> Float[Tensor, " sample"]:
        """Of the class wanted against the one given, in nats."""
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self.wanted] - logits[rows, self.given]

    def gradient(self, feature: Float[Tensor, "sample filter x y z"]) -> Float[Tensor, "sample filter x y z"]:
        """Gradient of the log odds with respect to the layer's features, at `feature`.

        Raises UsageError if the network has no gradient between the layer and its output.
        """
        parts = []
        for start in range(0, len(feature), BATCH):
            part = slice(start, start + BATCH)
            with torch.inference_mode(mode=False), torch.enable_grad():
                at = feature[part].clone().requires_grad_(True)
                logits = self._patched(self.volumes[part], at)
                rows = torch.arange(len(logits), device=logits.device)
                odds = logits[rows, self.wanted[part].clone()] - logits[rows, self.given[part].clone()]
                parts.append(self._gradient(odds.sum(), at))
        return torch.cat(parts)

    def gradients(
        self, features: Iterable[Float[Tensor, "sample filter x y z"]]
    ) -> Iterator[Float[Tensor, "sample filter x y z"]]:
        """The gradient at each of several features, taken together while that is a batch."""
        together = max(1, BATCH // max(1, len(self)))
        coming = iter(features)
        while part := list(islice(coming, together)):
            rows = torch.arange(len(self), device=self.feature.device).repeat(len(part))
            edit = self.rows(rows) if len(part) > 1 else self
            yield from edit.gradient(torch.cat(part)).split(max(1, len(self)))

    def _gradient(self, odds: Float[Tensor, ""], at: Tensor) -> Tensor:
        try:
            return torch.autograd.grad(odds, at)[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"the network has no gradient between the layer {self.layer!r} and its output, by which locations are "
                f"blamed: {first_line(error)}."
            ) from error

    def _patched(self, volumes: Volumes, feature: Tensor) -> Float[Tensor, "sample klass"]:
        return self.backbone.logits(volumes, patch={self.layer: feature}).float()

    def gains(self, where: Bool[Tensor, "sample location"]) -> Float[Tensor, " sample"]:
        """By how much the log odds rise when the marked locations are replaced."""
        return self.log_odds(self.logits(self.replaced(where))) - self.log_odds(self.logits(self.feature))


def highest(score: Float[Tensor, "sample location"], count: int) -> Bool[Tensor, "sample location"]:
    """Marks the `count` locations of the highest score in each row, the first of equals."""
    order = torch.argsort(score, dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros(score.shape, dtype=torch.bool, device=score.device).scatter_(1, order, True)


def random_scores(
    rows: int, locations: int, generator: np.random.Generator, device: torch.device
) -> Float[Tensor, "sample location"]:
    """Uniform random ranking (null)."""
    return moved(torch.from_numpy(generator.random((rows, locations), dtype=np.float32)), device)
