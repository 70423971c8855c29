"""Volumes of a source → voxels.h5: files of many, folders, archives and tables."""

import io
import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from fer_cli.data.collections import open_collection
from fer_cli.data.dataset import open_voxels, validation_split
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.plan import plan
from fer_cli.data.preparation import PreparationSettings
from fer_cli.data.sample_input import load_sample
from fer_cli.data.store_volumes import store_volumes
from fer_cli.data.tables import read_table
from fer_cli.data.volume_file import narrowest, save_volumes
from fer_cli.data.voxelize import voxelize_source
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter, common_type
from fer_cli.storage.schema import VOXELS
from forks import fer

RANDOM = np.random.default_rng(0)
SHAPE = (8, 6, 5)


def grey(count: int, dtype=np.float32) -> np.ndarray:
    return RANDOM.normal(100, 40, (count, *SHAPE)).astype(dtype)


def medmnist(path: Path, volumes=None) -> Path:
    counts = {"train": 12, "val": 4, "test": 6}
    arrays = {}
    for split, count in counts.items():
        arrays[f"{split}_images"] = (RANDOM.random((count, *SHAPE)) < 0.3).astype(np.uint8) * 255
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez_compressed(path, **arrays)
    return path


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 2, 1]) if affine is None else affine), path)
    return path


def stored(source: Path, output: Path, settings=None, **options):
    settings = settings or PreparationSettings()
    names = ("test_fraction", "seed")
    planned = plan(source, as_volumes=settings.changes, **options)
    kept = {name: options[name] for name in names if name in options}
    return store_volumes(planned.source, output, planned.listing, planned.collection, settings, **kept)


def test_medmnist_is_stored_as_it_is(tmp_path: Path):
    source = medmnist(tmp_path / "m.npz")
    summary = stored(source, tmp_path / "v.h5", classes=["healthy", "ill"])
    assert summary.written.counts == {
        "healthy": {"train": 6, "val": 2, "test": 3},
        "ill": {"train": 6, "val": 2, "test": 3},
    }
    voxels = open_voxels(tmp_path / "v.h5")
    assert (voxels.input.kind, voxels.input.shape) == ("occupancy", SHAPE)
    assert voxels.classes == ("healthy", "ill")
    with np.load(source) as arrays:
        wanted = np.concatenate([arrays[f"{split}_images"] for split in ("train", "val", "test")]) != 0
    np.testing.assert_array_equal(voxels.volumes(range(22))[:, 0], wanted)
    training, validation = validation_split(voxels, "train", 0)
    assert [voxels.splits[i] for i in (*training, *validation)] == ["train"] * 12 + ["val"] * 4


def test_plain_arrays_with_splits_groups_and_class_names(tmp_path: Path):
    volumes = grey(9, np.float16)
    np.savez(
        tmp_path / "p.npz",
        images=volumes,
        labels=np.arange(9) % 3,
        split=np.array(["train", "valid", "test"] * 3),
        subject=np.array([f"s{i % 3}" for i in range(9)]),
        classes=np.array(["a", "b", "c"]),
    )
    summary = stored(tmp_path / "p.npz", tmp_path / "v.h5", PreparationSettings(kind="intensity"))
    assert summary.written.stored == "float16"
    voxels = open_voxels(tmp_path / "v.h5")
    np.testing.assert_array_equal(voxels.volumes(range(9))[:, 0], volumes)
    assert voxels.groups == [f"s{i % 3}" for i in range(9)]
    assert voxels.splits == ["train", "val", "test"] * 3
    assert voxels.classes == ("a", "b", "c")
    for name, index in (("train_00000", 0), ("test_00002", 2)):
        assert voxels.names[index] == name


