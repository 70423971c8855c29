"""A volume as a file holds it (`Scan`), and the checks that the readers of all volume formats share."""

import importlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from fer_cli.errors import FerError, InputError, UsageError, first_line

MOST_CHANNELS = 4096
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From millimetres along left, posterior and superior (ITK, DICOM) to right, anterior and superior."""
_MOST_WORLD = 1e9
"""Largest coordinate of an affine map, and one over the smallest edge of a voxel."""


@dataclass(frozen=True)
class Scan:
    """A volume: its values as the file holds them, and the affine map from indices (voxel centres) to the world.

    `is_placed` tells whether the file has an affine map to millimetres (right, anterior, superior), as NIfTI does;
    `is_measured` whether it has at least the edges of a voxel in millimetres, as TIFF may have.
    """

    values: Shaped[np.ndarray, "channel x y z"]
    index_to_world: Float64[np.ndarray, "4 4"]
    is_placed: bool = False
    is_measured: bool = False

    @property
    def has_spacing(self) -> bool:
        """Whether the spacing of voxels is known, in millimetres."""
        return self.is_placed or self.is_measured


def as_channels(values: np.ndarray, name: str) -> np.ndarray:
    """An array of (x, y, z) or (channel, x, y, z) with its axis of channels. Raises InputError for any other."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: holds {values.dtype} values, expected real numbers.")
    if values.ndim not in (3, 4) or not values.size:
        sides = "×".join(map(str, values.shape))
        raise InputError(f"{name}: an array of {sides or 'no'} values, expected axes (x, y, z) or (channel, x, y, z).")
    return values if values.ndim == 4 else values[None]


def native(values: np.ndarray) -> np.ndarray:
    """The same values in the machine's own byte order, contiguous."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def spacing_of(matrix: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Edges of a voxel along its three axes, in the units of the world."""
    x, y, z = (math.sqrt(float((matrix[:3, axis] ** 2).sum())) for axis in range(3))
    return x, y, z


def require_extent(matrix: Float64[np.ndarray, "4 4"], name: str) -> None:
    """Raise InputError unless an affine map is finite and maps voxels to voxels of some extent."""
    is_near = bool(np.isfinite(matrix).all() and np.abs(matrix).max() < _MOST_WORLD)
    edges = spacing_of(matrix) if is_near else (0.0,)
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(matrix[:3, :3] / np.maximum(edges, 1e-300)))
    if min(edges) * _MOST_WORLD < 1 or not volume > 1e-6:
        raise InputError(f"{name}: its affine maps the volume to a plane or a point, or out of this world.")


def unreadable(name: str, kind: str, error: BaseException) -> InputError:
    """The error for a file that a library refuses, in whatever way it does so."""
    return InputError(f"{name}: not a readable {kind} file: {first_line(error)}.")


@contextmanager
def reading(name: str, kind: str, logger: str) -> Iterator[None]:
    """A block in which a library reads a file: its errors become InputError, its logs and warnings are silenced."""
    log = logging.getLogger(logger)
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except (FerError, MemoryError):
        raise
    except Exception as error:  # of many kinds for a damaged file
        raise unreadable(name, kind, error) from None
    finally:
        log.disabled = was_disabled


def package(name: str, needed_for: str) -> Any:
    """An optional package. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{needed_for} need {name}; run: pip install 'fer-cli[volumes]'") from error
