import functools
import io
import re
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from trimesh.exchange import obj, off, ply, stl

from fer_cli.data.formats.registry import MAX_VOXELS, SUFFIXES, GreyError, Grid, Mesh, PointCloud, read_shape
from fer_cli.errors import InputError

PYRAMID = b"OFF\n5 5 8\n0 0 0\n4 0 0\n4 2 0\n0 2 0\n2 1 3\n4 0 3 2 1\n3 0 1 4\n3 1 2 4\n3 2 3 4\n3 3 0 4\n"


def read_grid(content: bytes, name: str) -> Grid:
    shape = read_shape(content, name)
    assert isinstance(shape, Grid)
    return shape


def binvox(occupancy: np.ndarray, *, translate: str = "0 0 0", scale: str = "1") -> bytes:
    """Written from the format's description: x slowest, then z, y fastest; runs of at most 255."""
    size_x, size_y, size_z = occupancy.shape
    values = [occupancy[x, y, z] for x in range(size_x) for z in range(size_z) for y in range(size_y)]
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value and runs[-1][1] < 255:
            runs[-1][1] += 1
        else:
            runs.append([int(value), 1])
    header = f"#binvox 1\ndim {size_x} {size_z} {size_y}\ntranslate {translate}\nscale {scale}\ndata\n"
    return header.encode() + bytes(number for run in runs for number in run)


def mat(**variables: object) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=True)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def occupancy() -> np.ndarray:
    return (np.random.default_rng(3).random((8, 4, 2)) < 0.4).astype(np.uint8)


def test_binvox_is_read_in_its_own_voxel_order(occupancy: np.ndarray) -> None:
    grid = read_grid(binvox(occupancy, translate="-1 2.5 10", scale="16"), "shape.binvox")
    np.testing.assert_array_equal(grid.occupancy, occupancy)
    # Eight voxels along the longest side, which measures 16: each measures 2, and the first is centred 1 inside.
    np.testing.assert_array_equal(grid.index_to_world @ [0, 0, 0, 1], [0, 3.5, 11, 1])
    np.testing.assert_array_equal(grid.index_to_world @ [7, 3, 1, 1], [14, 9.5, 13, 1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"#binvox", b"binvox", "not a binvox file; it begins with"),
        (b"data\n", b"", "has no line 'data'"),
        (b"dim 8 2 4", b"dim 8 2", "header does not parse"),
        (b"dim 8 2 4", b"dim eight 2 4", "header does not parse: .*eight"),
        (b"dim 8 2 4", b"dim 0 2 4", "a grid of 0×4×2 voxels"),
        (b"dim 8 2 4", b"dim -8 -2 4", "a grid of -8×4×-2 voxels"),
        (b"dim 8 2 4", b"dim 8 2 5", "the runs cover 64 voxels, but 8×5×2 are 80"),
        (b"dim 8 2 4", b"dim 4 2 4", "the runs cover 64 voxels, but 4×4×2 are 32"),
        (b"dim 8 2 4", b"dim 100000 100000 100000", f"expected 1 to {MAX_VOXELS}"),
        (b"scale 1", b"scale 0", "scale 0 make no grid"),
        (b"scale 1", b"scale nan", "scale nan make no grid"),
        (b"translate 0 0 0", b"translate 0 inf 0", r"translate \(0, inf, 0\)"),
        (b"translate 0 0 0", b"translate 0 0", "make no grid"),
    ],
)
def test_damaged_binvox_header_is_named(occupancy: np.ndarray, old: bytes, new: bytes, message: str) -> None:
    content = binvox(occupancy)
    assert old in content
    with pytest.raises(InputError, match=message):
        read_shape(content.replace(old, new), "shape.binvox")


