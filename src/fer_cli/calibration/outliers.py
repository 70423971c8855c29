"""How far an input's plain figures lie from those of the training samples; no class and no network is asked.

The distance is the mean to the `NEIGHBOURS` nearest training samples, each figure in standard deviations of them all.
Its p-value is the share of training samples that lie at least as far from the other training samples. If there are more
than `_MOST` of them, the share is that of `_MOST` drawn at random. Training samples may serve here, since only means
and standard deviations of the figures are fitted to them.

Source: Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from fer_cli.calibration.p_value import empirical_p_value
from fer_cli.data.statistics import LONGEST

NEIGHBOURS = 5
LEVEL = 0.02
"""p-value up to which an input is called odd: in pilots on validation samples 0.015 of the correct ones."""
_MOST = 5_000
"""Number of training samples whose distances to the others are compared with that of an input."""
_DISTANCES = 1 << 21
"""Number of distances that are in memory at a time."""
_USUAL = (0.5, 99.5)
"""Percentiles of the training samples between which a figure is usual."""


@dataclass(frozen=True)
class Outlyingness:
    """p-value of an input, and the figures that lie outside what is usual, farthest first, each in words."""

    p_value: float
    unusual: tuple[str, ...]

    @property
    def is_outlier(self) -> bool:
        """Whether it is odder than all but `LEVEL` of the training samples."""
        return self.p_value <= LEVEL


class InputOutliers:
    """The figures of training samples, against which others are measured."""

    def __init__(
        self,
        names: Sequence[str],
        training: Float[np.ndarray, "training statistic"],
        reference: Float[np.ndarray, " reference"] | None = None,
    ) -> None:
        """`reference` is the attribute `reference` that came of the same `training` before; None computes it.

        It holds the mean distance of each training sample, or of `_MOST` drawn at random, to its nearest others.
        """
        self.names = tuple(names)
        self._training = training
        self._mean, deviation = training.mean(axis=0), training.std(axis=0)
        # A figure that is the same for all training samples counts where it differs.
        self._deviation = np.where(deviation > 0, deviation, np.maximum(1e-3, np.abs(self._mean) * 1e-3))
        if reference is None:
            drawn = np.random.default_rng(0).permutation(len(training))[:_MOST]
            reference = self._distances(training[np.sort(drawn)], among_them=True)
        self.reference = reference

    def measure(self, figures: Float[np.ndarray, "sample statistic"]) -> list[Outlyingness]:
        """How odd each sample is."""
        p_values = empirical_p_value(self._distances(figures), self.reference)
        return [Outlyingness(float(p), self._unusual(row)) for p, row in zip(p_values, figures, strict=True)]

    def alike(self, figures: Float[np.ndarray, "1 statistic"]) -> Bool[np.ndarray, " training"]:
        """Which training samples have the same figures, but for rounding."""
        same: np.ndarray = np.isclose(self._training, figures, rtol=1e-4, atol=1e-6).all(axis=1)
        return same

    def _distances(
        self, figures: Float[np.ndarray, "sample statistic"], *, among_them: bool = False
    ) -> Float[np.ndarray, " sample"]:
        """Mean distance of each sample to its `NEIGHBOURS` nearest training samples.

        With `among_them` the samples are training samples, and each is left out of its own neighbours.
        """
        first = int(among_them)
        count = min(NEIGHBOURS, len(self._training) - first)
        if not count:
            return np.zeros(len(figures))
        known, own = (torch.from_numpy(self._standard(each)) for each in (self._training, figures))
        exact = "donot_use_mm_for_euclid_dist"
        nearest = [
            torch.cdist(part, known, compute_mode=exact).topk(first + count, largest=False).values[:, first:].mean(1)
            for part in own.split(max(1, _DISTANCES // len(known)))
        ]
        mean: Float[np.ndarray, " sample"] = torch.cat(nearest).numpy()
        return mean

    def _standard(self, figures: Float[np.ndarray, "sample statistic"]) -> Float[np.ndarray, "sample statistic"]:
        standard: Float[np.ndarray, "sample statistic"] = (figures - self._mean) / self._deviation
        return standard

    def _unusual(self, figures: Float[np.ndarray, " statistic"]) -> tuple[str, ...]:
        if LONGEST in self.names and not figures[self.names.index(LONGEST)]:
            return ("no voxel is occupied",)
        low, high = np.percentile(self._training, _USUAL, axis=0)
        beyond = np.maximum(low - figures, figures - high) / self._deviation
        far = [at for at in np.argsort(-beyond, kind="stable") if beyond[at] > 0]
        return tuple(_in_words(self.names[at], figures[at], low[at], high[at]) for at in far)


def _in_words(name: str, value: float, low: float, high: float) -> str:
    name, is_log, _ = name.partition(" (log)")
    if is_log:
        value, low, high = np.exp([value, low, high])
    return f"{name} {value:.3g}, usually {low:.3g} to {high:.3g}"
