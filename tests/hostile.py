"""Hostile files: for every reader a harness (bytes → what becomes of them), files that it reads, and damage to them.

Shared by `test_hostile`, which does a little of it in CI, and `fuzz`, which does much of it under limits of time and
memory.
"""

import contextlib
import copy
import functools
import gzip
import hashlib
import io
import json
import random
import re
import struct
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import nibabel
import nrrd
import numpy as np
import tifffile
import trimesh
from scipy.io import savemat
from trimesh.exchange import obj, off, ply, stl

from fer_cli.calibration.confidence import load_calibration
from fer_cli.calibration.temperature import load_evidence
from fer_cli.calibration.typicality import load_typicality
from fer_cli.data.batches import _voxelized
from fer_cli.data.collections import open_collection
from fer_cli.data.containers import read_file
from fer_cli.data.dataset import open_voxels
from fer_cli.data.formats.dicom import read_dicom, series_of
from fer_cli.data.formats.registry import SUFFIXES, PointCloud, read_shape
from fer_cli.data.formats.scans import read_scan
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.point_sets import close_point_sets, point_entries, point_set_row, read_points
from fer_cli.data.preparation import PreparationSettings, prepare
from fer_cli.data.source import close_archives, list_entries
from fer_cli.data.tables import list_table
from fer_cli.errors import FerError
from fer_cli.network.checkpoint import load_checkpoint
from fer_cli.network.weights import load_network
from fer_cli.reports.info import describe
from fer_cli.storage.artifact import DIGEST, Artifact, open_artifact
from fer_cli.storage.declarations import Format
from fer_cli.storage.identity import content_bytes
from fer_cli.storage.schema import FORMATS
from slices import dicom_frames, dicom_slice

FIXTURES = Path(__file__).parent / "fixtures"
READ, REFUSED = "read", "refused"

Harness = Callable[[bytes, Path], None]
"""Reads content, in a folder where it may write; raises a FerError to refuse it."""


