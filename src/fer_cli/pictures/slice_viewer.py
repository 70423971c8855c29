"""What the page's slice viewer is given: volumes of grey values, packed, and how slices are cut and coloured.

Values are whole multiples of a step from the least value on, gzipped, as browsers can unpack.
"""

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.slicing import Slicing
from fer_cli.pictures.planes import orientation_of
from fer_cli.pictures.slice_pictures import cursor_of
from fer_cli.pictures.slices import BLAMED, CROSS, ERROR, default_window

MOST_PACKED = 4_000_000
"""So many characters of packed volumes a page holds at most, unless the four that it always holds are larger."""
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


def slice_facts(diagnosis: Diagnosis, slicing: Slicing) -> dict[str, Any]:
    """Volumes, planes, window, overlays and colours, as plain JSON values."""
    volume = diagnosis.input_volume
    matrix = diagnosis.world
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
        "volumes": _volumes(diagnosis, slicing),
        "boxes": [[list(span) for span in box] for box in diagnosis.places.boxes],
        "weights": list(diagnosis.places.weights),
        "fields": {layer: [list(map(list, axis)) for axis in axes] for layer, axes in slicing.fields.items()},
        "colours": {"blame": list(BLAMED), "error": list(ERROR), "cross": list(CROSS)},
    }


def _volumes(diagnosis: Diagnosis, slicing: Slicing) -> list[dict[str, Any]]:
    """Input, local and class-code reconstruction, nearest training sample, and other layers that there is room for."""
    nearest = f"Nearest training sample, {diagnosis.nearest_training_sample}"
    found = [
        _packed("input", "Input", diagnosis.input_volume, _FINE),
        _packed("local", f"Local reconstruction, from {diagnosis.local_layer}", diagnosis.local_volume),
        _packed("class-code", f"Class-code reconstruction of {diagnosis.predicted}", diagnosis.class_code_volume),
        _packed("nearest", nearest, diagnosis.nearest_volume),
    ]
    room = MOST_PACKED - sum(len(volume["packed"]) for volume in found)
    for layer, values in slicing.reconstructions.items():
        if layer != diagnosis.local_layer:
            volume = _packed(f"from-{layer}", f"Reconstruction from {layer}", values)
            if len(volume["packed"]) <= room:
                found.append(volume)
                room -= len(volume["packed"])
    return found


def _packed(name: str, words: str, volume: Float[np.ndarray, "channel x y z"], bits: int = _COARSE) -> dict[str, Any]:
    steps = [in_steps(grid, bits) for grid in volume]
    return {
        "name": name,
        "words": words,
        "bits": bits,
        "low": [one.low for one in steps],
        "step": [one.step for one in steps],
        "packed": pack_steps(np.stack([one.codes for one in steps])),
    }
