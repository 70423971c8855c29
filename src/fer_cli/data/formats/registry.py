"""File content → shape: meshes (OFF, OBJ, STL, PLY, GLB), clouds (PCD, XYZ), grids (binvox, `.mat`, `.npy`, `.npz`).

An OBJ, PLY or GLB file without faces is a point cloud. Axes are kept as stored in every format. What a header promises
is only ever compared with what is there, so that a false header costs no memory.

Not read: what `off`, `obj`, `ply`, `interchange`, `points` and `matlab` leave out.
"""

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fer_cli.data.formats.content import require_content, without_mark
from fer_cli.data.formats.decimals import excerpt, format_point
from fer_cli.data.formats.interchange import read_glb, read_stl
from fer_cli.data.formats.matlab import read_mat
from fer_cli.data.formats.obj import read_obj
from fer_cli.data.formats.off import read_off
from fer_cli.data.formats.unpacking import gunzip
from fer_cli.errors import InputError, first_line

MAX_VOXELS = 512**3

_HEADER_LIMIT = 4096
_PACKED = ".gz"
_MOST_UNPACKED = 24 << 20
_UNPACKED_RATIO = 200
"""So many times its size a larger file may grow to."""
_POINTS = ("points", "pointcloud", "point_cloud", "pc", "xyz", "vertices")
"""Names of arrays that are points where several might be."""


