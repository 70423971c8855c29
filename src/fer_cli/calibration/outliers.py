"""How far an input's plain figures lie from those of the training samples; no class and no network is asked.

The distance is the mean to the `NEIGHBOURS` nearest training samples, each figure in standard deviations of them all.
Its p-value is the share of training samples that lie at least as far from the others. Training is no advantage here:
nothing is fitted to the samples but means and deviations.

Source: Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fer_cli.calibration.p_value import empirical_p_value
from fer_cli.data.statistics import LONGEST

NEIGHBOURS = 5
LEVEL = 0.02
"""p-value up to which an input is called odd: in pilots on validation samples 0.015 of the correct ones."""
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
        reference: Float[np.ndarray, " training"] | None = None,
    ) -> None:
        """`reference` is the distance of each training sample to others, where it is known already."""
        self.names = tuple(names)
        self._training = training
        self._mean, deviation = training.mean(axis=0), training.std(axis=0)
        # A figure that is the same for all training samples counts where it differs.
        self._deviation = np.where(deviation > 0, deviation, np.maximum(1e-3, np.abs(self._mean) * 1e-3))
        self.reference = self._distances_to_others() if reference is None else reference

    def measure(self, figures: Float[np.ndarray, "sample statistic"]) -> list[Outlyingness]:
        """How odd each sample is."""
        known = self._standard(self._training)
        away = [np.sort(np.linalg.norm(known - own, axis=1)) for own in self._standard(figures)]
        p_values = empirical_p_value(np.array([row[:NEIGHBOURS].mean() for row in away]), self.reference)
        return [Outlyingness(float(p), self._unusual(row)) for p, row in zip(p_values, figures, strict=True)]

    def alike(self, figures: Float[np.ndarray, "1 statistic"]) -> Bool[np.ndarray, " training"]:
        """Which training samples have the same figures, but for rounding."""
        same: np.ndarray = np.isclose(self._training, figures, rtol=1e-4, atol=1e-6).all(axis=1)
        return same

    def _distances_to_others(self) -> Float[np.ndarray, " training"]:
        from scipy.spatial import KDTree  # half a second that one sample does not need

        count, standard = min(NEIGHBOURS, len(self._training) - 1), self._standard(self._training)
        if not count:
            return np.zeros(len(self._training))
        distances, _ = KDTree(standard).query(standard, k=range(2, count + 2))  # the nearest is the sample itself
        mean: Float[np.ndarray, " training"] = distances.mean(axis=1)
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
