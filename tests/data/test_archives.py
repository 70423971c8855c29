"""Archives within a folder: read as folders, or named with what to do."""

import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from fer_cli.data.containers import NOT_ZIP, file_on_disk, read_file
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.plan import plan
from fer_cli.data.source import close_archives, list_entries, read_volume
from fer_cli.data.voxelize import voxelize_source
from fer_cli.errors import InputError
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import VOXELS
from slices import VALUES, dicom_slice

OFF = "OFF\n4 4 0\n0 0 0\n{} 0 0\n0 3 0\n0 0 2\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


@pytest.fixture(autouse=True)
def _closed_archives():
    yield
    close_archives()


def pack(path: Path, *names: str) -> Path:
    """An archive of shapes, each another, and known by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore", UserWarning)  # zipfile objects to names that occur twice
        for name in names:
            opened.writestr(name, content_of(name))
    return path


def put_file(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content_of(name))


def content_of(name: str) -> str:
    return OFF.format(4 + sum(map(ord, name)) % 97 / 8)


MODELNET = [f"{c}/{s}/{c}_{s}{i}.off" for c in ("bed", "sofa") for s in ("train", "test") for i in range(2)]
FLAT = [f"{c}/{c}_{i}.off" for c in ("bed", "sofa") for i in range(4)]
BY_CLASS = {
    f"{c}.zip": [path.partition("/")[2] for path in MODELNET if path.startswith(f"{c}/")] for c in ("bed", "sofa")
}
BY_SPLIT = {
    f"{s}.zip": ["/".join((path.split("/")[0], path.split("/")[2])) for path in MODELNET if f"/{s}/" in path]
    for s in ("train", "test")
}


def wrapped(archives: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Each archive with one folder of its own name, as many programs pack."""
    return {archive: [f"{archive[:-4]}/{name}" for name in names] for archive, names in archives.items()}


@pytest.mark.parametrize(
    "archives",
    [
        {"ModelNet.zip": MODELNET},
        wrapped({"ModelNet.ZIP": MODELNET}),
        {"deeper/ModelNet.zip": [f"some folder/{name}" for name in MODELNET]},
        BY_CLASS,
        wrapped(BY_CLASS),
        BY_SPLIT,
        wrapped(BY_SPLIT),
        {f"{c}/{s}.zip": [f"{c}_{s}{i}.off" for i in range(2)] for c in ("bed", "sofa") for s in ("train", "test")},
    ],
)  # fmt: skip
def test_archives_are_read_as_folders_and_the_layout_is_that_of_them_all(
    archives: dict[str, list[str]], tmp_path: Path
) -> None:
    for archive, names in archives.items():
        pack(tmp_path / "s" / archive, *names)
    listing = list_entries(tmp_path / "s")
    assert not listing.skipped
    assert {(e.name, e.class_name, e.split) for e in listing.entries} == {
        (path.rpartition("/")[2][:-4], path.split("/")[0], path.split("/")[1]) for path in MODELNET
    }
    for entry in listing.entries:
        archive, _, member = re.split(r"(?i)(?<=\.zip)(/)", entry.path, maxsplit=1)
        assert (tmp_path / "s" / archive).is_file()
        assert read_file(tmp_path / "s", entry.path) == content_of(member).encode()


def test_archives_of_classes_without_a_split_are_classes(tmp_path: Path) -> None:
    for name in ("bed", "sofa"):
        pack(tmp_path / f"{name}.zip", *[path.partition("/")[2] for path in FLAT if path.startswith(name)])
    put_file(tmp_path / "cup/cup_0.off", "cup")
    put_file(tmp_path / "cup/cup_1.off", "cap")
    listing = list_entries(tmp_path, test_fraction=0.25)
    assert listing.classes == ("bed", "cup", "sofa")
    counts = {(c, s): 0 for c in listing.classes for s in ("train", "test")}
    for entry in listing.entries:
        counts[str(entry.class_name), entry.split] += 1
    assert counts == {
        ("bed", "train"): 3, ("bed", "test"): 1, ("cup", "train"): 1, ("cup", "test"): 1, ("sofa", "train"): 3,
        ("sofa", "test"): 1,
    }  # fmt: skip


def test_a_class_called_as_its_archive_is_not_lost_beside_others(tmp_path: Path) -> None:
    pack(tmp_path / "train.zip", "train/a.off", "car/b.off")
    pack(tmp_path / "test.zip", "train/c.off", "car/d.off")
    found = {(e.name, e.class_name, e.split) for e in list_entries(tmp_path).entries}
    assert found == {
        ("a", "train", "train"), ("b", "car", "train"), ("c", "train", "test"), ("d", "car", "test"),
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["", "set/"])
@pytest.mark.parametrize("n_unpacked", [2, 3])
def test_an_archive_that_is_unpacked_beside_itself_is_not_read_twice(
    folder: str, n_unpacked: int, tmp_path: Path
) -> None:
    names = ["bed/train/x.off", "bed/test/y.off", "cup/train/z.off"]
    pack(tmp_path / "set.zip", *names, "readme.md")
    for name in names[:n_unpacked]:
        put_file(tmp_path / folder / name, name)
    listing = list_entries(tmp_path)
    assert sorted(entry.path for entry in listing.entries) == sorted(folder + name for name in names[:n_unpacked])
    reason = f"{n_unpacked} of its 3 files lie unpacked beside it and are read there; the archive is not"
    assert [(item.path, item.reason) for item in listing.skipped] == [("set.zip", reason)]


