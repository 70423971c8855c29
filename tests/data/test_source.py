import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fer_cli.data.containers import NOT_ZIP, read_file
from fer_cli.data.entries import Entry, Skipped
from fer_cli.data.plan import plan
from fer_cli.data.source import close_archives, list_entries, read_shape_of
from fer_cli.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def _closed_archives():
    yield
    close_archives()


def fill(folder: Path, *paths: str) -> Path:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"content of {path}")
    return folder


def zipped(archive: Path, *paths: str) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore", UserWarning)  # zipfile objects to names that occur twice; so must the reader
        for path in paths:
            opened.writestr(path, f"content of {path}")
    return archive


def rows(source: Path, **options: Any) -> list[tuple[str, str | None, str]]:
    return [(e.name, e.class_name, e.split) for e in list_entries(source, **options).entries]


MODELNET = (
    "sofa/train/sofa_0002.off",
    "sofa/test/sofa_0010.off",
    "sofa/train/sofa_0001.off",
    "bed/train/bed_0001.off",
)


@pytest.mark.parametrize("wrapping", ["", "modelnet10-off/", "a/b c/"])
def test_modelnet_layout_gives_class_and_split(tmp_path: Path, wrapping: str) -> None:
    paths = [wrapping + path for path in MODELNET]
    expected = [
        ("bed_0001", "bed", "train"),
        ("sofa_0001", "sofa", "train"),
        ("sofa_0002", "sofa", "train"),
        ("sofa_0010", "sofa", "test"),
    ]
    folder, archive = fill(tmp_path / "folder", *paths), zipped(tmp_path / "shapes.ZIP", *paths)
    assert rows(folder) == expected
    assert list_entries(folder) == list_entries(archive)
    assert list_entries(folder).classes == ("bed", "sofa")
    for source in (folder, archive):
        for entry in list_entries(source).entries:
            assert read_file(source, entry.path) == f"content of {entry.path}".encode()


def test_3dshapenets_layout_takes_the_label_from_the_folder(tmp_path: Path) -> None:
    folder = fill(tmp_path, "x/cup/30/test/vase_01_1.mat", "x/cup/30/train/cup_02_1.mat")
    assert rows(folder) == [("cup_02_1", "cup", "train"), ("vase_01_1", "cup", "test")]


def test_source_may_be_a_class_folder(tmp_path: Path) -> None:
    assert rows(fill(tmp_path / "cup", "30/train/a.mat")) == [("a", "cup", "train")]
    assert rows(fill(tmp_path / "bed", "test/a.mat")) == [("a", "bed", "test")]


def test_split_may_stand_above_the_class(tmp_path: Path) -> None:
    paths = ["train/bed/a.off", "test/bed/b.off", "TRAIN/sofa/c.off"]
    expected = [("a", "bed", "train"), ("b", "bed", "test"), ("c", "sofa", "train")]
    assert rows(fill(tmp_path / "s", *paths)) == expected
    assert rows(zipped(tmp_path / "s.zip", *[f"modelnet/{path}" for path in paths])) == expected
    assert rows(tmp_path / "s" / "test") == [("b", "bed", "test")]


FLAT = [f"{c}/{c}_{i:02}.off" for c, n in (("bed", 10), ("cup", 25), ("tub", 2), ("one", 1)) for i in range(n)]


def splits(source: Path, **options: Any) -> dict[str, str]:
    return {e.name: e.split for e in list_entries(source, **options).entries}


def test_test_fraction_splits_each_class_in_that_proportion(tmp_path: Path) -> None:
    listing = list_entries(fill(tmp_path / "s", *FLAT, "loose.off"), test_fraction=0.2)
    counts: dict[tuple[str | None, str], int] = {}
    for entry in listing.entries:
        counts[entry.class_name, entry.split] = counts.get((entry.class_name, entry.split), 0) + 1
    assert counts == {
        ("bed", "train"): 8,
        ("bed", "test"): 2,
        ("cup", "train"): 20,
        ("cup", "test"): 5,
        ("tub", "train"): 1,
        ("tub", "test"): 1,
        ("one", "train"): 1,
        (None, "unlabelled"): 1,
    }
    assert listing.classes == ("bed", "cup", "one", "tub")
    assert all(split == "unlabelled" for split in splits(tmp_path / "s", layout="none").values())


