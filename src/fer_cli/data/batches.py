"""A batch of shapes → voxels and facts: one call of a worker, with the result as bytes.

A result is the same bytes wherever it is made, crosses between processes and machines, and is what the journal
keeps: compressed, a length, a JSON list with one object a shape, and the grids of all shapes, one bit a voxel.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from fer_cli.data import triangles  # noqa: F401, slow to import: once for all workers
from fer_cli.data.entries import Entry
from fer_cli.data.facts import MeshFacts, describe_mesh
from fer_cli.data.formats import ply, points, scanning  # noqa: F401, slow to import: once for all workers
from fer_cli.data.formats.registry import GreyError, Grid, Mesh
from fer_cli.data.occupancy import VoxelSettings, fill_enclosed, voxelize_shape
from fer_cli.data.oddities import extent_of
from fer_cli.data.source import close_archives, read_shape_of
from fer_cli.errors import InputError, one_line
from fer_cli.execution.workers import is_stopping

_NO_MESH = MeshFacts(-1, -1, ())
_LENGTH = struct.Struct("<I")

# The run that this process works for. A Dask worker outlives runs, and archives may change between them.
_run: str | None = None


@dataclass(frozen=True)
class VoxelizedShape:
    """A shape's grid, packed, and its facts; counts are −1 where the shape is no mesh.

    `enclosed` is 1 if the fill `solid` enclosed a voxel, 0 if none, −1 with the fill `surface`. `extent` is how many
    voxels the occupied ones span along x, y and z.
    """

    bits: bytes
    index_to_world: Float64[np.ndarray, "4 4"]
    n_faces: int
    n_open_edges: int
    n_occupied: int
    enclosed: int
    warnings: tuple[str, ...]
    extent: tuple[int, int, int]
    n_stray: int

    def occupancy(self, resolution: int) -> UInt8[np.ndarray, "x y z"]:
        """The grid, one byte a voxel."""
        bits = np.frombuffer(self.bits, np.uint8)
        return np.unpackbits(bits, count=resolution**3).reshape((resolution,) * 3)


Outcome = VoxelizedShape | str
"""What becomes of a shape: its voxels, or the reason why there are none."""


def voxelize_batch(source: Path, entries: Sequence[Entry], settings: VoxelSettings, run: str) -> bytes:
    """The encoded outcomes of some entries.

    `run` tells runs apart, so that nothing opened for an earlier one is read.
    """
    global _run
    if run != _run:
        close_archives()
        _run = run
    outcomes: list[Outcome] = []
    for entry in entries:
        if is_stopping():
            break
        try:
            outcomes.append(_voxelized(read_shape_of(source, entry), settings))
        except GreyError:
            raise  # what becomes of such grids, the user has to say
        except InputError as error:
            outcomes.append(str(error).removeprefix(one_line(f"{entry.path}: ")))
        except MemoryError:
            outcomes.append("needs more memory than there is.")
    return _encode(outcomes)


def _voxelized(shape: Any, settings: VoxelSettings) -> VoxelizedShape:
    grid = voxelize_shape(shape, replace(settings, fill="surface"))
    n_occupied = int(np.count_nonzero(grid.occupancy))
    enclosed = -1
    if settings.fill == "solid":
        n_surface, grid = n_occupied, fill_enclosed(grid)
        n_occupied = int(np.count_nonzero(grid.occupancy))
        enclosed = int(n_occupied > n_surface)
    # After the voxels, which refuse what facts are not asked of.
    facts = describe_mesh(shape) if isinstance(shape, Mesh) else _NO_MESH
    return VoxelizedShape(
        np.packbits(grid.occupancy).tobytes(),
        grid.index_to_world,
        facts.n_faces,
        facts.n_open_edges,
        n_occupied,
        enclosed,
        (() if isinstance(shape, Grid) else shape.warnings) + facts.warnings,
        extent_of(grid.occupancy),
        facts.n_stray,
    )


def _encode(outcomes: Sequence[Outcome]) -> bytes:
    described: list[dict[str, object]] = []
    grids: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, str):
            described.append({"reason": outcome})
            continue
        fields = {key: value for key, value in vars(outcome).items() if key != "bits"}
        described.append(fields | {"index_to_world": outcome.index_to_world.tolist(), "n_bytes": len(outcome.bits)})
        grids.append(outcome.bits)
    text = json.dumps(described).encode()
    return zlib.compress(b"".join([_LENGTH.pack(len(text)), text, *grids]), level=1)


def decode(content: bytes) -> list[Outcome]:
    """The outcomes that `voxelize_batch` encoded, in the order of its entries."""
    content = zlib.decompress(content)
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + length
    outcomes: list[Outcome] = []
    for fields in json.loads(content[_LENGTH.size : start]):
        if "reason" in fields:
            outcomes.append(fields["reason"])
            continue
        end = start + fields.pop("n_bytes")
        fields |= {"index_to_world": np.array(fields["index_to_world"]), "warnings": tuple(fields["warnings"])}
        fields["extent"] = tuple(fields["extent"])
        outcomes.append(VoxelizedShape(bits=content[start:end], **fields))
        start = end
    return outcomes