def outcome(reader: str, content: bytes, folder: Path) -> str:
    """`read`, `refused`, or else the fault: a traceback, a warning, or an error of several lines."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            READERS[reader](content, folder)
    except FerError as error:
        message = str(error)
        # The name of an archive's member, which a message may name, takes 64 KiB at most.
        sound = len(message.splitlines()) == 1 and len(message) < (70_000 if reader == "zip" else 2000)
        return REFUSED if sound else f"message of several lines or too long: {message[:2000]!r}"
    except (Exception, RecursionError):
        return traceback.format_exc()
    return READ


def _reads_shape(suffix: str) -> Harness:
    def read(content: bytes, folder: Path) -> None:
        _voxelized(read_shape(content, f"a{suffix}"), VoxelSettings(8, 1, "solid"))

    return read


def _read_mat_of_7_3(content: bytes, folder: Path) -> None:
    """With the temporary file in the folder."""
    with mock.patch.object(tempfile, "TemporaryDirectory", return_value=contextlib.nullcontext(str(folder))):
        _reads_shape(".mat")(content, folder)


def _read_zip(content: bytes, folder: Path) -> None:
    """The archive itself, and as one of a folder."""
    path = folder / "a.zip"
    path.write_bytes(content)
    refused = None
    try:
        for source in (folder, path):
            try:
                entries = list_entries(source).entries
            except FerError as error:
                entries, refused = (), error
            for entry in entries:
                try:
                    read_shape(read_file(source, entry.path), entry.name + ".off")
                except FerError as error:
                    refused = error
    finally:
        close_archives()
    if refused:
        raise refused


def _reads_scan(suffix: str) -> Harness:
    def read(content: bytes, folder: Path) -> None:
        scan = read_scan(content, f"a{suffix}")
        settings = PreparationSettings(kind="intensity", shape=(4, 4, 4), scaling="zscore")
        if scan.is_placed:
            settings = replace(settings, orientation="RAS")
        prepare(scan, settings, "a")

    return read


def _read_slice(content: bytes, folder: Path) -> None:
    """A slice among two that are sound."""
    series_of(content)
    read_dicom([("0", _sound_slice(0)), ("1", content), ("2", _sound_slice(2))], "a")


_sound_slice = functools.cache(dicom_slice)


def _read_points(content: bytes, folder: Path) -> None:
    path = folder / "a.h5"
    path.write_bytes(content)
    close_point_sets()
    for entry in point_entries(path, "a.h5")[:2]:
        row = point_set_row(entry.path)
        assert row is not None
        _voxelized(PointCloud(read_points(path, *row)), VoxelSettings(8, 1, "surface"))


def _read_collection(content: bytes, folder: Path) -> None:
    path = folder / "a.npz"
    path.write_bytes(content)
    collection = open_collection(path)
    if collection is not None:
        for _ in collection.scans(collection.entries):
            pass


def _read_table(content: bytes, folder: Path) -> None:
    path = folder / "a.csv"
    path.write_bytes(content)
    (folder / "a.npy").touch()
    list_table(folder, path, test_fraction=0.5)


def _reads_artifact(form: Format) -> Harness:
    load = {
        "fer-voxels": _load_voxels,
        "fer-model": load_network,
        "fer-codebook": _load_codebook,
        "fer-calibration": _load_calibration,
    }.get(form.name, _load_checkpoint)

    def read(content: bytes, folder: Path) -> None:
        path = folder / "a.h5"
        path.write_bytes(content)
        with open_artifact(path, form) as artifact:
            parents = [artifact.parents[role] for role in form.parents]
            assert all(isinstance(parent, str) for parent in parents)
            for name in artifact.names():
                is_text = artifact.form.spec(name).dtype == "text"
                (artifact.read_text if is_text else artifact.read)(name)
            load(artifact)
        describe(path)

    return read


def _load_voxels(artifact: Artifact) -> None:
    voxels = open_voxels(artifact.path, in_memory=True)
    with voxels.artifact:
        voxels.tensor([0, len(voxels) - 1])
        voxels.repeats_training(np.arange(len(voxels)))


def _load_codebook(artifact: Artifact) -> None:
    if artifact.version == 2:  # which holds its own
        _load_calibration(artifact)


def _load_calibration(artifact: Artifact) -> None:
    load_calibration(artifact)
    layers = [name.removeprefix("calibration/distance/") for name in artifact.names("calibration/distance/")]
    load_evidence(artifact, layers)
    load_typicality(artifact, layers)


def _load_checkpoint(artifact: Artifact) -> None:
    load_checkpoint(artifact.path, config=artifact.config, parents=artifact.parents)


READERS: dict[str, Harness] = {
    **{suffix.removeprefix("."): _reads_shape(suffix) for suffix in SUFFIXES},
    "zip": _read_zip,
    "mat73": _read_mat_of_7_3,
    "shape-npz": _reads_shape(".npz"),
    "nii": _reads_scan(".nii"),
    "nii.gz": _reads_scan(".nii.gz"),
    "npz": _reads_scan(".npz"),
    "nrrd": _reads_scan(".nrrd"),
    "mha": _reads_scan(".mha"),
    "tif": _reads_scan(".tif"),
    "dcm": _reads_scan(".dcm"),
    "slice": _read_slice,
    "points": _read_points,
    "collection": _read_collection,
    "csv": _read_table,
    **{form.name.removeprefix("fer-"): _reads_artifact(form) for form in FORMATS.values()},
}
ARTIFACTS = tuple(form.name.removeprefix("fer-") for form in FORMATS.values())
VETTED = (*ARTIFACTS, "points", "mat73")
"""Readers whose files a separate process opens first."""


# ----------------------------------------------------------------------------------------------- files that are read


@functools.cache
def seeds(reader: str) -> tuple[bytes, ...]:
    """Small files that the reader reads."""
    if reader == "zip":
        return _archives()
    if reader in ARTIFACTS:
        form = FORMATS[f"fer-{reader}"]
        older = gzip.decompress((FIXTURES / f"{reader}-{form.version}.h5.gz").read_bytes())
        return older, _with_digests(older, form)
    if reader in _VOLUMES:
        return _volumes(reader)
    if reader in _SCANS:
        return _SCANS[reader]()
    return tuple(content for suffix, content in _shapes() if suffix == reader)


_VOLUMES = ("nii", "nii.gz", "npz", "collection", "csv")


def _volumes(reader: str) -> tuple[bytes, ...]:
    grey = np.random.default_rng(0).integers(-9, 9, (5, 4, 3)).astype(np.int16)
    if reader.startswith("nii"):
        affine = np.diag([-1.0, 2.0, 1.5, 1.0])
        images = [nibabel.Nifti1Image(grey, affine), nibabel.Nifti2Image(grey.astype(np.float32), affine)]
        images[0].header.set_slope_inter(0.5, 3)
        contents = [image.to_bytes() for image in images]
        return tuple(contents if reader == "nii" else [gzip.compress(content, mtime=0) for content in contents])
    if reader == "csv":
        return (
            b"path,class,split,group,site\na.npy,x,train,p,1\nb.npy,y,test,q,2\n",
            b'path;class\n"a.npy";x\nsub/c.npy;"y\n;"\n',
            b"\xef\xbb\xbfPath\tClass\tSplit\na.npy\tx\tvalidation\n",
        )
    labels = {"labels": np.array([0, 1, 1]), "split": np.array(["train", "val", "test"])}
    medmnist = {"train_images": np.stack([grey] * 3), "train_labels": np.array([[0], [1], [0]])}
    found = [{"arr_0": grey}] if reader == "npz" else [{"images": np.stack([grey] * 3), **labels}, medmnist]
    contents = []
    for arrays in found:
        for save in (np.savez, np.savez_compressed):
            save(stream := io.BytesIO(), **arrays)
            contents.append(stream.getvalue())
    return tuple(contents)


def _nrrds() -> tuple[bytes, ...]:
    grey = np.random.default_rng(0).integers(-9, 9, (5, 4, 3)).astype(np.int16)
    body = {"space": "left-posterior-superior", "space directions": np.diag([1.0, 2.0, 1.5]), "space origin": [1, 2, 3]}
    channels = {"kinds": ["vector", "domain", "domain", "domain"], "spacings": [np.nan, 1, 2, 3]}
    contents = []
    for values, header in (
        (grey, {**body, "encoding": "raw"}),
        (grey, {**body, "encoding": "gzip", "patient": "Jane Doe"}),
        (grey.astype(">f4"), {"spacings": [1, 2, 3], "units": ["mm", "mm", "mm"], "encoding": "bzip2"}),
        (np.stack([grey, grey]), {**channels, "encoding": "raw"}),
    ):
        nrrd.write(stream := io.BytesIO(), values, header, compression_level=6)
        # What tells the version of pynrrd and the time.
        contents.append(re.sub(rb"(?m)^#.*\n", b"", stream.getvalue(), count=2))
    return tuple(contents)


def _mhas() -> tuple[bytes, ...]:
    grey = np.random.default_rng(0).integers(-9, 9, (3, 4, 5)).astype(np.int16).tobytes()
    head = (
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = %b\n"
        b"TransformMatrix = 0 1 0 1 0 0 0 0 -1\nOffset = -1.5 2 3e1\nElementSpacing = 1 0.5 2\nDimSize = %b\n%b"
        b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    many = b"ElementNumberOfChannels = 5\n"
    return (
        head % (b"False", b"5 4 3", b"") + grey,
        head % (b"True", b"5 4 3", b"CompressedDataSize = 99\n") + zlib.compress(grey),
        head % (b"False", b"3 2 2", many) + grey,
        b"NDims = 3\nDimSize = 5 4 6\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + grey,
    )


def _tiffs() -> tuple[bytes, ...]:
    grey = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint16)
    plain: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "software": False}
    ome = {"axes": "ZYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.4, "PhysicalSizeZ": 2.0, "UUID": "a"}
    imagej = {"axes": "ZCYX", "spacing": 2.0, "unit": "um"}
    contents = []
    for values, options in (
        (grey, plain),
        (grey, {**plain, "compression": "zlib", "predictor": True, "rowsperstrip": 2}),
        (grey, {**plain, "tile": (16, 16), "bigtiff": True, "byteorder": ">"}),
        (np.stack([grey] * 3, 3).astype(np.uint8), {**plain, "photometric": "rgb"}),
        (grey[:, None], {"imagej": True, "metadata": imagej, "resolution": (2.5, 3)}),
        (grey, {"ome": True, "metadata": ome, "photometric": "minisblack"}),
    ):
        tifffile.imwrite(stream := io.BytesIO(), values, **options)
        contents.append(stream.getvalue())
    return tuple(contents)


def _point_sets() -> tuple[bytes, ...]:
    points = np.random.default_rng(0).random((3, 4, 3)).astype(np.float32)
    contents = []
    for options in ({}, {"compression": "gzip", "shuffle": True, "chunks": True}):
        with h5py.File(stream := io.BytesIO(), "w") as file:
            file.create_dataset("data", data=points, **options)
            file.create_dataset("label", data=np.array([[0], [1], [1]], np.uint8), **options)
        contents.append(stream.getvalue())
    return tuple(contents)


_SCANS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "mat73": lambda: _mats_of_7_3(),
    "shape-npz": lambda: _npzs_of_shapes(),
    "nrrd": _nrrds,
    "mha": _mhas,
    "tif": _tiffs,
    "dcm": lambda: tuple(dicom_frames(kind) for kind in ("explicit", "implicit", "deflated", "rle")),
    "slice": lambda: tuple(dicom_slice(1, kind) for kind in ("explicit", "implicit", "deflated", "rle", "big endian")),
    "points": _point_sets,
}


def _with_digests(content: bytes, form: Format) -> bytes:
    """An older artifact with the digests that are written today."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:

        def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                spec = form.spec(name)
                stored = list(item.asstr()[...]) if spec.dtype == "text" else item[...]
                said = content_bytes(stored, spec) if spec.identifying else b""
                item.attrs[DIGEST] = hashlib.sha256(said).hexdigest()

        file.visititems(add)
    return stream.getvalue()