def test_given_splits_that_divide_a_group_are_refused(tmp_path: Path):
    groups, splits = (
        np.array(["s0", "s0", "s1", "s1", "", ""]),
        np.array(["train", "test", "val", "train", "train", "test"]),
    )
    np.savez(tmp_path / "p.npz", images=grey(6), labels=np.arange(6) % 2, split=splits, subject=groups)
    said = r"the group s0 is in two splits: images/0 in train, images/1 in test, and 1 more groups?\. No split may"
    with pytest.raises(InputError, match=said):
        stored(tmp_path / "p.npz", tmp_path / "v.h5", PreparationSettings(kind="intensity"))
    for name in ("a", "b"):
        write_nifti(tmp_path / "scans" / f"{name}.nii", grey(1)[0])
    (tmp_path / "t.csv").write_text("path,class,split,group\na.nii,x,train,p1\nb.nii,y,test,p1\n")
    with pytest.raises(InputError, match=r"the group p1 is in two splits: a\.nii in train, b\.nii in test\. No"):
        stored(tmp_path / "scans", tmp_path / "v.h5", PreparationSettings(kind="intensity"), table=tmp_path / "t.csv")
    assert not (tmp_path / "v.h5").exists()


def test_labels_may_be_names_and_a_split_is_drawn_by_groups(tmp_path: Path):
    subjects = [f"s{i // 4}" for i in range(80)]
    np.savez(
        tmp_path / "p.npz",
        X=grey(80),
        y=np.array(["left", "right"])[np.arange(80) % 2],
        patient=np.array(subjects),
    )
    with pytest.raises(UsageError, match="--test-fraction"):
        plan(tmp_path / "p.npz")
    planned = plan(tmp_path / "p.npz", test_fraction=0.25, seed=3)
    by_subject = {entry.group: set() for entry in planned.listing.entries}
    for entry in planned.listing.entries:
        by_subject[entry.group].add(entry.split)
    assert all(len(splits) == 1 for splits in by_subject.values())
    assert Counter(entry.split for entry in planned.listing.entries) == {"train": 60, "test": 20}
    assert planned.listing.classes == ("left", "right")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": grey(3), "labels": np.zeros((3, 2), int)}, "one label a sample"),
        ({"images": grey(3), "labels": np.array([0, 1, -1])}, "run from -1"),
        ({"images": grey(3), "labels": np.array([0.5, 1, 1])}, "neither whole numbers"),
        ({"images": grey(3)[0], "labels": np.zeros(8, int)}, r"expected \(sample"),
        ({"images": np.asfortranarray(grey(3)), "labels": np.zeros(3, int)}, "Fortran"),
        ({"images": grey(3), "labels": np.zeros(3, int), "split": np.array(["a", "b", "c"])}, "known are train"),
        ({"pictures": grey(3), "y": np.zeros(3, int)}, "no volumes with labels"),
    ],
)
def test_collections_whose_arrays_do_not_fit_are_refused(tmp_path: Path, arrays, said):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match=said):
        open_collection(tmp_path / "p.npz")


def test_damaged_and_bombing_collections_are_refused(tmp_path: Path, monkeypatch):
    source = medmnist(tmp_path / "m.npz")
    content = source.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-50])
    with pytest.raises(InputError, match="not a usable"):
        open_collection(tmp_path / "cut.npz")
    spoilt = bytearray(content)
    spoilt[200:260] = bytes(60)
    (tmp_path / "spoilt.npz").write_bytes(bytes(spoilt))
    with pytest.raises(InputError):
        stored(tmp_path / "spoilt.npz", tmp_path / "v.h5")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (1000, 512, 512, 512)}
        )
        archive.writestr("images.npy", header.getvalue() + bytes(1000))
        np.lib.format.write_array(labels := io.BytesIO(), np.zeros(1000, int))
        archive.writestr("labels.npy", labels.getvalue())
    (tmp_path / "false.npz").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="declares"):
        open_collection(tmp_path / "false.npz")
    monkeypatch.setattr("fer_cli.data.collections._BOMB_BYTES", 1000)
    monkeypatch.setattr("fer_cli.data.collections._BOMB_RATIO", 2)
    with pytest.raises(InputError, match="zip bomb"):
        open_collection(source)


def test_folders_of_scans_with_val_and_places(tmp_path: Path):
    affine = np.array([[0, 1.5, 0, 4], [-1.5, 0, 0, 9], [0, 0, 3, -2], [0, 0, 0, 1.0]])
    wanted = {}
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            for number in range(2):
                values = grey(1)[0]
                path = write_nifti(tmp_path / "set" / name / split / f"{split}{number}.nii.gz", values, affine)
                wanted[path.relative_to(tmp_path / "set").as_posix()] = values
    summary = stored(tmp_path / "set", tmp_path / "v.h5", PreparationSettings(kind="intensity"))
    assert summary.written.counts["a"] == {"train": 2, "val": 2, "test": 2}
    assert summary.written.input.spacing == pytest.approx((1.5, 1.5, 3))
    voxels = open_voxels(tmp_path / "v.h5")
    sources = voxels.artifact.read_text("source")
    for index, source in enumerate(sources):
        np.testing.assert_array_equal(voxels.volumes([index])[0, 0], wanted[source])
        np.testing.assert_allclose(voxels.index_to_world(index), affine, atol=1e-6)
        assert voxels.is_placed(index)
    assert "a_train0" in voxels.names or "a_train_train0" in voxels.names