def test_test_fraction_depends_on_the_seed_and_the_names_alone(tmp_path: Path) -> None:
    whole = splits(fill(tmp_path / "whole", *FLAT), test_fraction=0.3, seed=1)
    assert whole == splits(tmp_path / "whole", test_fraction=0.3, seed=1)
    assert whole != splits(tmp_path / "whole", test_fraction=0.3, seed=2)
    assert whole == splits(
        zipped(tmp_path / "s.zip", *[f"wrapping/{path}" for path in reversed(FLAT)]), test_fraction=0.3, seed=1
    )
    cups = splits(
        fill(tmp_path / "part", *[path for path in FLAT if path.startswith("cup/")]), test_fraction=0.3, seed=1
    )
    assert cups.items() <= whole.items()
    assert splits(tmp_path / "whole", test_fraction=0.3, seed=1, per_class=3).items() <= whole.items()
    wider = splits(tmp_path / "whole", test_fraction=0.6, seed=1)
    assert {name for name, split in whole.items() if split == "test"} < {n for n, s in wider.items() if s == "test"}


def test_test_fraction_leaves_a_split_that_is_there(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", "cup/train/a.off", "cup/b.off", "cup/30/c.mat")
    assert rows(folder, test_fraction=0.5)[0] in [("b", "cup", "train"), ("a", "cup", "train")]
    assert sorted(splits(folder, test_fraction=0.5).values()) == ["test", "train", "train"]


def test_test_fraction_of_no_use_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", *FLAT)
    for fraction in (0.0, 1.0, -0.1, 20.0, float("nan")):
        with pytest.raises(UsageError, match=f"a test fraction of {fraction:g} leaves nothing to train or test"):
            list_entries(folder, test_fraction=fraction)
    for source in (fill(tmp_path / "split", *MODELNET), fill(tmp_path / "loose", "a.off"), folder / FLAT[0]):
        with pytest.raises(UsageError, match="a test fraction is for <class>/<file>, but no shape lies so"):
            list_entries(source, test_fraction=0.2)


def test_shapes_of_no_layout_are_unlabelled(tmp_path: Path) -> None:
    assert rows(fill(tmp_path / "s", "chair/b.off", "a.OFF", "chair/x.y.off"), layout="none") == [
        ("a", None, "unlabelled"),
        ("b", None, "unlabelled"),
        ("x.y", None, "unlabelled"),
    ]
    assert list_entries(tmp_path / "s", layout="none").classes == ()
    assert rows(fill(tmp_path / "flat", "b.off")) == [("b", None, "unlabelled")]


def test_single_file_is_one_unlabelled_entry(tmp_path: Path) -> None:
    file = fill(tmp_path, "my chair.off") / "my chair.off"
    (entry,) = list_entries(file).entries
    assert entry == Entry("my chair", "my chair.off", None, "unlabelled")
    assert read_file(file, entry.path) == b"content of my chair.off"


def test_names_that_collide_are_told_apart_and_none_is_lost(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "s",
        "bed/train/1.off",
        "sofa/train/1.off",
        "sofa/train/2.off",
        "sofa/test/2.off",
        "sofa/test/3.off",
        "sofa/test/3.mat",
        "sofa/train/bed_1.off",
        "loose/1.off",
    )
    names = {entry.path: entry.name for entry in list_entries(folder).entries}
    assert names == {
        "bed/train/1.off": "bed_train_1",
        "sofa/train/bed_1.off": "sofa_bed_1",
        "sofa/train/1.off": "sofa_1",
        "loose/1.off": "loose_1",
        "sofa/train/2.off": "sofa_train_2",
        "sofa/test/2.off": "sofa_test_2",
        "sofa/test/3.off": "sofa_test_3.off",
        "sofa/test/3.mat": "sofa_test_3.mat",
    }


def test_per_class_is_evenly_spaced_within_each_split(tmp_path: Path) -> None:
    paths = [f"{c}/{s}/{c}_{s}{i:02}.off" for c in ("bed", "sofa") for s in ("train", "test") for i in range(10)]
    folder = fill(tmp_path, *paths, "tub/train/tub_00.off")
    chosen = rows(folder, per_class=3)
    assert [name for name, c, split in chosen if (c, split) == ("sofa", "train")] == [
        f"sofa_train0{i}" for i in (0, 3, 6)
    ]
    assert len(chosen) == 13
    assert rows(folder, per_class=99) == rows(folder)
    with pytest.raises(UsageError, match="0 shapes per class"):
        list_entries(folder, per_class=0)


def test_hidden_files_and_documents_are_passed_over_and_other_shapes_are_named(tmp_path: Path) -> None:
    paths = [
        "bed/train/a.off",
        "bed/train/b.fbx",
        "bed/train/.c.off",
        "__MACOSX/bed/train/a.off",
        ".git/a.off",
        "LICENSE.txt",
    ]
    for source in (fill(tmp_path / "s", *paths), zipped(tmp_path / "s.zip", *paths)):
        listing = list_entries(source)
        assert [entry.path for entry in listing.entries] == ["bed/train/a.off"]
        (skipped,) = listing.skipped
        assert skipped.path == "bed/train/b.fbx"
        assert "does not read .fbx files; known are .off, " in skipped.reason


def test_every_file_that_looks_like_data_is_read_or_named(tmp_path: Path) -> None:
    data = [
        "a.drc",
        "b.vtu",
        "c.vti",
        "d.zip",
        "e.tar.gz",
        "f.txt",
        "g.gltf",
        "h.blend",
        "i.pts",
        "j.h5",
        "k.raw",
        "l.pt",
    ]
    passed = ["README", "LICENSE.txt", "shape_names.txt", "modelnet40_train.txt", "a.mtl", "a.png", "a.json", "b.csv"]
    paths = [f"bed/train/{name}" for name in (*data, *passed, "x.off", "y.off.gz", "z.npz")]
    points = {"bed/test/points.txt": b"1,2,3,0,0,1\n", "bed/test/points.csv": b"1,2,3\n", "bed/test/blob": bytes(9)}
    for source in (fill(tmp_path / "s", *paths), zipped(tmp_path / "s.zip", *paths)):
        if source.is_dir():
            for path, content in points.items():
                (source / path).parent.mkdir(exist_ok=True)
                (source / path).write_bytes(content)
        else:
            with zipfile.ZipFile(source, "a") as opened:
                for path, content in points.items():
                    opened.writestr(path, content)
        listing = list_entries(source)
        assert {entry.path for entry in listing.entries} == {
            "bed/train/x.off", "bed/train/y.off.gz", "bed/train/z.npz", "bed/test/points.txt",
        }  # fmt: skip
        reasons = {item.path.rpartition("/")[2]: item.reason for item in listing.skipped}
        assert sorted(reasons) == sorted([*data, "points.csv", "blob"])
        in_archive = "is an archive or compressed file within an archive; unpack it"
        assert reasons["d.zip"] == "is not a usable .zip: File is not a zip file"
        assert reasons["e.tar.gz"] == (NOT_ZIP if source.is_dir() else in_archive)
        assert reasons["f.txt"].startswith("is no text of points")
        assert reasons["l.pt"].startswith("fer does not read .pt files; known are .off")
        with pytest.raises(InputError, match="bed/test/blob: fer does not read such files"):
            listing.require_whole(strict=True)


def test_pointers_of_git_lfs_are_named_whatever_they_stand_for(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    for name in ("a.zip", "a.csv", "train.h5", "a.npz", "a.txt", "a.off"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(InputError, match="a pointer of Git LFS, not the file itself; run 'git lfs pull'"):
            read_shape_of(tmp_path / name, plan(tmp_path / name).listing.entries[0])


def test_scans_among_shapes_are_named_and_shapes_are_read(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", "a/train/x.off", "a/train/y.nii.gz", "a/train/z.npy", "b/test/w.nrrd")
    planned = plan(source)
    assert not planned.are_volumes
    assert [entry.path for entry in planned.listing.entries] == ["a/train/x.off", "a/train/z.npy"]
    assert planned.listing.classes == ("a",)
    assert [(item.path, item.reason[:25]) for item in planned.listing.skipped] == [
        ("a/train/y.nii.gz", "is a volume among shapes;"),
        ("b/test/w.nrrd", "is a volume among shapes;"),
    ]
    assert plan(source, as_volumes=True).are_volumes
    assert plan(fill(tmp_path / "grids", "a/train/x.npz", "a/train/y.npy")).are_volumes


def test_folder_named_like_a_shape_is_skipped_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "bed/train/a.off")
    (tmp_path / "bed/train/b.off").mkdir()
    os.mkfifo(tmp_path / "bed/train/c.off")
    (tmp_path / "bed/train/d.off").symlink_to("nowhere")
    listing = list_entries(tmp_path)
    assert [entry.name for entry in listing.entries] == ["a"]
    assert listing.skipped == (
        Skipped("bed/train/b.off", "is a folder"),
        Skipped("bed/train/c.off", "is not a regular file"),
        Skipped("bed/train/d.off", "is not a regular file"),
    )


def test_odd_names_are_kept(tmp_path: Path) -> None:
    assert [name for name, *_ in rows(fill(tmp_path / "s", "ü/train/ß \n1.off"))] == ["ß \n1"]
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s/\xfc/train/\xff.off"))
    latin.parent.mkdir(parents=True)
    latin.write_text("content")
    entry = list_entries(tmp_path / "s").entries[0]
    assert (entry.name, entry.class_name) == ("?", "?")
    assert read_file(tmp_path / "s", entry.path) == b"content"


def test_hostile_members_of_an_archive_are_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_cli.data.archives._BOMB_BYTES", 1000)
    hostile = ["/etc/train/a.off", "../train/b.off", "bed/train/../../../c.off", "C:/train/d.off", "..\\train\\e.off"]
    archive = zipped(tmp_path / "s.zip", "bed/train/f.off", "./bed/train/g.off", *hostile)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bed/train/bomb.off", b"0" * 1_000_000)
        opened.writestr("bed/train/secret.off", b"OFF")
        opened.mkdir("bed/train/folder.off")
    content = bytearray(archive.read_bytes())
    for signature, flags, name in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        for match in re.finditer(re.escape(signature), bytes(content)):
            if content[match.start() + name :].startswith(b"bed/train/secret.off"):
                content[match.start() + flags] |= 1
    archive.write_bytes(content)
    listing = list_entries(archive)
    assert [entry.name for entry in listing.entries] == ["f", "g"]
    reasons = {item.path: item.reason for item in listing.skipped}
    assert {path: reasons.pop(path) for path in hostile} == dict.fromkeys(hostile, "its path leads out of the archive")
    assert reasons.pop("bed/train/secret.off") == "is encrypted"
    assert "grow to 1000000, refused as a zip bomb" in reasons.pop("bed/train/bomb.off")
    assert reasons == {"bed/train/folder.off": "is a folder"}


def test_files_beyond_the_limit_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_cli.data.archives.MAX_FILE_BYTES", 30)
    paths = ["t/a.off", "a very long path makes a long file/a.off"]
    for source in (fill(tmp_path / "s", *paths), zipped(tmp_path / "s.zip", *paths)):
        listing = list_entries(source, layout="none")
        assert [entry.path for entry in listing.entries] == ["t/a.off"]
        assert listing.skipped == (Skipped(paths[1], "51 bytes, more than 30"),)
    with pytest.raises(InputError, match=r"a\.off: 51 bytes, more than 30"):
        list_entries(tmp_path / "s" / paths[1])


def test_member_replaced_within_the_archive_is_named(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", "bed/train/a.off", "bed/train/a.off")
    listing = list_entries(archive)
    assert len(listing.entries) == 1
    assert listing.skipped == (Skipped("bed/train/a.off", "is replaced by a later member of the same name"),)


def test_unusable_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 no archive")
    zipped(tmp_path / "useless.zip", "readme.txt", "../a.off")
    fill(tmp_path, "notes.txt")
    os.mkfifo(tmp_path / "pipe.off")
    (tmp_path / "device.zip").symlink_to("/dev/zero")
    for name, message in [
        ("pipe.off", "pipe.off is neither a folder nor a regular file"),
        ("device.zip", "device.zip is neither a folder nor a regular file"),
        ("missing", "missing does not exist"),
        ("notes.txt/deeper", "cannot be read: Not a directory"),
        ("empty", "empty holds no shape that fer reads; known are .off, .obj, .stl, .ply, .glb, .pcd"),
        ("useless.zip", r"holds no shape that fer reads \(1 skipped, the first: ../a.off: its path leads out"),
        ("broken.zip", "broken.zip is not a usable .zip: File is not a zip file"),
        ("notes.txt", "notes.txt is not a shape that fer reads; known are .off"),
    ]:
        with pytest.raises(InputError, match=message):
            list_entries(tmp_path / name)


def test_entries_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", "bed/train/a.off")
    (entry,) = list_entries(folder).entries
    (folder / entry.path).unlink()
    with pytest.raises(InputError, match=r"bed/train/a\.off: cannot be read: No such file"):
        read_file(folder, entry.path)
    archive = zipped(tmp_path / "s.zip", entry.path)
    archive.write_bytes(archive.read_bytes().replace(b"PK\3\4", b"PK\3\5"))
    with pytest.raises(InputError, match=r"bed/train/a.off: cannot be unpacked from s.zip"):
        read_file(archive, entry.path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that exists and cannot be read")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.off").symlink_to("/proc/self/mem")
    (entry,) = list_entries(tmp_path).entries
    with pytest.raises(InputError, match=r"a\.off: cannot be read: Input/output error"):
        read_file(tmp_path, entry.path)


def test_archive_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", "bed/train/a.off")
    read_file(archive, list_entries(archive).entries[0].path)
    archive.unlink()
    zipped(archive, "bed/train/b.off")
    (entry,) = list_entries(archive).entries
    assert read_file(archive, entry.path) == b"content of bed/train/b.off"