def _shapes() -> list[tuple[str, bytes]]:
    mesh = trimesh.Trimesh(
        [[0, 0, 0], [1.5, 0, 0], [0, 2.25, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 3], [0, 3, 2], [1, 2, 3]], process=False
    )
    points = np.asarray(mesh.vertices)
    text = "".join(f"{x!r} {y!r} {z!r}\n" for x, y, z in points.tolist()).encode()
    grid = (np.arange(64).reshape(8, 4, 2) % 3 == 0).astype(np.uint8)
    runs = b"".join(bytes([int(value), 1]) for value in grid.transpose(0, 2, 1).reshape(-1))
    binvox = b"#binvox 1\ndim 8 2 4\ntranslate -1.5 0 2\nscale 4\ndata\n" + runs
    mats = [io.BytesIO() for _ in range(2)]
    savemat(mats[0], {"instance": grid})
    savemat(mats[1], {"instance": grid.astype(float), "label": "chair"}, do_compression=True)
    npys = [io.BytesIO() for _ in range(3)]
    np.save(npys[0], grid)
    np.save(npys[1], np.asfortranarray(grid, np.float32))
    np.lib.format.write_array(npys[2], grid, version=(2, 0))
    header = (
        b"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 8 8 8 4\nTYPE F F F U\nCOUNT 1 1 1 1\nWIDTH 4\nHEIGHT 1\n"
    )
    header += b"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 4\nDATA "
    rows = np.zeros(4, [("p", "<f8", 3), ("rgb", "<u4")])
    rows["p"] = points
    plain = points.T.tobytes() + bytes(16)
    packed = (
        b"".join(bytes([len(plain[i : i + 32]) - 1]) + plain[i : i + 32] for i in range(0, 96, 32)) + b"\0\0\xe0\x06\0"
    )
    unpacked = 96 + 1 + 15
    return [
        ("off", off.export_off(mesh).encode()),
        ("off", b"# a pyramid\nCOFF5 2 0\n0 0 0 1 0 0 1\n1 0 0\n1 1 0\n0 1 0\n.5 .5 1e0\n4 0 1 2 3\n3 0 1 4 9 9 9\n"),
        ("obj", obj.export_obj(mesh).encode()),
        ("obj", b"o a\nv 0 0 0\nv 1 0 0 1 1 1\nv 0 1 0\nvn 0 0 1\nf -3//1 -2//1 -1//1\ng b\nf 1 2 \\\n3\n"),
        ("stl", stl.export_stl(mesh)),
        ("stl", stl.export_stl_ascii(mesh).encode()),
        ("ply", ply.export_ply(mesh, encoding="ascii")),
        ("ply", ply.export_ply(mesh, encoding="binary")),
        (
            "ply",
            b"ply\nformat ascii 1.0\nelement face 2\nproperty uchar q\nproperty list uchar int vertex_index\n"
            b"element vertex 4\nproperty double x\nproperty double y\nproperty double z\nend_header\n"
            b"7 3 0 1 2\n7 4 0 1 2 3\n" + text,
        ),
        ("glb", mesh.export(file_type="glb")),
        ("glb", trimesh.Scene([mesh, mesh.copy()]).export(file_type="glb")),
        ("pcd", header + b"ascii\n" + text.replace(b"\n", b" 0\n")),
        ("pcd", header + b"binary\n" + rows.tobytes()),
        ("pcd", header + b"binary_compressed\n" + struct.pack("<II", len(packed), unpacked) + packed),
        *((f"{suffix}.gz", gzip.compress(content, mtime=0)) for suffix, content in _packed(mesh, text)),
        ("txt", text.replace(b" ", b",")),
        ("stl", stl.export_stl_ascii(mesh).encode().replace(b"endsolid", b"end solid")),
        ("stl", stl.export_stl(mesh) + b"made by"),
        (
            "ply",
            ply.export_ply(mesh, encoding="ascii")
            .replace(b"\n", b"\r\n", 3)
            .replace(b"end_header\n", b"end_header\r\n"),
        ),
        (
            "ply",
            b"ply\nformat ascii 1.0\nelement vertex 4\nproperty double x\nproperty double y\nproperty double z\n"
            b"element tristrips 1\nproperty list int int vertex_indices\nend_header\n" + text + b"8 0 1 2 3 -1 1 2 3\n",
        ),
        ("glb", _instanced()),
        ("glb", _sparse()),
        ("xyz", text.replace(b"-0.0", b"0.0").replace(b".", b",").replace(b" ", b";")),
        ("xyz", text + b"nan nan nan\n"),
        ("obj", b"\xef\xbb\xbf" + obj.export_obj(mesh).encode()),
        ("xyz", text),
        ("xyz", b"4\n" + text.replace(b" ", b",")),
        ("binvox", binvox),
        *(("mat", b"MATLAB 5.0 MAT-file".ljust(124) + each.getvalue()[124:]) for each in mats),  # which tells the time
        *(("npy", each.getvalue()) for each in npys),
    ]


