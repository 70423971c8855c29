import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fer_cli.data.entries import SPLIT_WORDS, Entry
from fer_cli.data.layouts import Layout, parse_layout, place
from fer_cli.data.plan import plan
from fer_cli.data.source import close_archives, list_entries
from fer_cli.errors import InputError, UsageError
from forks import fer

STEADY = settings(derandomize=True, deadline=None, database=None)
OFF = "OFF\n4 4 0\n0 0 0\n4 0 0\n0 3 0\n0 0 2\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


def placed(*paths: str, root: str = "source", layout: str | None = None) -> dict[str, tuple[str | None, str]]:
    entries = [Entry(path.rpartition("/")[2].partition(".")[0], path, None, "unlabelled") for path in paths]
    found, _ = place(entries, root, None if layout is None else parse_layout(layout))
    return {entry.path: (entry.class_name, entry.split) for entry in found}


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for number, name in enumerate(names):
            opened.writestr(name, OFF.replace("4 0 0", f"{4 + number} 0 0"))
    return path


# ----------------------------------------------------------------------------------------------- classes and splits

KNOWN = {
    "a class called as a split, below the split": {
        "train/Car/a.off": ("Car", "train"),
        "test/Car/b.off": ("Car", "test"),
        "train/Train/c.off": ("Train", "train"),
        "test/Train/d.off": ("Train", "test"),
    },
    "a class called as a split, above the split": {
        "Test/train/a.off": ("Test", "train"),
        "Test/test/b.off": ("Test", "test"),
        "Bus/val/c.off": ("Bus", "val"),
        "Bus/train/d.off": ("Bus", "train"),
    },
    "numbers above": {
        "0/train/a.off": ("0", "train"),
        "10/train/b.off": ("10", "train"),
        "30/test/c.off": ("30", "test"),
    },
    "numbers below": {"train/7/a.off": ("7", "train"), "train/8/b.off": ("8", "train"), "test/7/c.off": ("7", "test")},
    "synsets with folders of shapes": {
        "train/02691156/0a/models/model.obj": ("02691156", "train"),
        "train/03001627/1b/models/model.obj": ("03001627", "train"),
        "val/03001627/2c/models/model.obj": ("03001627", "val"),
        "test/02691156/3d/models/model.obj": ("02691156", "test"),
    },
    "shapes in folders of their own under the split": {
        "chair/train/0a/model.obj": ("chair", "train"),
        "chair/test/1b/model.obj": ("chair", "test"),
        "bed/train/2c/model.obj": ("bed", "train"),
    },
    "3DShapeNets": {
        "x/cup/30/train/a.mat": ("cup", "train"),
        "x/cup/30/test/b.mat": ("cup", "test"),
        "x/bed/30/train/c.mat": ("bed", "train"),
    },
    "wrapped twice": {
        "m/m/chair/train/a.off": ("chair", "train"),
        "m/m/bed/test/b.off": ("bed", "test"),
    },
    "the words of other collections": {
        "Training/bed/a.off": ("bed", "train"),
        "VALID/bed/b.off": ("bed", "val"),
        "testing/cup/c.off": ("cup", "test"),
    },
}  # fmt: skip