def test_damaged_binvox_runs_are_named(occupancy: np.ndarray) -> None:
    content = binvox(occupancy)
    with pytest.raises(InputError, match="the last run is cut off"):
        read_shape(content[:-1], "shape.binvox")
    with pytest.raises(InputError, match="the runs cover 255 voxels, but 8×4×2 are 64"):
        read_shape(content[: content.index(b"data\n") + 5] + b"\1\xff", "shape.binvox")
    with pytest.raises(InputError, match="a voxel has the value 7"):
        read_shape(content[: content.index(b"data\n") + 5] + b"\7\x40", "shape.binvox")
    with pytest.raises(InputError, match="not one of 8×4×2 voxels is occupied"):
        read_shape(content[: content.index(b"data\n") + 5] + b"\0\x40", "shape.binvox")
    with pytest.raises(InputError, match="the runs cover 0 voxels"):
        read_shape(content[: content.index(b"data\n") + 5], "shape.binvox")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float64", "bool"])
def test_mat_and_npy_hold_the_grid(occupancy: np.ndarray, dtype: str) -> None:
    array = occupancy.astype(dtype)
    for content, name in (
        (mat(instance=array), "a.mat"),
        (npy(array), "a.npy"),
        (npy(np.asfortranarray(array)), "A.NPY"),
    ):
        grid = read_grid(content, name)
        np.testing.assert_array_equal(grid.occupancy, occupancy)
        np.testing.assert_array_equal(grid.index_to_world, np.eye(4))


def test_a_grid_of_more_than_two_values_is_not_made_binary() -> None:
    values = np.array([0.0, 0.5, 0.51, 1.0], dtype=np.float32).reshape(4, 1, 1)
    with pytest.raises(GreyError, match=r"p\.npy: holds intensities \(0 to 1\).*--kind intensity.*--threshold"):
        read_grid(npy(values), "p.npy")
    assert read_grid(npy(np.where(values > 0.5, np.float32(0.7), 0)), "p.npy").occupancy.ravel().tolist() == [
        0,
        0,
        1,
        1,
    ]


def test_damaged_mat_is_named(occupancy: np.ndarray) -> None:
    for content, message in [
        (b"garbage" * 40, "not a readable MATLAB 5 file"),
        (mat(instance=occupancy)[:-20], "not a readable MATLAB 5 file"),
        (mat(voxels=occupancy), "holds 'voxels', expected 'instance'"),
        (mat(instance=occupancy[0]), "'instance' is uint8 4×2, expected numbers on three axes"),
        (mat(instance=np.array([["a"]], dtype=object)), "'instance' is cell"),
        (mat(instance=occupancy * np.nan), "a voxel is nan"),
        (mat(instance=occupancy * 1j), "complex"),
        (mat(instance=occupancy * 0), "not one of 8×4×2 voxels is occupied"),
    ]:
        with pytest.raises(InputError, match=message):
            read_shape(content, "shape.mat")