def test_archives_that_are_not_read_are_named_with_what_to_do(tmp_path: Path) -> None:
    pack(tmp_path / "s/good.zip", "bed/train/a.off", "bed/test/b.off", "inner.zip", "inner.tar.gz", "../out.off")
    for name in ("a.tar", "b.tar.gz", "c.tgz", "d.7z", "e.rar", "f.tar.xz"):
        (tmp_path / "s" / name).write_bytes(b"content")
    (tmp_path / "s/broken.zip").write_bytes(b"PK\3\4 no archive")
    (tmp_path / "s/gone.zip").symlink_to(tmp_path / "nowhere")
    pack(tmp_path / "s/pictures.zip", "a.png", "readme.md")
    listing = list_entries(tmp_path / "s")
    assert [entry.path for entry in listing.entries] == ["good.zip/bed/train/a.off", "good.zip/bed/test/b.off"]
    within = "is an archive or compressed file within an archive; unpack it"
    assert {item.path: item.reason for item in listing.skipped} == {
        **dict.fromkeys(("a.tar", "b.tar.gz", "c.tgz", "d.7z", "e.rar", "f.tar.xz"), NOT_ZIP),
        "broken.zip": "is not a usable .zip: File is not a zip file",
        "gone.zip": "is not a regular file",
        "pictures.zip": "is an archive that holds no shape",
        "good.zip/inner.zip": "is not a usable .zip: File is not a zip file",
        "good.zip/inner.tar.gz": within,
        "good.zip/../out.off": "its path leads out of the archive",
    }
    with pytest.raises(InputError, match=r"^a\.tar: is an archive or compressed file .*; unpack it, or pack"):
        listing.require_whole(strict=True)
    with pytest.raises(InputError, match=r"b\.tar\.gz is an archive or compressed file .*; unpack it, or pack"):
        list_entries(tmp_path / "s/b.tar.gz")
    (tmp_path / "only").mkdir()
    (tmp_path / "only/train.tar").write_bytes(b"content")
    with pytest.raises(InputError, match=r"1 skipped, the first: train\.tar: is an archive .*; unpack it"):
        list_entries(tmp_path / "only")