def test_scans_that_differ_are_not_mixed_unasked(tmp_path: Path):
    write_nifti(tmp_path / "set/a/train/1.nii", grey(1)[0])
    write_nifti(tmp_path / "set/a/train/2.nii", grey(1)[0][:-1])
    intensity = PreparationSettings(kind="intensity")
    with pytest.raises(InputError, match="--shape"):
        stored(tmp_path / "set", tmp_path / "v.h5", intensity)
    assert not (tmp_path / "v.h5").exists()
    fitted = stored(tmp_path / "set", tmp_path / "v.h5", PreparationSettings(kind="intensity", shape=(8, 6, 5)))
    assert fitted.written.input.shape == (8, 6, 5)
    write_nifti(tmp_path / "set/a/train/2.nii", grey(1)[0], np.diag([-1.0, 1, 2, 1]))
    with pytest.raises(InputError, match="--orientation RAS"):
        stored(tmp_path / "set", tmp_path / "w.h5", intensity)
    turned = stored(tmp_path / "set", tmp_path / "w.h5", PreparationSettings(kind="intensity", orientation="RAS"))
    assert turned.written.counts == {"a": {"train": 2}}
    write_nifti(tmp_path / "set/a/train/2.nii", grey(1)[0], np.diag([3.0, 1, 2, 1]))
    assert "--spacing" in stored(tmp_path / "set", tmp_path / "x.h5", intensity).notes[0]


def test_a_file_that_cannot_be_used_is_skipped(tmp_path: Path):
    write_nifti(tmp_path / "set/a/train/1.nii", grey(1)[0])
    (tmp_path / "set/a/train/2.nii.gz").write_bytes(b"\x1f\x8bno")
    (tmp_path / "set/a/train/3.mha").write_bytes(b"ObjectType = Image")
    summary = stored(tmp_path / "set", tmp_path / "v.h5", PreparationSettings(kind="intensity"))
    assert [item.path for item in summary.skipped] == ["a/train/2.nii.gz", "a/train/3.mha"]
    assert open_artifact(tmp_path / "v.h5", VOXELS).read_text("skipped/source") == ["a/train/2.nii.gz", "a/train/3.mha"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_table_names_files_and_says_more_of_them(tmp_path: Path, separator, in_zip):
    lines = [["site", "path", "Class", "split", "group"]]
    for number in range(8):
        write_nifti(tmp_path / "scans" / f"case{number}.nii.gz", grey(1)[0])
        lines.append(
            [f"s{number % 2}", f"case{number}.nii.gz", "ab"[number % 2], ["train", "test"][number // 4], f"p{number}"]
        )
    lines.append(["s9", "missing.nii.gz", "a", "train", "p9"])
    table = tmp_path / "samples.csv"
    table.write_text("\n".join(separator.join(line) for line in lines) + "\n", encoding="utf-8-sig")
    source = tmp_path / "scans"
    if in_zip:
        with zipfile.ZipFile(source := tmp_path / "scans.zip", "w") as archive:
            for path in (tmp_path / "scans").iterdir():
                archive.write(path, path.name)
    summary = stored(source, tmp_path / "v.h5", PreparationSettings(kind="intensity"), table=table)
    assert summary.written.counts == {"a": {"train": 2, "test": 2}, "b": {"train": 2, "test": 2}}
    assert [item.path for item in summary.skipped] == ["missing.nii.gz"]
    artifact = open_artifact(tmp_path / "v.h5", VOXELS)
    names = artifact.read_text("name")
    assert artifact.read_text("column/site") == [f"s{int(name[-1]) % 2}" for name in names]
    assert artifact.read_text("group") == [f"p{name[-1]}" for name in names]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.nii,x\n", "no column 'class'"),
        ("path,class\n", "holds no sample"),
        ("path,class,split\na.nii,x,later\n", "'later'"),
        ("path,class\na.nii\n", "row 2 has 1 cells"),
        ("path,class\n,x\n", "names no file"),
        ('path,class\n"a.nii,x\n', "not a table"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(tmp_path / "t.csv")


def test_a_table_of_shapes_is_voxelized(tmp_path: Path, box_source: Path):
    paths = sorted(path.relative_to(box_source).as_posix() for path in box_source.rglob("*.off"))[:6]
    table = tmp_path / "t.csv"
    table.write_text("path,class,split,maker\n" + "".join(f"{p},c{i % 2},train,m{i}\n" for i, p in enumerate(paths)))
    planned = plan(box_source, table=table)
    assert not planned.are_volumes
    voxelize_source(planned.source, tmp_path / "v.h5", VoxelSettings(8, 0), listing=planned.listing, workers=1)
    assert len(open_artifact(tmp_path / "v.h5", VOXELS).read_text("column/maker")) == len(paths)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"),
        ([-5, 300], "int16"),
        ([0, 65535], "uint16"),
        ([0.5, 2.25], "float16"),
        ([-1, 40001], "float32"),
        ([0.1, 1], "float32"),
    ],
)
def test_intensities_are_stored_in_the_smallest_type_that_holds_them(values, dtype):
    found = narrowest(np.array(values, np.float32))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), np.array(values, np.float32))