@pytest.mark.parametrize("expected", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("wrapping", ["", "wrapping/"])
def test_folders_name_class_and_split(expected: dict[str, tuple[str, str]], wrapping: str) -> None:
    assert placed(*(wrapping + path for path in expected)) == {wrapping + p: e for p, e in expected.items()}


ALONE = {
    "a class called train": {"Train/a.off": "Train", "Train/b.off": "Train", "Car/c.off": "Car"},
    "numbers": {"0/a.off": "0", "0/b.off": "0", "1/c.off": "1"},
    "ShapeNetCore": {
        "02691156/0a/models/model_normalized.obj": "02691156",
        "02691156/1b/models/model_normalized.obj": "02691156",
        "03001627/0a/models/model_normalized.obj": "03001627",
    },
    "ShapeNetCore with a class train": {
        "train/0a/models/model.obj": "train",
        "train/1b/models/model.obj": "train",
        "bus/2c/models/model.obj": "bus",
    },
    "one class of ShapeNetCore": {
        "03001627/0a/models/model.obj": "03001627",
        "03001627/1b/models/model.obj": "03001627",
    },
    "a folder of a resolution": {"cup/30/a.mat": "cup", "bed/30/b.mat": "bed", "bed/30/c.mat": "bed"},
    "loose shapes beside": {"cup/a.off": "cup", "bed/b.off": "bed", "c.off": None},
    "deeper folders in some": {"cup/a.off": "cup", "cup/old/b.off": "cup", "bed/c.off": "bed"},
}


@pytest.mark.parametrize("expected", ALONE.values(), ids=ALONE)
def test_folders_name_the_class_where_there_is_no_split(expected: dict[str, str | None]) -> None:
    assert placed(*expected) == {path: (name, "unlabelled") for path, name in expected.items()}


def test_source_itself_may_be_the_class_or_the_split() -> None:
    assert placed("train/a.off", "test/b.off", root="Train") == {
        "train/a.off": ("Train", "train"),
        "test/b.off": ("Train", "test"),
    }
    assert placed("cup/a.off", "Train/b.off", root="test") == {
        "cup/a.off": ("cup", "test"),
        "Train/b.off": ("Train", "test"),
    }


UNCLEAR = {
    "both levels are splits": (
        ["train/test/a.off", "test/train/b.off"],
        "--layout split/class (classes test, train; splits test, train), or --layout class/split (classes",
    ),
    "a folder beside the splits": (
        ["train/cup/a.off", "test/cup/b.off", "more/cup/c.off"],
        "--layout class (classes more, test, train), or --layout split/class (classes cup; splits test, train)",
    ),
    "classes of two depths": (
        ["furniture/bed/a.off", "furniture/bed/b.off", "furniture/cup/c.off", "animal/cat/d.off", "animal/dog/e.off"],
        "--layout class (classes animal, furniture), or --layout */class (classes bed, cat, cup, dog)",
    ),
    "folders above and below the split": (
        ["A/train/cup/a.off", "A/train/bed/b.off", "B/train/bed/c.off", "B/test/cup/d.off"],
        "--layout class/split (classes A, B; splits test, train), or --layout */split/class",
    ),
    "a shape outside its split": (
        ["cup/train/a.off", "cup/test/b.off", "test/c.off"],
        "--layout class/split (classes cup, test; splits test, train), or --layout class (",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "said"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_decided_is_refused_with_the_readings_that_are_possible(paths: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        placed(*paths)
    message = str(caught.value)
    assert said in message
    assert message.startswith("the folders of source can be read in more than one way; say which: --layout ")
    for reading in message.split("--layout ")[1:]:
        found = placed(*paths, layout=reading.split(" ")[0])
        assert {name for name, _ in found.values()} != {None}


def test_layout_that_is_given_decides() -> None:
    paths = ["train/test/a.off", "test/train/b.off"]
    assert placed(*paths, layout="split/class") == {paths[0]: ("test", "train"), paths[1]: ("train", "test")}
    assert placed(*paths, layout="class/split") == {paths[0]: ("train", "test"), paths[1]: ("test", "train")}
    assert placed(*paths, layout="*/class") == {paths[0]: ("test", "unlabelled"), paths[1]: ("train", "unlabelled")}
    assert placed(*paths, layout="none") == dict.fromkeys(paths, (None, "unlabelled"))
    assert placed("train/a.off", "c/d.off", layout="split") == {
        "train/a.off": ("source", "train"),
        "c/d.off": (None, "unlabelled"),
    }


@pytest.mark.parametrize("text", ["", "klass", "class/class", "*", "split//class", "class/none", "x" * 5000, "*/" * 99])
def test_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no layout; give the folders from the outermost on"):
        parse_layout(text)


@given(st.permutations(["class", "split", "*", "*"]).map(lambda words: "/".join(words).rstrip("*/") or "class"))
@STEADY
def test_layout_is_shown_as_it_is_given(text: str) -> None:
    assert str(parse_layout(text)) == text


NAMES = st.sampled_from(["Car", "Train", "test", "Validation", "0", "7", "30", "02691156", "models", "ü b"])


@st.composite
def listings(draw: st.DrawFn) -> dict[str, tuple[str, str]]:
    """Paths with the class and the split that they were made of, in either order."""
    classes = draw(st.lists(NAMES, min_size=2, max_size=4, unique_by=str.lower))
    words = draw(st.sampled_from([("train", "test"), ("Train", "val", "TEST"), ("training", "testing")]))
    above, wrapping = draw(st.booleans()), draw(st.sampled_from(["", "set/", "a b/set/"]))
    tail = draw(st.sampled_from(["{n}.off", "{n}/models/model.obj", "30/{n}.mat"] if not above else ["{n}.off"]))
    paths = {}
    for number in range(draw(st.integers(4, 12))):
        name, word = draw(st.sampled_from(classes)), draw(st.sampled_from(words))
        folders = f"{name}/{word}" if above else f"{word}/{name}"
        paths[f"{wrapping}{folders}/{tail.format(n=f's{number}')}"] = (name, SPLIT_WORDS[word.lower()])
    assume(len({name for name, _ in paths.values()}) > 1)
    return paths


@given(listings())
@settings(STEADY, max_examples=400)
def test_no_shape_comes_into_another_split_or_class(expected: dict[str, tuple[str, str]]) -> None:
    """What is not refused is right, whatever the classes are called."""
    try:
        found = placed(*expected)
    except InputError as error:
        assert "can be read in more than one way" in str(error)  # noqa: PT017
        return
    assert found == expected


# ------------------------------------------------------------------------------------------------------ the command


@pytest.mark.end_to_end
def test_plan_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    source = archive(tmp_path / "s.zip", "train/Train/a.off", "test/Train/b.off", "train/Car/c.off", "train/Car/d.fbx")
    shown = fer("voxelize", source, "--dry-run", "--json", folder=tmp_path)
    answer = json.loads(shown.stdout)
    assert answer["layout"] == "split/class"
    assert answer["classes"] == {"Car": {"train": 1}, "Train": {"train": 1, "test": 1}}
    assert answer["examples"]["Train"] == {"train": "train/Train/a.off", "test": "test/Train/b.off"}
    assert [skip["source"] for skip in answer["skipped"]] == ["train/Car/d.fbx"]
    shown = fer("voxelize", source, "--dry-run", folder=tmp_path)
    assert "Train, test: test/Train/b.off" in shown.stdout
    assert "3 shapes in 2 classes, 1 skipped; folders are read as split/class; nothing is written" in shown.stdout
    strict = fer("voxelize", source, "--dry-run", "--strict", folder=tmp_path)
    assert (strict.code, strict.stdout) == (3, "")
    assert "d.fbx: fer does not read" in strict.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.zip"]


def test_classes_without_a_split_ask_for_a_test_fraction(tmp_path: Path) -> None:
    source = archive(tmp_path / "s.zip", "Car/a.off", "Car/b.off", "Train/c.off", "Train/d.off")
    with pytest.raises(UsageError, match=r"name 2 classes \(Car, Train\) and no split; give --test-fraction 0\.2"):
        list_entries(source)
    listing = list_entries(source, test_fraction=0.5)
    assert sorted((entry.class_name, entry.split) for entry in listing.entries) == [
        ("Car", "test"), ("Car", "train"), ("Train", "test"), ("Train", "train"),
    ]  # fmt: skip
    assert {entry.split for entry in list_entries(source, layout="none").entries} == {"unlabelled"}
    close_archives()


def test_shape_in_several_formats_is_one_sample(tmp_path: Path) -> None:
    names = [f"0269/{n}/models/model{end}" for n in ("a", "b") for end in (".obj", ".solid.binvox", ".surface.binvox")]
    listing = list_entries(archive(tmp_path / "s.zip", *names, "0300/c/models/model.obj"), test_fraction=0.5)
    assert [entry.path.rpartition(".")[2] for entry in listing.entries] == ["obj"] * 3
    assert len(listing.skipped) == 4
    assert listing.skipped[0].reason == "is the shape of 0269/a/models/model.obj in another format"
    close_archives()


def test_formats_of_one_shape_are_never_divided_by_chance(tmp_path: Path) -> None:
    names = [f"cup/{n}.{end}" for n in range(12) for end in ("off", "obj")]
    listing = list_entries(archive(tmp_path / "s.zip", *names, "bed/x.off"), test_fraction=0.4)
    of_stem: dict[str, set[str]] = {}
    for entry in listing.entries:
        of_stem.setdefault(entry.path.partition(".")[0], set()).add(entry.split)
    assert all(len(found) == 1 for found in of_stem.values())
    close_archives()


def test_layout_is_for_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,class\na.off,x\n")
    with pytest.raises(UsageError, match="--layout is for folders and archives"):
        plan(tmp_path / "t.csv", layout="class")
    assert str(Layout(-1, 0)) == "split"