def _packed(mesh: trimesh.Trimesh, text: bytes) -> list[tuple[str, bytes]]:
    return [
        ("off", off.export_off(mesh).encode()),
        ("obj", obj.export_obj(mesh).encode()),
        ("stl", stl.export_stl(mesh)),
        ("ply", ply.export_ply(mesh, encoding="binary")),
        ("xyz", text),
    ]


def _instanced() -> bytes:
    """A GLB file of one triangle that is shown twice, with a sparse morph target and padding of NUL."""
    corners, places = np.eye(3, dtype="<f4"), np.array([[0, 0, 0], [0, 0, 5]], "<f4")
    views = [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 24}]
    places_of = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 1}}}
    primitive = {"attributes": {"POSITION": 0}, "targets": [{"POSITION": 2}]}
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "extensions": places_of}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 2, "type": "VEC3"},
            {"componentType": 5126, "count": 3, "type": "VEC3", "sparse": {"count": 1}},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": 60}],
        "extensionsRequired": ["EXT_mesh_gpu_instancing", "KHR_materials_unlit"],
    }
    return _glb(tree, corners.tobytes() + places.tobytes())


def _sparse() -> bytes:
    """A GLB file of two triangles, whose positions are sparse: one array has a base, the other has none."""
    corners, changed = np.eye(3, dtype="<f4"), np.array([[0, 2, 3], [4, 0, 1]], "<f4")
    sparse = {"count": 2, "indices": {"bufferView": 2, "componentType": 5123}, "values": {"bufferView": 1}}
    accessor = {"componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse}
    tree = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}, {"attributes": {"POSITION": 1}}]}],
        "accessors": [{"bufferView": 0, **accessor}, accessor],
        "bufferViews": [
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 24},
            {"buffer": 0, "byteOffset": 60, "byteLength": 4},
        ],
        "buffers": [{"byteLength": 64}],
    }
    return _glb(tree, corners.tobytes() + changed.tobytes() + np.array([0, 2], "<u2").tobytes())


