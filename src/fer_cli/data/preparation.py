"""A volume as a file holds it → the volume that a network reads: oriented, resampled, normalised, cropped or padded.

In this order. What was done is recorded in voxels.h5, and done again to a file that `fer explain` is given. The affine
map follows every step, so that voxels stay where they are in the world.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
from jaxtyping import Float64

from fer_cli.arguments import Scaling
from fer_cli.data.formats.nifti import nibabel
from fer_cli.data.formats.registry import require_mask
from fer_cli.data.formats.volume import Scan, spacing_of
from fer_cli.data.places import Kind, Location
from fer_cli.errors import ArtifactError, InputError, UsageError
from fer_cli.storage.declarations import Json

_LARGEST_SIDE = 1024


@dataclass(frozen=True)
class PreparationSettings:
    """What is done to volumes before a network reads them; None leaves them as they are.

    `shape` (x, y, z) crops or pads around the centre, with the smallest value; `spacing` is the edges of a voxel in the
    units of the affine map, mm in NIfTI, and resamples linearly; `orientation` names the directions that the axes point
    to, such as RAS; `scaling` is done volume by volume and channel by channel: `zscore` to mean 0 and standard
    deviation 1, `minmax` to 0 to 1, `window` maps `window` to 0 to 1 and clips. Voxels of at least `threshold` are
    occupied. Without `kind` and `threshold` a volume has to hold two values, 0 and another.

    Raises UsageError for values that do not fit.
    """

    kind: Kind | None = None
    threshold: float | None = None
    shape: Location | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str | None = None
    scaling: Scaling = "none"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *get_args(Kind)) or self.scaling not in get_args(Scaling):
            raise UsageError(f"there is no kind {self.kind!r} with the scaling {self.scaling!r}.")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise UsageError(f"--threshold takes a number, got {self.threshold:g}.")
        if self.threshold is not None and self.kind == "intensity":
            raise UsageError("--threshold makes occupancy of intensities; leave it or --kind intensity out.")
        if self.kind == "occupancy" and self.scaling != "none":
            raise UsageError(f"--normalise {self.scaling} is for intensities, not for occupancy.")
        if self.shape is not None and not all(1 <= side <= _LARGEST_SIDE for side in self.shape):
            raise UsageError(f"--shape {','.join(map(str, self.shape))}: sides are 1 to {_LARGEST_SIDE} voxels.")
        if self.spacing is not None and not all(0 < step < np.inf for step in self.spacing):
            raise UsageError(f"--spacing {','.join(map(str, self.spacing))}: edges are numbers above 0.")
        if self.orientation is not None and not _is_orientation(self.orientation):
            raise UsageError(f"--orientation {self.orientation}: give one letter of each of RL, AP and SI, as RAS.")
        if (self.window is not None) != (self.scaling == "window"):
            raise UsageError("a window needs its lower and its upper end: --normalise window:LO,HI.")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise UsageError(f"--normalise window:{self.window[0]:g},{self.window[1]:g}: the lower end comes first.")

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return self != PreparationSettings()

    @property
    def words(self) -> str:
        """What was done, in a sentence; empty where nothing was."""
        done = []
        if self.orientation is not None:
            done.append(f"turned to {self.orientation}")
        if self.spacing is not None:
            done.append(f"resampled to {' × '.join(f'{step:g}' for step in self.spacing)} mm")
        if self.shape is not None:
            done.append(f"cropped or padded to {'×'.join(map(str, self.shape))} voxels")
        if self.scaling == "zscore":
            done.append("scaled to mean 0 and standard deviation 1")
        if self.scaling == "minmax":
            done.append("scaled to values from 0 to 1")
        if self.window is not None:
            done.append(f"clipped to values from {self.window[0]:g} to {self.window[1]:g}, which became 0 to 1")
        return f"Each volume was {', '.join(done)}." if done else ""

    def to_json(self) -> Json:
        """As recorded in artifacts."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: Json) -> "PreparationSettings":
        """Settings recorded in an artifact. Raises ArtifactError if they are none."""
        try:
            tuples: dict[str, Any] = {
                key: None if recorded[key] is None else tuple(recorded[key]) for key in ("shape", "spacing", "window")
            }
            return cls(**{**recorded, **tuples})
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise ArtifactError(f"the recorded preparation {str(recorded)[:200]} is not usable: {error}") from error


