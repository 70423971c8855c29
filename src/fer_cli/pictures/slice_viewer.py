"""What the page's slice viewer is given: volumes of grey values, packed, and how slices are cut and coloured.

Values are whole multiples of a step from the least value on, gzipped, as browsers can unpack.
"""

import base64
import gzip
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.slicing import Slicing
from fer_cli.pictures.planes import orientation_of
from fer_cli.pictures.slice_pictures import cursor_of
from fer_cli.pictures.slices import BLAMED, CROSS, ERROR, default_window

MOST_VALUES = 8_000_000
"""So many voxel values a page holds at most, of all volumes and channels, unless four volumes have more."""
_FINE, _COARSE = 16, 8
_LEVEL = 6


@dataclass(frozen=True)
class Steps:
    """Values as codes: value = `low` + `step` · code. Codes are at most half a step off."""

    low: float
    step: float
    codes: UInt8[np.ndarray, "x y z"] | UInt16[np.ndarray, "x y z"]


def in_steps(grid: Float[np.ndarray, "x y z"], bits: int) -> Steps:
    """A grid in the 2^`bits` steps between its least and largest value; whole numbers that fit are kept exactly."""
    low, high = float(grid.min()), float(grid.max())
    most = 2**bits - 1
    exact = high - low <= most and bool((grid == np.rint(grid)).all())
    step = 1.0 if exact else (high - low) / most or 1.0
    codes = np.rint((grid.astype(np.float64) - low) / step)
    return Steps(low, step, codes.astype(np.uint16 if bits > 8 else np.uint8))


def pack_steps(codes: UInt8[np.ndarray, "channel x y z"] | UInt16[np.ndarray, "channel x y z"]) -> str:
    """Codes as base64 of gzip, z fastest; of two bytes, all high ones come before all low ones."""
    planes = [codes] if codes.itemsize == 1 else [(codes >> 8).astype(np.uint8), codes.astype(np.uint8)]
    return base64.b64encode(gzip.compress(b"".join(plane.tobytes() for plane in planes), _LEVEL, mtime=0)).decode()


def slice_facts(diagnosis: Diagnosis, slicing: Slicing) -> dict[str, object]:
    """Volumes, planes, window, overlays and colours, as plain JSON values."""
    volume = diagnosis.input_volume
    matrix = slicing.index_to_world
    named = _named(diagnosis, slicing)
    return {
        "shape": list(volume.shape[1:]),
        "channels": len(volume),
        "spacing": None if slicing.spacing is None else list(slicing.spacing),
        "affine": None if matrix is None else matrix[:3].tolist(),
        "planes": [
            {
                "name": plane.name,
                "normal": plane.normal,
                "across": plane.across,
                "down": plane.down,
                "mirrored": list(plane.mirrored),
            }
            for plane in orientation_of(matrix).planes
        ],
        "cursor": list(cursor_of(diagnosis)),
        "windows": [list(default_window(grid)) for grid in volume],
        "volumes": [
            {"name": name, "words": words, **_packed(values, _FINE if name == "input" else _COARSE)}
            for name, words, values in named
        ],
        "boxes": [[list(span) for span in box] for box in diagnosis.blame.boxes],
        "weights": list(diagnosis.blame.weights),
        "fields": {layer: [list(map(list, axis)) for axis in axes] for layer, axes in slicing.fields.items()},
        "colours": {"blame": list(BLAMED), "error": list(ERROR), "cross": list(CROSS)},
    }


def compared_volumes(diagnosis: Diagnosis, slicing: Slicing) -> list[tuple[str, str]]:
    """Names and words of the volumes that can be compared with the input."""
    return [(name, words) for name, words, _ in _named(diagnosis, slicing)[1:]]


def _named(diagnosis: Diagnosis, slicing: Slicing) -> list[tuple[str, str, np.ndarray]]:
    """The volumes of the page with their names and words: input, local reconstruction, other layers', and two more."""
    others = {layer: v for layer, v in slicing.reconstructions.items() if layer != diagnosis.local_layer}
    room = max(0, MOST_VALUES // math.prod(diagnosis.input_volume.shape) - 4)
    kept = list(others)
    if len(kept) > room:  # as far apart as there is room for
        kept = [kept[i * len(kept) // room] for i in range(room)]
    return [
        ("input", "Input", diagnosis.input_volume),
        (
            "local",
            f"Local reconstruction, from {diagnosis.local_layer}",
            diagnosis.local_volume,
        ),
        ("class-code", f"Class-code reconstruction of {diagnosis.predicted}", diagnosis.class_code_volume),
        ("nearest", f"Nearest training sample, {diagnosis.nearest_training_sample}", diagnosis.nearest_volume),
        *((f"from-{layer}", f"Reconstruction from {layer}", others[layer]) for layer in kept),
    ]


def _packed(volume: Float[np.ndarray, "channel x y z"], bits: int) -> dict[str, object]:
    steps = [in_steps(grid, bits) for grid in volume]
    return {
        "bits": bits,
        "low": [one.low for one in steps],
        "step": [one.step for one in steps],
        "packed": pack_steps(np.stack([one.codes for one in steps])),
    }