def _glb(tree: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(tree).encode()
    text += b"\0" * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _mats_of_7_3() -> tuple[bytes, ...]:
    grid = (np.arange(64).reshape(2, 4, 8) % 3 == 0).astype(np.uint8)
    contents = []
    for options in ({}, {"compression": "gzip", "chunks": (2, 2, 8)}):
        with h5py.File(stream := io.BytesIO(), "w", userblock_size=512) as file:
            file.create_dataset("instance", data=grid, **options)
        contents.append(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + stream.getvalue()[128:])
    return tuple(contents)


def _npzs_of_shapes() -> tuple[bytes, ...]:
    grid = (np.arange(64).reshape(8, 4, 2) % 3 == 0).astype(np.uint8)
    points = np.random.default_rng(0).random((9, 3))
    contents = []
    for arrays in ({"a": grid}, {"points": points, "normals": -points}):
        for save in (np.savez, np.savez_compressed):
            save(stream := io.BytesIO(), **arrays)
            contents.append(stream.getvalue())
    return tuple(contents)


_HOSTILE_NAMES = (
    "../../a.off", "/a.off", "C:\\a.off", "chair/train/../../../../a.off", "chair/train/a\nb.off",
    "chair/train/\0a.off", "chair\\test\\..\\..\\a.off", "chair/train/" + "n" * 300 + ".off", "chair/train/a.off",
    "\x1b[31m/test/a.off", ".off", "chair/train/a.off/", "//train//a.off", "chair/test/<b>&\"'.off",
)  # fmt: skip


def _archives() -> tuple[bytes, ...]:
    mesh = _shapes()[0][1]
    archives = []
    for names, method in (
        (("chair/train/a.off", "chair/test/b.off", "bed/train/c.off", "readme.txt"), zipfile.ZIP_DEFLATED),
        (("chair/train/a.off", "chair/train/a.off", *_HOSTILE_NAMES), zipfile.ZIP_STORED),
        (("a.off", "link.off"), zipfile.ZIP_BZIP2),
        (("a.off", "b.off"), zipfile.ZIP_LZMA),
    ):
        stream = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as opened:
            warnings.simplefilter("ignore")  # of names that occur twice
            for name in names:
                member = zipfile.ZipInfo(name)
                member.compress_type = method
                if name.startswith("link"):
                    member.external_attr = 0o120777 << 16
                opened.writestr(member, b"/etc/passwd" if name.startswith("link") else mesh)
            if names[0] == "a.off":
                opened.writestr("bomb.off", bytes(1 << 20))
        archives.append(stream.getvalue())
    return tuple(archives)


# --------------------------------------------------------------------------------------------------- damage to files

NUMBERS = (
    b"0", b"-1", b"1", b"2", b"255", b"65536", b"1000000000", b"2147483648", b"4294967295", b"99999999999999999999",
    b"nan", b"-inf", b"1e308", b"-1e308", b"1e-320", b"1e999", b"0x10", b"1_0", b"9" * 400, b"\xff\xff\xff\x7f",
    b"\xff" * 8, b"", b"3.5", b"true", b"null", b"[]",
)  # fmt: skip
_EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**63,
    2**64 - 1,
)
_WORDS: dict[str, bytes] = {
    "off": b"OFF|COFF|STOFF|nOFF|4OFF|BINARY|#|\r|\n|OFF\n|3 0 1 2\n|\xef\xbb\xbf",
    "obj": b"v |vn |vt |f |fo |l |g |s |o |usemtl |mtllib /etc/passwd\n|curv |surf |//|/|-1|\\\n|#|\r\n|"
    b"f 1 2 3\n|v 0 0 0\n",
    "stl": b"solid |endsolid|facet normal 0 0 0\n|outer loop\n|vertex 0 0 0\n|endloop\n|endfacet\n|\r|solid\n|"
    b"end solid|end facet|\xef\xbb\xbf",
    "ply": b"ply\n|format ascii 1.0\n|format binary_little_endian 1.0\n|format binary_big_endian 1.0\n|element vertex |"
    b"element face |element tristrips 1\n|property float x\n|property list uchar int vertex_indices\n|"
    b"property list double int vertex_index\n|property list uint double q\n|property double y\n|"
    b"end_header\n|comment |\r\n",
    "glb": b'glTF|JSON|BIN\0|"nodes":|"children":[0]|"mesh":0|"matrix":[0]|"uri":"/etc/passwd"|"uri":"data:,a"|'
    b'"byteOffset":|'
    b'"byteStride":|"count":|"mode":5|"sparse":{}|"extensions":{"EXT_mesh_gpu_instancing":{"attributes":{"ROTATION":0}}}|"extensionsRequired":["a"]|"indices":|"scene":|{|}|[|]|'
    b'"translation":[1e308,0,0]|'
    b'"scale":[0]|"rotation":[]|"targets":[]|"bufferView":|,|:|"name":"x"|"extensions":{"KHR_draco_mesh_compression":{}}',
    "pcd": b"FIELDS x y z\n|SIZE 4 4 4\n|TYPE F F F\n|COUNT 1 1 1\n|COUNT 0 1 99999999\n|WIDTH |HEIGHT |POINTS |"
    b"DATA ascii\n|"
    b"DATA binary\n|DATA binary_compressed\n|VIEWPOINT|#|\n|TYPE I U X\n",
    "xyz": b",|;|0,5;|nan nan nan\n|\xff\xfe|#|\n|\r|0 0 0\n|\xef\xbb\xbf| ",
    "binvox": b"#binvox 1\n|dim 2 2 2\n|dim |translate |scale |data\n|\n",
    "mat": b"MATLAB 5.0|IM|MI|instance\0|\x0f\0\0\0|\x0e\0\0\0|\x06\0\0\0|\x10\0\0\0|\x11\0\0\0",
    "npy": b"\x93NUMPY|\x01\0|\x02\0|\x03\0|'descr':|'fortran_order':|'shape':|(|)|,|'|True|"
    b"'|O'|'>f8'|'<U4'|[('a','<i4')]|{|}|__import__('os')",
    "nii": b"n+1\0|n+2\0|ni1\0|\x5c\x01\0\0|\x1c\x02\0\0|"
    b"\x10\0|\x40\0|\x04\0|\x05\0|\x20\0|\x80\0|\x00\x00\xb0\x43|\xff\x7f\xff\x7f",
    "nii.gz": b"\x1f\x8b|\x08|n+1\0|\xff\xff",
    "npz": b"PK\1\2|PK\3\4|PK\5\6|.npy|arr_0|\x93NUMPY|\x01\0|'shape':|(|)|,|'|O'|'>f8'|\x08\0|\0\0",
    "collection": b"PK\1\2|PK\3\4|PK\5\6|.npy|images|labels|"
    b"split|train_|\x93NUMPY|'shape':|(3, |(|)|'<U4'|'|O'|\x08\0|\0\0",
    "csv": b"path|class|split|group|,|;|\t|\n|\r|\"|a.npy|../a.npy|/etc/passwd|train|test|val|\0|\xff|\xef\xbb\xbf",
    "nrrd": b"NRRD0005\n|type: |dimension: |sizes: |space: RAS\n|space directions: (1,0,0) (0,1,0) (0,0,1)\n|"
    b"space origin: (0,0,0)\n|spacings: |kinds: domain domain list domain\n|encoding: |raw\n|gzip\n|bzip2\n|hex\n|"
    b"endian: big\n|data file: /etc/passwd\n|data file: LIST\n|line skip: |byte skip: -1\n|"
    b"units: \"um\" \"mm\"\n|none |"
    b"key:=value\n|\n\n|\r\n|nan",
    "mha": b"NDims = |DimSize = |ElementType = MET_FLOAT\n|ElementType = MET_UCHAR\n|ElementNumberOfChannels = |"
    b"TransformMatrix = |Offset = |ElementSpacing = |CompressedData = True\n|BinaryData = False\n|"
    b"BinaryDataByteOrderMSB = True\n|ElementDataFile = LOCAL\n|ElementDataFile = /etc/passwd\n|"
    b"ElementDataFile = LIST\n|HeaderSize = -1\n|\n|\r|=",
    "tif": b"II*\0|MM\0*|II+\0\x08\0|\x00\x01\x03\0|\x01\x01\x04\0|\x02\x01\x03\0|\x03\x01\x03\0|\x06\x01\x03\0|"
    b"\x11\x01\x04\0|"
    b"\x15\x01\x03\0|\x17\x01\x04\0|\x1c\x01\x03\0|\x3d\x01\x03\0|\x42\x01\x04\0|\x53\x01\x03\0|\x05\x80|\x08\0|"
    b"\xb2\x80|"
    b"ImageJ=1\n|channels=|slices=|frames=|spacing=|unit=|<OME><Pixels SizeZ='3' SizeC='1'>",
    "dcm": b"DICM|\x08\0\x18\0UI|\x28\0\x10\0US\x02\0|\x28\0\x08\0IS\x02\0|\x20\0\x32\0DS|\x28\0\x30\0DS|"
    b"\xe0\x7f\x10\0OW\0\0|"
    b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff|\xfe\xff\0\xe0|\xfe\xff\x0d\xe0\0\0\0\0|\xfe\xff\xdd\xe0\0\0\0\0|"
    b"SQ\0\0\xff\xff\xff\xff|"
    b"1.2.840.10008.1.2.1.99|1.2.840.10008.1.2.5|1.2.840.10008.1.2.4.50|MONOCHROME1 |RGB |-1\\0\\|1e400|\\",
    "points": b"HEAP|TREE|SNOD|data|label|OHDR|\x89HDF\r\n\x1a\n",
    "zip": b"PK\1\2|PK\3\4|PK\5\6|PK\6\6|PK\6\7|PK\7\x08|../|/|\\|.off|train/|test/|\x63\0|\x0e\0|\x0c\0|\x01\0",
}  # fmt: skip