def test_mat_that_inflates_is_refused(occupancy: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_cli.data.formats.matlab.MAX_INFLATED", 8000)
    with pytest.raises(InputError, match="grow to more than 8000; refused"):
        read_shape(mat(instance=np.zeros((20, 40, 80), np.uint8)), "shape.mat")


def test_damaged_npy_is_named(occupancy: np.ndarray) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1, 1), np.uint8)) | {"shape": (10**6, 10**6, 10**6)}
    promise = io.BytesIO()
    np.lib.format.write_array_header_1_0(promise, header)
    for content, message in [
        (b"garbage", "not a readable .npy file"),
        (npy(occupancy)[:-1], "holds 63 bytes of voxels, expected 64"),
        (npy(occupancy[0]), "holds uint8 4×2, expected numbers on three axes"),
        (npy(occupancy.astype("U1")), "holds <U1 8×4×2"),
        (npy(occupancy.astype(complex)), "holds complex128"),
        (npy(np.where(occupancy, np.inf, 0)), "a voxel is inf"),
        (promise.getvalue(), "a grid of 1000000×1000000×1000000 voxels"),
    ]:
        with pytest.raises(InputError, match=message):
            read_shape(content, "shape.npy")
    stream = io.BytesIO()
    np.save(stream, np.array([[[{}]]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds object 1×1×1"):
        read_shape(stream.getvalue(), "shape.npy")


def test_unknown_suffix_lists_the_known_ones() -> None:
    for name in ("chair.doc", "chair", ".off"):
        with pytest.raises(
            InputError, match=re.escape(f"{name}: not a format that fer reads; known are {SUFFIXES[0]}, ")
        ):
            read_shape(b"OFF", name)


def written(mesh: trimesh.Trimesh) -> dict[str, bytes]:
    """A mesh in every format of meshes, by trimesh's writers, and by the formats' descriptions where it has none."""
    big = ply.export_ply(mesh, encoding="binary").replace(b"binary_little_endian", b"binary_big_endian")
    start = big.index(b"end_header\n") + 11
    vertices, faces = mesh.vertices.astype(">f4").tobytes(), np.zeros(len(mesh.faces), [("n", "u1"), ("v", ">i4", 3)])
    faces["n"], faces["v"] = 3, mesh.faces
    return {
        "a.off": off.export_off(mesh).encode(),
        "a.obj": obj.export_obj(mesh).encode(),
        "b.obj": "".join(
            [f"v {x!r} {y!r} {z!r}\n" for x, y, z in mesh.vertices.tolist()]
            + [f"f {a}/1 {b}/2 {c - len(mesh.vertices)}\n" for a, b, c in (mesh.faces + np.array([1, 1, 0])).tolist()]
        ).encode(),
        "a.stl": stl.export_stl(mesh),
        "b.stl": stl.export_stl_ascii(mesh).encode(),
        "a.ply": ply.export_ply(mesh, encoding="ascii"),
        "b.ply": ply.export_ply(mesh, encoding="binary"),
        "c.ply": big[:start] + vertices + faces.tobytes(),
        "a.glb": mesh.export(file_type="glb"),
    }


def written_points(points: np.ndarray) -> dict[str, bytes]:
    """Points in every format of points."""
    text = "".join(f"{x!r} {y!r} {z!r}\n" for x, y, z in points.tolist())
    axes = "".join(f"property double {axis}\n" for axis in "xyz")
    header = f"FIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nWIDTH {len(points)}\nHEIGHT 1\nDATA "
    plain = points.T.tobytes()
    literals = b"".join(bytes([len(plain[i : i + 32]) - 1]) + plain[i : i + 32] for i in range(0, len(plain), 32))
    sizes = np.array([len(literals), len(plain)], "<u4").tobytes()
    return {
        "a.xyz": text.encode(),
        "p.obj": "".join(f"v {line}\n" for line in text.splitlines()).encode(),
        "p.ply": f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{axes}end_header\n{text}".encode(),
        "a.pcd": f"{header}ascii\n{text}".encode(),
        "b.pcd": f"{header}binary\n".encode() + points.tobytes(),
        "c.pcd": f"{header}binary_compressed\n".encode() + sizes + literals,
    }


def random_mesh(seed: int, n_vertices: int, n_faces: int) -> trimesh.Trimesh:
    """Every vertex is in a face, since not every format can store others; eighths are exact in single precision."""
    rng = np.random.default_rng(seed)
    corners = np.concatenate([np.arange(n_vertices), rng.integers(0, n_vertices, 3 * n_faces)])
    faces = corners[: len(corners) // 3 * 3].reshape(-1, 3)
    vertices = rng.integers(-(2 ** rng.integers(1, 21)), 2**20, (n_vertices, 3)) / 8
    return trimesh.Trimesh(vertices, faces, process=False)


def in_order(triangles: np.ndarray) -> np.ndarray:
    rows = triangles.reshape(len(triangles), -1)
    return rows[np.lexsort(rows.T)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_mesh_written_in_any_format_is_read_back_equal(seed: int, n_vertices: int, n_faces: int) -> None:
    mesh = random_mesh(seed, n_vertices, n_faces)
    for name, content in written(mesh).items():
        shape = read_shape(content, name)
        assert isinstance(shape, Mesh), name
        np.testing.assert_array_equal(
            in_order(shape.vertices[shape.faces]), in_order(mesh.vertices[mesh.faces]), err_msg=name
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), min_size=1, max_size=40))
def test_points_written_in_any_format_are_read_back_equal(rows: list[tuple[float, ...]]) -> None:
    points = np.array(rows)
    for name, content in written_points(points).items():
        shape = read_shape(content, name)
        assert isinstance(shape, PointCloud), name
        np.testing.assert_array_equal(shape.points, points, err_msg=name)


def test_oddities_of_damaged_files_are_not_warned_of(occupancy: np.ndarray) -> None:
    odd = npy(occupancy).replace(b"(8, 4, 2)", b"(8, 4,2if")
    assert odd != npy(occupancy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match="not a readable"):
            read_shape(odd, "a.npy")
    assert not caught


def test_signalling_nan_is_left_out_without_a_warning() -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    shape = read_shape(header.encode() + np.array([0x7F800001, 0, 0, 0, 0, 0], "<u4").tobytes(), "a.ply")
    assert isinstance(shape, PointCloud)
    assert shape.points.tolist() == [[0, 0, 0]]


def test_names_of_variables_are_shown_on_one_line(occupancy: np.ndarray) -> None:
    content = io.BytesIO()
    savemat(content, {"one_two": occupancy})
    with pytest.raises(InputError, match=r"a\.mat: holds 'one\\ntwo', expected 'instance'"):
        read_shape(content.getvalue().replace(b"one_two", b"one\ntwo"), "a.mat")


@functools.cache
def originals() -> dict[str, bytes]:
    grid = np.arange(64).reshape(8, 4, 2).astype(np.uint8) % 3 == 0
    grids = {"a.binvox": binvox(grid), "a.mat": mat(instance=grid), "a.npy": npy(grid), "p.off": PYRAMID}
    return written(random_mesh(5, 7, 5)) | written_points(np.arange(15).reshape(5, 3) / 8) | grids


NUMBERS = [
    b"0",
    b"-1",
    b"1000000000",
    b"99999999999999999999",
    b"nan",
    b"inf",
    b"1e308",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_are_read_or_refused(data: st.DataObject) -> None:
    """A few, unlike those of test_hostile in each run; `make fuzz` tries more."""
    name = data.draw(st.sampled_from(sorted(originals())))
    content = bytearray(originals()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 3))
        match data.draw(st.sampled_from(["insert", "number", "flip", "cut", "repeat"])):
            case "insert":
                content[place : place + length] = data.draw(
                    st.binary(max_size=4) | st.sampled_from([b" ", b"\n", b"#", b"/"])
                )
            case "number":
                found = [match.span() for match in re.finditer(rb"\d+", content)]
                start, end = data.draw(st.sampled_from(found)) if found else (place, place)
                content[start:end] = data.draw(st.sampled_from(NUMBERS))
            case "flip" if place < len(content):
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case _:
                content[place:place] = content[place : place + 40 * length]
    message = f"{name}: read"
    try:
        read_shape(bytes(content), name)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES), st.binary(max_size=200))
def test_garbage_and_wrong_suffixes_are_refused(suffix: str, other: str, garbage: bytes) -> None:
    """Text of bare numbers apart, which XYZ takes for points whatever it was, nothing passes for another format."""
    wrong = originals().get(f"a{other}", b"") if other != suffix else b""
    for content in (garbage, wrong):
        try:
            shape = read_shape(content, f"a{suffix}")
        except InputError:
            continue
        assert isinstance(shape, PointCloud)
        assert suffix in (".xyz", ".txt")


PROMISES = {
    "a.off": b"OFF\n1000000000 1000000000 0\n0 0 0\n",
    "a.obj": b"v 0 0 0\nf 1 1 1000000000\n",
    "a.stl": bytes(80) + np.uint32(10**9).tobytes() + bytes(50),
    "a.ply": b"ply\nformat ascii 1.0\nelement vertex 1000000000\nproperty float x\nproperty float y\nproperty float z\n"
    b"end_header\n1 2 3\n",
    "b.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 1\nproperty list uint int vertex_indices\nend_header\n"
    + bytes(12)
    + np.uint32(10**9).tobytes(),
    "c.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000\nproperty list uchar float x\n"
    b"property float y\nend_header\n\0",
    "a.pcd": b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1000000000\nDATA ascii\n1 2 3\n",
    "b.pcd": b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1000000000\nDATA binary\n\0\0\0",
    "a.xyz": b"1000000000\n1 2 3\n",
    "a.binvox": b"#binvox 1\ndim 1000000 1000000 1000000\ndata\n\1\1",
}


HEADERS = {
    ".off": b"OFF\n9 9 9\n",
    ".obj": b"v ",
    ".xyz": b"",
    ".ply": b"ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nproperty float y\nproperty float z\n"
    b"end_header\n",
    ".pcd": b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 9\nDATA ascii\n",
}


@pytest.mark.parametrize("suffix", HEADERS)
def test_what_is_full_of_no_numbers_is_refused_at_the_first(suffix: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"'x' at byte .* is not a number"):
            read_shape(HEADERS[suffix] + b"x " * 2_000_000, f"a{suffix}")
        # Room for numbers is reserved, but not used: more than that would be lists of what was found.
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("numbers", [100, 1 << 16, (1 << 16) + 1, 200_000])
def test_any_number_of_unusual_numbers_is_read(numbers: int) -> None:
    cloud = read_shape(b"1e30 0.25 1e-30\n# 1e30\n" * numbers, "a.xyz")
    assert isinstance(cloud, PointCloud)
    assert cloud.points.shape == (numbers, 3)
    assert (cloud.points == [1e30, 0.25, 1e-30]).all()


@pytest.mark.parametrize("name", PROMISES)
def test_promise_of_a_billion_is_refused_without_the_memory_for_it(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"^{re.escape(name)}: .*"):
            read_shape(PROMISES[name], name)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000  # trimesh's own modules take a third of it
    finally:
        tracemalloc.stop()


@pytest.mark.real_data
def test_every_real_archive_is_read_without_loss(shared_data) -> None:
    """The files at hand have been seen to be sound: each must be read, and meshes as trimesh reads them."""
    for archive, suffix, count in (
        ("modelnet10-binvox", ".binvox", 40),
        ("modelnet10-off", ".off", 12),
        ("psb12-off", ".off", 12),
    ):
        with zipfile.ZipFile(shared_data / f"{archive}.zip") as opened:
            members = sorted(
                m.filename for m in opened.infolist() if m.filename.endswith(suffix) and m.file_size < 200_000
            )
            for member in members[:: max(1, len(members) // count)]:
                shape = read_shape(opened.read(member), member)
                if isinstance(shape, Mesh):
                    expected = trimesh.exchange.off.load_off(io.BytesIO(opened.read(member)))
                    np.testing.assert_array_equal(shape.vertices, expected["vertices"])
                    np.testing.assert_array_equal(shape.faces, expected["faces"])
                else:
                    assert shape.occupancy.shape == (30, 30, 30)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(8, 4, 2), (1, 1, 3), (2, 1, 5), (1, 1, 1)])
def test_mat_is_read_as_scipy_reads_it(shape: tuple[int, int, int], compressed: bool) -> None:
    generator = np.random.default_rng(1)
    for dtype in ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        values = generator.integers(0, 2, shape).astype(dtype)
        values[0, 0, 0] = 1
        content = io.BytesIO()
        savemat(content, {"x": 3, "label": "chair", "instance": values}, do_compression=compressed)
        expected = loadmat(io.BytesIO(content.getvalue()))["instance"]
        np.testing.assert_array_equal(read_grid(content.getvalue(), "a.mat").occupancy, expected > 0.5)
