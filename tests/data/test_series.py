"""DICOM series of folders, archives and tables, from the source to voxels.h5 and a page."""

import gzip
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import attachables
from fer_cli.data.dataset import open_voxels
from fer_cli.data.plan import plan
from fer_cli.data.preparation import PreparationSettings
from fer_cli.data.sample_input import load_sample
from fer_cli.data.source import list_entries, read_volume
from fer_cli.data.store_volumes import store_volumes
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import InputError
from forks import fer
from slices import SECRETS, VALUES, dicom_frames, dicom_slice

HOUNSFIELD = VALUES.astype(np.int64) * 2 - 1024
KEPT = PreparationSettings(kind="intensity")


def put(folder: Path, *, pattern: str = "{z}.dcm", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(4):
        (folder / pattern.format(z=z)).write_bytes(dicom_slice(z, **changes))
    return folder


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            opened.write(path, path.relative_to(folder))
    return archive


def rows(source: Path, **options: Any) -> list[tuple[str, str | None, str, int]]:
    entries = list_entries(source, **options).entries
    return [(entry.name, entry.class_name, entry.split, len(entry.files)) for entry in entries]


def in_both(folder: Path) -> list[Path]:
    return [folder, zipped(folder)]


def test_a_folder_of_slices_is_a_sample_of_its_class_and_split(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "benign/train/case.1")
    put(source / "benign/test/case2", pattern="IM{z:06}")
    put(source / "malignant/train/1.2.840.5", pattern="1.2.840.10008.{z}")
    put(source / "malignant/train/patient/study/deep")
    put(source / "benign/loose")
    (source / "benign/train/case.1/LICENSE").write_text("free")
    (source / "benign/train/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    for given in in_both(source):
        assert rows(given) == [
            ("loose", None, "unlabelled", 4),
            ("case.1", "benign", "train", 4),
            ("case2", "benign", "test", 4),
            ("1.2.840.5", "malignant", "train", 4),
            ("deep", "malignant", "train", 4),
        ]
        for entry in list_entries(given).entries:
            np.testing.assert_array_equal(read_volume(given, entry).values[0], HOUNSFIELD)


def test_each_series_in_the_folder_of_a_class_is_a_sample(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "a/train", pattern="x{z}.dcm")
    put(source / "a/train", pattern="y{z}.dcm", SeriesInstanceUID="1.2.4")
    (source / "a/train/z.dcm").write_bytes(dicom_frames(SeriesInstanceUID="1.2.5"))
    for given in in_both(source):
        assert rows(given) == [("x0", "a", "train", 4), ("y0", "a", "train", 4), ("z", "a", "train", 1)]
        for entry in list_entries(given).entries:
            np.testing.assert_array_equal(read_volume(given, entry).values[0], HOUNSFIELD)


def test_other_folders_with_several_series_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "a/train/case", pattern="x{z}.dcm")
    put(source / "a/train/case", pattern="y{z}.dcm", SeriesInstanceUID="1.2.4", SeriesNumber=8)
    (entry,) = list_entries(source).entries
    said = r"a/train/case: holds 2 series: number 7 \(4 files, x0.dcm for one\), number 8 \(4 files, y0.dcm for one\)"
    with pytest.raises(InputError, match=said):
        read_volume(source, entry)


def test_a_test_fraction_splits_folders_of_slices(tmp_path: Path) -> None:
    source = tmp_path / "s"
    for number in range(4):
        put(source / "a" / f"case{number}")
    found = rows(source, test_fraction=0.25)
    assert sorted(split for _, _, split, _ in found) == ["test", "train", "train", "train"]
    assert {class_name for _, class_name, _, _ in found} == {"a"}


def test_a_folder_of_slices_is_a_source_and_a_file_of_frames_is_one(tmp_path: Path) -> None:
    put(tmp_path / "case.5")
    assert rows(tmp_path / "case.5") == [("case.5", None, "unlabelled", 4)]
    (tmp_path / "IM0001").write_bytes(dicom_frames())
    assert rows(tmp_path / "IM0001") == [("IM0001", None, "unlabelled", 0)]
    (entry,) = list_entries(tmp_path / "IM0001").entries
    np.testing.assert_array_equal(read_volume(tmp_path / "IM0001", entry).values[0], HOUNSFIELD)


def test_a_table_names_folders_of_slices(tmp_path: Path) -> None:
    source = tmp_path / "s"
    put(source / "deep/case.1")
    put(source / "case2", pattern="IM{z}")
    (source / "empty").mkdir()
    table = tmp_path / "t.csv"
    table.write_text("path,class,split\ndeep/case.1,a,train\ncase2,b,test\nempty,a,train\n")
    for given in in_both(source):
        planned = plan(given, table=table)
        assert planned.are_volumes
        assert [(entry.name, entry.class_name, len(entry.files)) for entry in planned.listing.entries] == [
            ("case.1", "a", 4),
            ("case2", "b", 4),
        ]
        assert [item.path for item in planned.listing.skipped] == ["empty"]
        for entry in planned.listing.entries:
            np.testing.assert_array_equal(read_volume(given, entry).values[0], HOUNSFIELD)


def stored(source: Path, output: Path, settings: PreparationSettings = KEPT) -> Path:
    planned = plan(source)
    store_volumes(source, output, planned.listing, planned.collection, settings)
    return output


def test_series_lie_in_voxels_where_their_slices_do(tmp_path: Path) -> None:
    put(tmp_path / "s/a/train/case")
    turned = PreparationSettings(kind="intensity", orientation="RAS", spacing=(0.7, 1.5, 1.25))
    voxels = open_voxels(stored(tmp_path / "s", tmp_path / "v.h5", turned))
    assert voxels.volumes([0]).shape == (1, 1, 6, 5, 8)
    assert voxels.is_placed(0)
    np.testing.assert_allclose(np.diag(voxels.index_to_world(0)), [0.7, 1.5, 1.25, 1], atol=1e-6)


def test_a_folder_or_an_archive_of_slices_is_a_sample_to_explain(tmp_path: Path) -> None:
    put(tmp_path / "s/case")
    voxels = open_voxels(stored(tmp_path / "s", tmp_path / "v.h5"))
    (tmp_path / "frames.dcm").write_bytes(dicom_frames())
    for path, name in (("s/case", "case"), ("s.zip", "s"), ("frames.dcm", "frames")):
        if path == "s.zip":
            zipped(tmp_path / "s")
        sample = load_sample(
            tmp_path / path,
            voxelization={},
            preparation=KEPT.to_json(),
            input=InputSpec(1, (6, 5, 4), "intensity"),
            classes=("a", "b"),
            voxels=lambda: voxels,
        )
        assert (sample.name, sample.is_placed) == (name, True)
        np.testing.assert_array_equal(sample.volume[0], HOUNSFIELD)


def all_of(path: Path) -> bytes:
    """The bytes of a file, and those of all that an HDF5 file holds once it is unpacked."""
    found = [path.read_bytes()]
    if path.suffix == ".h5":
        with h5py.File(path) as file:

            def add(name: str, item: Any) -> None:
                found.extend(str(value).encode() for value in item.attrs.values())
                if isinstance(item, h5py.Dataset):
                    found.append(repr(item[()].tolist()).encode())

            found.extend(str(value).encode() for value in file.attrs.values())
            file.visititems(add)
    return b"\0".join(found)


@pytest.mark.parametrize("kind", ["explicit", "implicit", "deflated", "rle"])
def test_nothing_personal_of_a_file_is_in_voxels(kind: str, tmp_path: Path) -> None:
    """Names, numbers, dates and private elements, in the files themselves and in what is refused of them."""
    source = tmp_path / "s"
    put(source / "a/train/case", kind=kind)
    (source / "a/test").mkdir()
    (source / "a/test/frames.dcm").write_bytes(dicom_frames(kind))
    put(source / "b/train/uneven", kind=kind)
    (source / "b/train/uneven/2.dcm").unlink()
    put(source / "b/train/mixed", kind=kind)
    put(source / "b/train/mixed", kind=kind, pattern="y{z}.dcm", SeriesInstanceUID="1.2.4")
    (source / "b/train/damaged.dcm").write_bytes(dicom_slice(0, kind)[:-300])
    if kind != "deflated":
        assert all(secret.encode() in dicom_frames(kind) for secret in SECRETS)
    output = stored(source, tmp_path / "v.h5")
    voxels = open_voxels(output)
    assert sorted(voxels.names) == ["case", "frames"]
    assert len(voxels.artifact.read_text("skipped/reason")) == 3
    content = all_of(output)
    assert b"case" in content
    for secret in SECRETS:
        assert secret.encode() not in content
        assert secret.encode("utf-16-le") not in content


@pytest.mark.end_to_end
def test_nothing_personal_of_a_file_is_in_a_run_or_on_a_page(tmp_path: Path) -> None:
    shutil.copy(attachables.__file__, tmp_path / "nets.py")
    torch.manual_seed(0)
    torch.save(attachables.Plain(2, pooled=6).state_dict(), tmp_path / "best.pt")
    generator = np.random.default_rng(0)
    for number in range(24):
        kind, split = ("benign", "malignant")[number % 2], "train" if number < 20 else "test"
        values = generator.integers(-500, 500, (12, 8, 16)).astype(np.int16)
        folder = tmp_path / "scans" / kind / split / f"case{number:02}"
        folder.mkdir(parents=True)
        for z in range(16):
            (folder / f"{z:02}.dcm").write_bytes(dicom_slice(z, values=values))
    new = "scans/malignant/test/case23"
    commands = [
        "voxelize scans --kind intensity --orientation RAS --normalise zscore",
        'attach nets.py:Plain --kwargs {"classes":2,"pooled":6} --weights best.pt --feedback-epochs 1',
        "cluster --k 2,2",
        f"explain {new} --label benign --nifti",
        "explain case23",
        "info run/voxels.h5 --json",
    ]
    for command in commands:
        done = fer(*command.split(), folder=tmp_path, FER_RUN="run", XDG_CONFIG_HOME=str(tmp_path / "config"))
        assert done.code == 0, (command, done.stderr)
        assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {".html", ".h5", ".gz"} <= {path.suffix for path in written}
    for path in written:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else all_of(path)
        for secret in SECRETS:
            assert secret.encode() not in content, path