def prepare(scan: Scan, settings: PreparationSettings, name: str) -> Scan:
    """The volume that a network reads, of the file called `name` in errors: float32, or uint8 where it is occupancy.

    Raises InputError where orientation or spacing is asked of a file that does not tell its own, or where it is not
    clear whether a volume is occupancy.
    """
    if (settings.orientation or settings.spacing) and not scan.has_spacing:
        raise InputError(f"{name}: holds no affine map; --orientation and --spacing need one.")
    if settings.orientation and not scan.is_placed:
        raise InputError(f"{name}: does not tell how its axes lie in a body; --orientation needs that.")
    if settings.orientation is not None:
        scan = _oriented(scan, settings.orientation)
    if settings.kind is None and settings.threshold is None:
        require_mask(scan.values, name)
    if settings.kind == "intensity":
        with np.errstate(over="ignore"):
            values = scan.values.astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{name}: holds values beyond those of single precision.")
        scan = replace(scan, values=values)
        if settings.spacing is not None:
            scan = _resampled(scan, settings.spacing)
        scan = replace(scan, values=_scaled(scan.values, settings))
    else:
        threshold = settings.threshold
        occupied = scan.values != 0 if threshold is None else scan.values >= threshold
        if len(occupied) != 1:
            raise InputError(f"{name}: has {len(occupied)} channels; occupancy has one. Give --kind intensity.")
        if settings.spacing is not None:
            share = _resampled(replace(scan, values=occupied.astype(np.float32)), settings.spacing)
            scan, occupied = share, share.values >= 0.5
        scan = replace(scan, values=occupied.astype(np.uint8))
    return scan if settings.shape is None else _fitted(scan, settings.shape)


def orientation_of(matrix: Float64[np.ndarray, "4 4"]) -> str:
    """The directions that the axes point to most nearly, such as RAS."""
    return "".join(letter or "?" for letter in nibabel().orientations.aff2axcodes(matrix))


def _is_orientation(letters: str) -> bool:
    return sorted(letters.translate(str.maketrans("LPI", "RAS"))) == sorted("RAS")


def _oriented(scan: Scan, wanted: str) -> Scan:
    orientations = nibabel().orientations
    change = orientations.ornt_transform(
        orientations.io_orientation(scan.index_to_world), orientations.axcodes2ornt(tuple(wanted))
    )
    values = np.stack([orientations.apply_orientation(channel, change) for channel in scan.values])
    step = orientations.inv_ornt_aff(change, scan.values.shape[1:])
    return replace(scan, values=values, index_to_world=scan.index_to_world @ step)


def _resampled(scan: Scan, spacing: tuple[float, float, float]) -> Scan:
    """Linearly interpolated at voxels of the given edges, over the same extent; averaged first where they are larger.

    The centre of the volume stays where it is.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    ratio = np.array(spacing) / spacing_of(scan.index_to_world)
    sides = np.array(scan.values.shape[1:])
    new = np.maximum(1, np.round(sides / ratio).astype(int))
    if new.max() > _LARGEST_SIDE or new.prod() > _LARGEST_SIDE**3 // 8:
        raise InputError(
            f"a spacing of {','.join(f'{step:g}' for step in spacing)} makes {'×'.join(map(str, new))} voxels."
        )
    offset = (sides - 1) / 2 - ratio * (new - 1) / 2
    blur = np.sqrt(np.maximum(0, ratio**2 - 1) / 12)  # what a box of the new size has beyond one of the old
    values = np.stack(
        [
            affine_transform(
                gaussian_filter(channel, blur, mode="nearest") if blur.any() else channel,
                ratio,
                offset,
                tuple(new),
                order=1,
                mode="nearest",
            )
            for channel in scan.values
        ]
    )
    step = np.diag([*ratio, 1.0])
    step[:3, 3] = offset
    return replace(scan, values=values, index_to_world=scan.index_to_world @ step)


def _scaled(values: np.ndarray, settings: PreparationSettings) -> np.ndarray:
    if settings.scaling == "none":
        return values
    wide = values.astype(np.float64)
    axes = (1, 2, 3)
    if settings.scaling == "zscore":
        spread = wide.std(axes, keepdims=True)
        wide = (wide - wide.mean(axes, keepdims=True)) / np.where(spread > 0, spread, 1)
    else:
        low, high = settings.window or (wide.min(axes, keepdims=True), wide.max(axes, keepdims=True))
        wide = np.clip((wide - low) / np.where(np.greater(high, low), np.subtract(high, low), 1), 0, 1)
    scaled: np.ndarray = wide.astype(np.float32)
    return scaled


def _fitted(scan: Scan, shape: Location) -> Scan:
    """Cropped or padded to the shape around the centre; what is odd is cut from, or added to, the end of an axis."""
    values = np.full((len(scan.values), *shape), scan.values.min(), scan.values.dtype)
    starts, taken, placed = [], [slice(None)], [slice(None)]
    for side, wanted in zip(scan.values.shape[1:], shape, strict=True):
        start = (side - wanted) // 2 if side >= wanted else -((wanted - side) // 2)
        common = min(side, wanted)
        starts.append(start)
        taken.append(slice(max(0, start), max(0, start) + common))
        placed.append(slice(max(0, -start), max(0, -start) + common))
    values[tuple(placed)] = scan.values[tuple(taken)]
    step = np.eye(4)
    step[:3, 3] = starts
    return replace(scan, values=values, index_to_world=scan.index_to_world @ step)