def test_common_types_hold_both():
    names = ["uint8", "int16", "uint16", "float16", "float32"]
    for one in map(np.dtype, names):
        for other in map(np.dtype, names):
            wide = common_type(one, other)
            assert wide.name in names
            for narrow in (one, other):
                if narrow.kind in "ui":
                    limits = np.array([np.iinfo(narrow).min, np.iinfo(narrow).max])
                    np.testing.assert_array_equal(limits.astype(wide).astype(np.int64), limits)


def test_a_later_volume_widens_what_is_stored(tmp_path: Path):
    blocks = [np.full((70, 1, 2, 2, 2), value, np.float32) for value in (3, -4, 0.1)]
    config = {"volumes": {"channels": 1, "shape": [2, 2, 2], "kind": "intensity"}}
    save_volumes(tmp_path / "v.h5", [(volume, 0) for block in blocks for volume in block], classes=["a", "b"])
    with h5py.File(tmp_path / "v.h5") as file:
        assert file["intensity"].dtype == np.float32
        assert set(file) >= {"intensity", "name"}
        assert "intensity.narrow" not in file
    voxels = open_voxels(tmp_path / "v.h5", in_memory=True)
    np.testing.assert_array_equal(voxels.volumes(range(210)), np.concatenate(blocks))
    with ArtifactWriter(tmp_path / "w.h5", VOXELS, config=config, parents={}) as writer:
        with pytest.raises(ValueError, match="declared float32"):
            writer.append("intensity", blocks[0].astype(np.float64))
        writer._discard()
        writer.id = "x"


def test_a_file_is_prepared_as_the_run_was(tmp_path: Path):
    affine = np.diag([-1.0, 1, 1, 1])
    path = write_nifti(tmp_path / "set/a/train/1.nii.gz", grey(1)[0], affine)
    settings = PreparationSettings(kind="intensity", orientation="RAS", shape=(6, 6, 6), scaling="zscore")
    stored(tmp_path / "set", tmp_path / "v.h5", settings)
    voxels = open_voxels(tmp_path / "v.h5")
    sample = load_sample(
        path,
        voxelization=voxels.voxelization,
        preparation=voxels.preparation,
        input=voxels.input,
        classes=voxels.classes,
        voxels=lambda: voxels,
    )
    # A model has no voxelization either, which would say that there are shapes to graft parts of.
    assert voxels.made_by == {"voxelization": {}, "preparation": settings.to_json() | {"shape": [6, 6, 6]}}
    np.testing.assert_array_equal(sample.volume, voxels.volumes([0])[0])
    np.testing.assert_allclose(sample.index_to_world, voxels.index_to_world(0))
    assert sample.is_placed == voxels.is_placed(0)
    assert sample.name == "1"