def words_of(reader: str) -> list[bytes]:
    """What files of the reader are made of, beside numbers."""
    known = {"slice": "dcm", "mat73": "points", "shape-npz": "npz", "txt": "xyz"}.get(reader, reader)
    known = known if known in _WORDS else known.removesuffix(".gz")
    return _WORDS.get(known, b"HEAP|TREE|SNOD|GCOL|OHDR|FRHP|\x89HDF\r\n\x1a\n").split(b"|")


def hostile_file(reader: str, number: int) -> bytes:
    """The hostile file of that number: some seed of the reader, damaged, or words of its format in any order.

    A compressed file is as often damaged before it is compressed as after.
    """
    chance = random.Random(f"{reader} {number}")
    if reader.endswith(".gz") and chance.random() < 0.5:
        return gzip.compress(hostile_file(reader.removesuffix(".gz"), number), mtime=0)
    words = words_of(reader)
    if reader in TEXTS and chance.random() < 0.15:
        return _babble(reader, words, chance)
    content = bytearray(chance.choice(seeds(reader)))
    if reader in ARTIFACTS and chance.random() < 0.4:
        return bytes(content) if reader not in _ATTRIBUTES else _with_other_json(reader, bytes(content), chance)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 9))):
        _damage(content, words, chance, reader)
    return bytes(content)