@dataclass(frozen=True)
class Mesh:
    """Triangles: `vertices` in the file's own units, `faces` as rows of `vertices`."""

    vertices: Float64[np.ndarray, "vertex 3"]
    faces: Int64[np.ndarray, "face 3"]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PointCloud:
    """Points in the file's own units; `warnings` tell what of the file is odd, as those of a mesh."""

    points: Float64[np.ndarray, "point 3"]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Voxels: 1 where occupied, else 0; `index_to_world` maps (x, y, z, 1) indices, that is voxel centres, to world."""

    occupancy: UInt8[np.ndarray, "x y z"]
    index_to_world: Float64[np.ndarray, "4 4"]


def read_shape(content: bytes, name: str) -> Mesh | PointCloud | Grid:
    """The shape that a file holds; the format is chosen by the suffix of `name`, which errors name.

    Raises InputError if the suffix is unknown, or the content is empty, truncated, damaged or no shape.
    """
    reader = _READERS.get(shape_suffix(name))
    if reader is None:
        raise InputError(f"{name}: not a format that fer reads; known are {', '.join(SUFFIXES)}.")
    require_content(content, name)
    return reader(content, name)


def shape_suffix(name: str) -> str:
    """The suffix of a name in small letters, `.off.gz` as one where it is a format that fer reads."""
    lower = name.lower()
    double = PurePath(lower.removesuffix(_PACKED)).suffix + _PACKED if lower.endswith(_PACKED) else ""
    return double if double in _READERS else PurePath(lower).suffix


def index_to_world(origin: Float64[np.ndarray, " 3"], side: float) -> Float64[np.ndarray, "4 4"]:
    """Affine map of voxel indices to world where voxel (0, 0, 0) is centred on `origin` and voxels measure `side`."""
    matrix = np.diag([side, side, side, 1.0])
    matrix[:3, 3] = origin
    return matrix


def _reads_mesh(reader: Callable[[bytes, str], tuple[Any, ...]]) -> "_Reader":
    """Reader of a format of vertices, faces and perhaps warnings; where there are no faces, the vertices are points."""

    def read(content: bytes, name: str) -> Mesh | PointCloud:
        with _numbers_of_any_kind():
            vertices, faces, *warnings = reader(content, name)
        if not len(faces):
            return cloud_of(vertices, name)
        _require_finite(vertices, "vertex", name)
        wrong = (faces < 0) | (faces >= len(vertices))
        if wrong.any():
            raise InputError(f"{name}: face {int(wrong.any(axis=1).argmax())} names a vertex that does not exist.")
        return Mesh(vertices, faces, *warnings)

    return read


def _reads_points(reader: Callable[[bytes, str], np.ndarray]) -> "_Reader":
    def read(content: bytes, name: str) -> PointCloud:
        with _numbers_of_any_kind():
            points = reader(content, name)
        return cloud_of(points, name)

    return read


def _reads_packed(reader: "_Reader") -> "_Reader":
    """Reader of a format that is compressed by gzip."""

    def read(content: bytes, name: str) -> Mesh | PointCloud | Grid:
        most = min(MAX_VOXELS, max(_MOST_UNPACKED, _UNPACKED_RATIO * len(content)))
        unpacked = gunzip(content, name)(most + 1)
        if len(unpacked) > most:
            raise InputError(f"{name}: {len(content)} bytes that grow to more than {most}, refused as a bomb.")
        require_content(unpacked, name)
        return reader(unpacked, name)

    return read


def cloud_of(points: np.ndarray, name: str) -> PointCloud:
    """The points with a place: a point of which a coordinate is NaN has none, and is left out and counted.

    Raises InputError if no point is left, or a coordinate is infinite.
    """
    has_place = ~np.isnan(points).any(axis=1)
    left_out = len(points) - int(has_place.sum())
    if left_out == len(points):
        raise InputError(f"{name}: not one of {len(points)} points has a place.")
    points = points[has_place] if left_out else points
    _require_finite(points, "point", name)
    return PointCloud(points, (f"{left_out} points without a place (NaN) are left out",) if left_out else ())


def _numbers_of_any_kind() -> np.errstate:
    """Of NaN and overflow NumPy would only warn; what comes of them is looked for once all is read."""
    return np.errstate(invalid="ignore", over="ignore")


def _require_finite(points: np.ndarray, kind: str, name: str) -> None:
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise InputError(f"{name}: {kind} {bad} is at {format_point(points[bad])}, expected finite coordinates.")


def _read_binvox(content: bytes, name: str) -> Grid:
    """Runs in (x, z, y) order, y fastest; voxels are cubes, the longest side measures `scale`, `translate` is a corner.

    Some files, ModelNet10's among them, centre the shape in the cube but record the corner of the shape's own
    bounding box; nothing in the file tells, and the header is taken at its word.
    """
    content = without_mark(content)
    if not content.startswith(b"#binvox"):
        raise InputError(f"{name}: not a binvox file; it begins with {excerpt(content)}.")
    end = content.find(b"\ndata", 0, _HEADER_LIMIT)
    start = content.find(b"\n", end + 1, end + 8) + 1
    if end < 0 or start < 1:
        raise InputError(f"{name}: the binvox header has no line 'data'.")
    fields = {words[0]: words[1:] for line in content[:end].splitlines() if (words := line.split())}
    try:
        size_x, size_z, size_y = (int(word) for word in fields.get(b"dim", []))
        corner = np.array([float(word) for word in fields.get(b"translate", [0, 0, 0])])
        (scale,) = (float(word) for word in fields.get(b"scale", [1]))
    except ValueError:
        found = {
            key.decode(errors="replace"): b" ".join(words).decode(errors="replace") for key, words in fields.items()
        }
        raise InputError(f"{name}: the binvox header does not parse: {found}.") from None
    if corner.shape != (3,) or not (np.isfinite(corner).all() and 0 < scale < np.inf):
        raise InputError(f"{name}: translate {format_point(corner)} and scale {scale:g} make no grid.")
    n_voxels = checked_size((size_x, size_y, size_z), name)
    if (len(content) - start) % 2:
        raise InputError(f"{name}: the last run is cut off: {len(content) - start} bytes do not make pairs.")
    runs = np.frombuffer(content, np.uint8, offset=start).reshape(-1, 2)
    covered = int(runs[:, 1].sum(dtype=np.int64))
    if covered != n_voxels:
        raise InputError(f"{name}: the runs cover {covered} voxels, but {size_x}×{size_y}×{size_z} are {n_voxels}.")
    if runs[:, 0].max() > 1:
        raise InputError(f"{name}: a voxel has the value {runs[:, 0].max()}, expected 0 or 1.")
    occupancy = np.repeat(runs[:, 0], runs[:, 1]).reshape(size_x, size_z, size_y).transpose(0, 2, 1)
    side = scale / max(size_x, size_y, size_z)
    return _as_grid(occupancy, name, index_to_world(corner + side / 2, side))


def _read_mat(content: bytes, name: str) -> Grid:
    """3DShapeNets: a numeric array `instance` of three axes."""
    return _as_grid(read_mat(content, "instance", MAX_VOXELS, name), name, np.eye(4))


def _read_npy(content: bytes, name: str) -> Grid:
    """A plain array of three axes; what exceeds a half is occupied."""
    return _as_grid(read_array(content, name, (3,)), name, np.eye(4))


def read_array(content: bytes, name: str, axes: Sequence[int] | None) -> np.ndarray:
    """The array of a .npy file. It has numbers on one of the given counts of axes; with None any plain array will do.

    Raises InputError for any other, and for what is damaged, truncated or larger than a volume.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _no_warnings():
            shape, is_fortran, dtype = read_header(stream)
    except Exception as error:  # NumPy parses the header as Python and lets SyntaxError and TokenError through
        raise InputError(f"{name}: not a readable .npy file: {first_line(error)}.") from None
    if axes is not None and (dtype.kind not in "biuf" or len(shape) not in axes):
        counts = " or ".join({3: "three", 4: "four"}[count] for count in axes)
        raise InputError(f"{name}: holds {dtype} {'×'.join(map(str, shape))}, expected numbers on {counts} axes.")
    if dtype.hasobject:
        raise InputError(f"{name}: holds Python objects, expected numbers.")
    n_values = checked_size(shape, name)
    found = len(content) - stream.tell()
    if found != n_values * dtype.itemsize:
        raise InputError(f"{name}: holds {found} bytes of voxels, expected {n_values * dtype.itemsize}.")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