def test_an_interrupted_run_that_resamples_goes_on_where_it_stopped(tmp_path: Path):
    folder = tmp_path / "set"
    for index in range(6):
        kind = folder / "ab"[index % 2] / ("train" if index < 4 else "test")
        write_nifti(kind / f"{index}.nii.gz", grey(1)[0])
    (folder / "a/train/broken.nii").write_bytes(b"no scan")
    settings = PreparationSettings(kind="intensity", spacing=(1.0, 1.5, 2.0), shape=(6, 6, 6))
    output = tmp_path / "v.h5"

    def run(output: Path, settings=settings, stop: int = 99):
        def progress(done: int, _: int) -> None:
            if done >= stop:
                raise KeyboardInterrupt

        planned = plan(folder)
        return store_volumes(folder, output, planned.listing, None, settings, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(output, stop=5)
    assert [path.name for path in tmp_path.glob("*v.h5*")] == [".v.h5.journal"]
    summary, whole = run(output), run(tmp_path / "whole.h5")
    assert (summary.n_resumed, whole.n_resumed) == (5, 0)
    assert summary.skipped == whole.skipped
    assert [skip.path for skip in summary.skipped] == ["a/train/broken.nii"]
    assert not list(tmp_path.glob(".v*"))
    with open_artifact(output) as one, open_artifact(tmp_path / "whole.h5") as other:
        assert one.id == other.id
    # With another spacing the run starts again. Without --spacing there is no journal.
    for changed in (replace(settings, spacing=(1.0, 2.0, 2.0)), replace(settings, spacing=None)):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "w.h5", stop=5)
        assert run(tmp_path / "w.h5", changed).n_resumed == 0
        assert not list(tmp_path.glob(".w*"))
        (tmp_path / "w.h5").unlink()


@pytest.mark.end_to_end
def test_command_line_asks_what_grey_values_mean(tmp_path: Path):
    np.savez(tmp_path / "g.npz", images=grey(4), labels=np.arange(4) % 2, split=np.array(["train", "test"] * 2))
    folder = tmp_path / "set/a/train"
    folder.mkdir(parents=True)
    np.save(folder / "1.npy", grey(1)[0])
    for command in ("voxelize g.npz -o v.h5", "voxelize set -o v.h5 --resolution 8"):
        result = fer(*command.split(), folder=tmp_path)
        assert result.code == 3
        assert "--kind" in result.stderr
        assert "--threshold" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "v.h5").exists()
    result = fer("voxelize", "g.npz", "-o", "v.h5", "--kind", "intensity", "--resolution", "8", folder=tmp_path)
    assert result.code == 2
    assert "--shape" in result.stderr
    result = fer("voxelize", "g.npz", "-o", "v.h5", "--kind", "intensity", "--json", folder=tmp_path)
    assert result.code == 0
    assert json.loads(result.stdout)["input"] == {"channels": 1, "shape": list(SHAPE), "kind": "intensity"}
    result = fer("voxelize", "set/a/train/1.npy", "-o", "one.h5", "--kind", "intensity", folder=tmp_path)
    assert "1 volumes of 8×6×5 in 0 classes, intensity stored as float32, 0 skipped" in result.stdout


@pytest.mark.real_data
def test_real_collections(shared_data: Path, tmp_path: Path):
    planned = plan(shared_data / "msd-hippocampus-patches.npz")
    counts = Counter(entry.split for entry in planned.listing.entries)
    assert counts == {"train": 1080, "val": 180, "test": 300}
    stored(shared_data / "msd-hippocampus-patches.npz", tmp_path / "h.h5", PreparationSettings(kind="intensity"))
    voxels = open_voxels(tmp_path / "h.h5")
    with np.load(shared_data / "msd-hippocampus-patches.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
        classes = arrays["classes"]
    order = [int(path.rpartition("/")[2]) for path in voxels.artifact.read_text("source")]
    np.testing.assert_array_equal(voxels.volumes(range(1560))[:, 0], images[order])
    assert [voxels.classes[label] for label in voxels.labels] == [str(classes[label]) for label in labels[order]]
    assert h5py.File(tmp_path / "h.h5")["intensity"].dtype == np.float16
    adrenal = plan(shared_data / "adrenalmnist3d.npz")
    assert Counter(entry.split for entry in adrenal.listing.entries) == {"train": 1188, "val": 98, "test": 298}