def nested(path: Path, archives: Mapping[str, list[str]]) -> Path:
    """An archive of archives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as outer:
        for name, members in archives.items():
            inner = pack(path.parent / "inner" / name, *members)
            outer.write(inner, name)
            inner.unlink()
    return path


@pytest.mark.parametrize("archives", [BY_CLASS, wrapped(BY_SPLIT), {"deeper/ModelNet.zip": MODELNET}])
@pytest.mark.parametrize("in_folder", [False, True])
def test_archives_in_an_archive_are_read_as_folders_in_it(
    archives: dict[str, list[str]], in_folder: bool, tmp_path: Path
) -> None:
    outer = nested(tmp_path / "s/all.zip", archives)
    source = tmp_path / "s" if in_folder else outer
    shutil.rmtree(tmp_path / "s/inner")
    listing = list_entries(source)
    assert not listing.skipped
    assert {(e.name, e.class_name, e.split) for e in listing.entries} == {
        (path.rpartition("/")[2][:-4], path.split("/")[0], path.split("/")[1]) for path in MODELNET
    }
    for entry in listing.entries:
        member = entry.path.removeprefix("all.zip/").partition(".zip/")[2]
        assert read_file(source, entry.path) == content_of(member).encode()
        assert file_on_disk(source, entry.path) == outer


def test_archives_are_opened_one_level_deep_and_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    innermost = pack(tmp_path / "c.zip", "bed/train/a.off", "bed/test/b.off")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as middle:
        middle.write(innermost, "c.zip")
        middle.writestr("bed/train/d.off", content_of("d"))
        middle.writestr("bed/test/e.off", content_of("e"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as outer:
        outer.write(tmp_path / "b.zip", "b.zip")
    listing = list_entries(tmp_path / "a.zip")
    assert sorted(entry.path for entry in listing.entries) == ["b.zip/bed/test/e.off", "b.zip/bed/train/d.off"]
    [skipped] = listing.skipped
    assert (skipped.path, skipped.reason) == (
        "b.zip/c.zip",
        "is an archive or compressed file within an archive; unpack it",
    )
    monkeypatch.setattr("fer_cli.data.archives.MOST_WITHIN", 100)
    with pytest.raises(InputError, match=r"b\.zip: takes more than 0 MiB within a\.zip; unpack it"):
        list_entries(tmp_path / "a.zip")


def test_an_archive_in_an_archive_that_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    outer = nested(tmp_path / "s/all.zip", {"train.zip": ["bed/a.off"], "test.zip": ["bed/b.off"]})
    content = bytearray(outer.read_bytes())
    content[:4] = b"PK\0\0"  # the header of train.zip
    outer.write_bytes(content)
    listing = list_entries(outer, layout="split/class")
    assert [entry.path for entry in listing.entries] == ["test.zip/bed/b.off"]
    [skipped] = listing.skipped
    assert (skipped.path, skipped.reason) == (
        "train.zip",
        "is not a usable .zip: Bad magic number for file header",
    )


def test_more_archives_than_stay_open_are_read_in_any_order(tmp_path: Path) -> None:
    for number in range(20):
        pack(tmp_path / f"class{number:02}.zip", f"train/{number}a.off", f"test/{number}b.off")
    entries = list_entries(tmp_path).entries
    for entry in (*entries[::2], *entries[1::2]):
        assert read_file(tmp_path, entry.path) == content_of(entry.path.partition("/")[2]).encode()


def test_folder_called_as_an_archive_is_a_folder(tmp_path: Path) -> None:
    put_file(tmp_path / "s.zip/bed.zip/train/a.off", "a")
    assert [(e.path, e.class_name) for e in list_entries(tmp_path / "s.zip").entries] == [
        ("bed.zip/train/a.off", "bed")
    ]
    assert read_file(tmp_path / "s.zip", "bed.zip/train/a.off") == content_of("a").encode()


def test_tables_name_members_of_archives(tmp_path: Path) -> None:
    pack(tmp_path / "s/a.zip", "x.off", "y.off")
    put_file(tmp_path / "s/z.off", "z")
    table = tmp_path / "t.csv"
    table.write_text(
        "path,class,split\na.zip/x.off,u,train\nz.off,v,test\na.zip/no.off,u,train\nno.zip/x.off,u,train\n"
    )
    listing = plan(tmp_path / "s", table=table).listing
    assert [(e.path, e.class_name, e.split) for e in listing.entries] == [
        ("a.zip/x.off", "u", "train"), ("z.off", "v", "test"),
    ]  # fmt: skip
    assert {item.path: item.reason for item in listing.skipped} == {
        "a.zip/no.off": "is not in the archive",
        "no.zip/x.off": "does not exist, or is not a regular file",
    }


def pack_slices(archive: Path, folder: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for z in range(4):
            opened.writestr(f"{folder}/{z}.dcm", dicom_slice(z))


def test_slices_in_an_archive_are_a_sample(tmp_path: Path) -> None:
    pack_slices(tmp_path / "s/a.zip", "train/case1")
    pack_slices(tmp_path / "s/b.zip", "test/case2")
    entries = list_entries(tmp_path / "s").entries
    assert [(e.name, e.class_name, e.split, len(e.files)) for e in entries] == [
        ("case1", "a", "train", 4), ("case2", "b", "test", 4),
    ]  # fmt: skip
    table = tmp_path / "t.csv"
    table.write_text("path,class,split\na.zip/train/case1,u,train\nb.zip/test/case2,v,test\n")
    for found in (entries, plan(tmp_path / "s", table=table).listing.entries):
        assert len(found) == 2
        for entry in found:
            np.testing.assert_array_equal(
                read_volume(tmp_path / "s", entry).values[0], VALUES.astype(np.int64) * 2 - 1024
            )


def stored(path: Path) -> dict[str, list[object]]:
    with open_artifact(path, VOXELS) as artifact:
        return {name: artifact.read(name).tolist() for name in ("occupancy", "name", "label", "split")}


def stop_after(count: int) -> Callable[[int, int], None]:
    def stop(done: int, total: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return stop


def test_archives_give_the_artifact_that_folders_give_and_a_changed_one_begins_afresh(tmp_path: Path) -> None:
    names = [f"{s}/{c}_{i:02}.off" for c in ("bed",) for s in ("train", "test") for i in range(20)]
    for name in names:
        put_file(tmp_path / "folders/bed" / name, name)
    pack(tmp_path / "packed/bed.zip", *names)
    eight = VoxelSettings(8, 0)
    voxelize_source(tmp_path / "folders", tmp_path / "f.h5", eight, workers=1)
    output = tmp_path / "p.h5"

    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            voxelize_source(tmp_path / "packed", output, eight, workers=1, progress=stop_after(16), force=True)

    interrupt()
    assert voxelize_source(tmp_path / "packed", output, eight, workers=1).n_resumed >= 16
    assert stored(output) == stored(tmp_path / "f.h5")
    interrupt()
    pack(tmp_path / "packed/bed.zip", *reversed(names))
    assert voxelize_source(tmp_path / "packed", output, eight, workers=1, force=True).n_resumed == 0