def _as_grid(values: np.ndarray, name: str, matrix: np.ndarray) -> Grid:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: holds {values.dtype} values, expected real numbers.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name}: a voxel is {values[~np.isfinite(values)][0]}, expected finite numbers.")
    require_mask(values, name)
    occupancy = np.ascontiguousarray(values != 0).view(np.uint8)
    if not occupancy.any():
        raise InputError(f"{name}: not one of {'×'.join(map(str, occupancy.shape))} voxels is occupied.")
    return Grid(occupancy, matrix)


class GreyError(InputError):
    """A grid of more than two values, where it was not said whether it is occupancy or intensity."""


def require_mask(values: np.ndarray, name: str) -> None:
    """Raise GreyError unless a grid holds 0 and one larger value at most."""
    low, high = values.min(), values.max()
    if low < 0 or not ((values == 0) | (values == high)).all():
        raise GreyError(
            f"{name}: holds intensities ({low:g} to {high:g}), which are not made binary unasked. Give fer voxelize "
            "--kind intensity to keep them, or --threshold T to make voxels of at least T occupied."
        )


def checked_size(shape: tuple[int, ...], name: str) -> int:
    """Number of voxels of a grid. Raises InputError if there are none or more than any grid needs."""
    n_voxels = math.prod(shape)
    if not 0 < n_voxels <= MAX_VOXELS or min(shape, default=0) < 0:
        size = "×".join(map(str, shape))
        raise InputError(f"{name}: a grid of {size} voxels, expected 1 to {MAX_VOXELS} in all.")
    return n_voxels


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Python and scipy warn of oddities in a damaged file that the error, if it is one, names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# The compiled loops of these need Numba, which takes a third of a second to import.


def _read_ply(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    from fer_cli.data.formats.ply import read_ply

    return read_ply(content, name)


def _read_pcd(content: bytes, name: str) -> np.ndarray:
    from fer_cli.data.formats.points import read_pcd

    return read_pcd(content, name)


def _read_xyz(content: bytes, name: str) -> np.ndarray:
    from fer_cli.data.formats.points import read_xyz

    return read_xyz(content, name)


def _read_npz(content: bytes, name: str) -> Grid | PointCloud:
    """The only array of three axes, as a grid; or points, the only array of rows of three, or the only one named so."""
    arrays = read_arrays(content, name)
    grids = [array for array in arrays.values() if array.ndim == 3 and array.dtype.kind in "biuf"]
    if len(grids) == 1:
        return _as_grid(grids[0], name, np.eye(4))
    rows = {key: array for key, array in arrays.items() if array.ndim == 2 and array.shape[1:] == (3,)}
    rows = {key: array for key, array in rows.items() if array.dtype.kind == "f"}
    named = [array for key, array in rows.items() if key in _POINTS] or list(rows.values())
    if grids or len(named) != 1:
        listed = ", ".join(f"{key} {'×'.join(map(str, array.shape))}" for key, array in arrays.items())
        raise InputError(f"{name}: holds {listed[:200] or 'no array'}; expected one grid, or points (point, 3).")
    return cloud_of(named[0].astype(np.float64), name)


def read_arrays(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name. Raises InputError if it is damaged, or larger than volumes are."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > 8 * MAX_VOXELS:
                raise InputError(f"{name}: its arrays would grow to more than {8 * MAX_VOXELS} bytes.")
            return {
                member.filename.removesuffix(".npy"): read_array(
                    archive.read(member), f"{name}/{member.filename}", None
                )
                for member in members
                if member.filename.endswith(".npy")
            }
    except InputError:
        raise
    except Exception as error:  # zipfile lets zlib.error, struct.error, EOFError and NotImplementedError through
        raise InputError(f"{name}: not a readable .npz file: {first_line(error)}.") from None


_Reader = Callable[[bytes, str], Mesh | PointCloud | Grid]

_READERS: dict[str, _Reader] = {
    ".off": _reads_mesh(read_off),
    ".obj": _reads_mesh(read_obj),
    ".stl": _reads_mesh(read_stl),
    ".ply": _reads_mesh(_read_ply),
    ".glb": _reads_mesh(read_glb),
    ".pcd": _reads_points(_read_pcd),
    ".xyz": _reads_points(_read_xyz),
    ".txt": _reads_points(_read_xyz),
    ".binvox": _read_binvox,
    ".mat": _read_mat,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
_READERS |= {
    f"{suffix}{_PACKED}": _reads_packed(_READERS[suffix]) for suffix in (".off", ".obj", ".stl", ".ply", ".xyz")
}
SUFFIXES = tuple(_READERS)
GRID_SUFFIXES = (".binvox", ".mat", ".npy", ".npz")
"""Those that hold grids."""