TEXTS = ("off", "obj", "stl", "ply", "pcd", "xyz", "txt", "binvox", "csv", "nrrd", "mha")


def _babble(reader: str, words: list[bytes], chance: random.Random) -> bytes:
    """Words and numbers of a format in any order, after the beginning of a file that is read."""
    start = chance.choice(seeds(reader))
    start = start[: chance.choice((0, 4, 60, 200, len(start)))]
    parts = [
        chance.choice(words)
        if chance.random() < 0.5
        else chance.choice((*NUMBERS, b"1", b"2", b"0.5")) + b" \n"[: 1 + chance.randrange(2)]
        for _ in range(chance.randrange(80))
    ]
    return start + b"".join(parts)


def _damage(content: bytearray, words: list[bytes], chance: random.Random, reader: str) -> None:
    place, length = chance.randrange(len(content) + 1), chance.randrange(9)
    match chance.randrange(9):
        case 0:
            content[place : place + length] = chance.randbytes(chance.randrange(9))
        case 1:
            # The end of a long file is as good as its beginning, but numbers in words are most in headers.
            found = [each.span() for each in re.finditer(rb"\d+", content[:3000])]
            start, end = chance.choice(found) if found else (place, place)
            content[start:end] = chance.choice(NUMBERS)
        case 2 if place < len(content):
            content[place] ^= 1 << chance.randrange(8)
        case 3:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_EXTREMES) % 256**width
            content[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        case 4 if chance.random() < 0.5:
            del content[place:]
        case 5:
            content[place:place] = content[place : place + 2 ** chance.randrange(10)] * chance.randrange(5)
        case 6:
            other = chance.choice(seeds(reader))
            start = chance.randrange(len(other))
            content[place : place + 2 ** chance.randrange(8)] = other[start : start + 2 ** chance.randrange(8)]
        case 7:
            content[place:place] = chance.choice(words)
        case _:
            del content[place : place + 2 ** chance.randrange(8)]


_ATTRIBUTES = {
    "voxels": ("config", "classes", "parents", "seed", "format_version", "id", "created_by"),
    "model": ("config", "parents", "seed"),
    "codebook": ("config", "parents", "precision", "choice"),
    "checkpoint": ("config", "parents", "position"),
    "calibration": ("config", "parents"),
}
_VALUES = (
    None, True, -1, 0, 1, 3, 10**9, 2**63, 10**30, 0.5, 1e308, "", "a\nb", "\0", "<script>", "x" * 3000, "\ud800", [],
    {}, [[]], [1] * 1000, {"a": {}}, "64", [None],
)  # fmt: skip


_BARE = (
    True,
    -1,
    0,
    10**9,
    0.5,
    1e308,
    np.nan,
    "",
    "a\nb",
    "<script>",
    "x" * 3000,
    b"\xff\xfe",
    "[" * 5000,
    "1" * 5000,
)


def _with_other_json(reader: str, content: bytes, chance: random.Random) -> bytes:
    """The artifact with one value within an attribute of JSON replaced, removed or doubled."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        name = chance.choice(_ATTRIBUTES[reader])
        stored = file.attrs[name]
        try:
            tree = json.loads(stored)
        except (TypeError, ValueError):
            tree = None
        if not isinstance(tree, dict | list) or chance.random() < 0.1:
            value = chance.choice((*_BARE, np.arange(3), h5py.Empty("f4")))
            file.attrs[name] = value
        else:
            for _ in range(chance.choice((1, 1, 2))):
                _change(tree, chance)
            file.attrs[name] = json.dumps(tree)
    return stream.getvalue()


def _change(tree: dict | list, chance: random.Random) -> None:
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(tree[key], dict | list) and tree[key] and chance.random() < 0.8:
            tree = tree[key]
            continue
        match chance.randrange(4):
            case 0:
                del tree[key]
            case 1 if isinstance(tree, list):
                tree.append(tree[key])
            case _:
                tree[key] = copy.deepcopy(
                    chance.choice(_VALUES)
                )  # or what is changed next would be changed in all files
        return
