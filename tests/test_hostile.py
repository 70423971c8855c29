import copy
import json
import os
import signal
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import hostile
from diagnoses import changed, diagnosis_of
from fer_cli.data.dataset import open_voxels
from fer_cli.data.formats.registry import read_shape
from fer_cli.data.source import close_archives, list_entries
from fer_cli.diagnosis import markup
from fer_cli.errors import ArtifactError, InputError
from fer_cli.evaluation.results import Evaluation
from fer_cli.network.weights import load_network
from fer_cli.pictures.shape_pictures import shape_pictures
from fer_cli.reports import page
from fer_cli.reports.evaluation_page import write_evaluation_page
from fer_cli.reports.explained import diagnosis_json
from fer_cli.reports.gallery_page import Explained, write_gallery
from fer_cli.reports.info import describe
from fer_cli.reports.site import PLACEHOLDER
from fer_cli.storage import artifact, vetting
from fer_cli.storage.artifact import DIGEST, open_artifact
from fer_cli.storage.schema import MODEL, VOXELS

STEADY = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


# ------------------------------------------------------------------------------------------------------- every reader


@pytest.mark.parametrize("reader", hostile.READERS)
def test_seeds_are_read(reader: str, folder: Path) -> None:
    """Hostile names apart, which are refused: damage to what is refused anyway would show little."""
    for content in hostile.seeds(reader):
        assert hostile.outcome(reader, content, folder) in (
            (hostile.READ, hostile.REFUSED) if reader == "zip" else (hostile.READ,)
        )


@pytest.mark.parametrize("reader", hostile.READERS)
def test_hostile_files_are_read_or_refused_in_one_line(reader: str, folder: Path) -> None:
    """The first files of `make fuzz`, always the same."""
    before = sorted(folder.parent.rglob("*"))
    for number in range(30 if reader in hostile.VETTED else 250):
        result = hostile.outcome(reader, hostile.hostile_file(reader, number), folder)
        assert result in (hostile.READ, hostile.REFUSED), f"{reader} {number}: {result}"
    assert set(folder.parent.rglob("*")) - set(before) <= {folder / "a.h5", folder / "a.zip"}


@pytest.mark.parametrize("reader", hostile.TEXTS)
def test_texts_of_a_formats_own_words_are_read_or_refused(reader: str, folder: Path) -> None:
    number = (
        st.sampled_from(hostile.NUMBERS)
        | st.floats().map(lambda x: repr(x).encode())
        | st.integers().map(lambda x: b"%d" % x)
    )
    part = st.sampled_from(hostile.words_of(reader)) | st.tuples(number, st.sampled_from([b" ", b"\n"])).map(b"".join)

    @settings(STEADY, max_examples=60)
    @given(st.sampled_from(hostile.seeds(reader)), st.integers(0, 400), st.lists(part, max_size=40))
    def check(seed: bytes, kept: int, parts: list[bytes]) -> None:
        result = hostile.outcome(reader, seed[:kept] + b"".join(parts), folder)
        assert result in (hostile.READ, hostile.REFUSED), result

    check()


# ---------------------------------------------------------------------------------------------------------- archives


def test_break_in_the_name_of_a_member_is_none_in_the_message(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("chair/train/a\nb.off", "OFF")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[0] = 0
    assert hostile.outcome("zip", bytes(content), tmp_path) == hostile.REFUSED
    assert str(InputError("a\nb\u2028c\r\nd")) == "a b c d"


# ---------------------------------------------------------------------------------------------------------- artifacts


def seed_file(reader: str, path: Path) -> Path:
    path.write_bytes(hostile.seeds(reader)[0])
    return path


def _replace(file: h5py.File, name: str, make: Callable[[h5py.File], object]) -> None:
    del file[name]
    make(file)


def _filtered(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((4,))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((78,))
    h5py.h5d.create(file.id, b"label", h5py.h5t.NATIVE_INT64, space, plan)


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(78,), dtype=np.int64)
    layout[:] = h5py.VirtualSource("/etc/passwd", "label", shape=(78,))
    file.create_virtual_dataset("label", layout)


STORED_OTHERWISE: dict[str, tuple[str, Callable[[h5py.File], object]]] = {
    "raw bytes of another file": (
        "is stored in other files",
        lambda file: file.create_dataset("label", (78,), np.int64, external=[("/etc/passwd", 0, 78 * 8)]),
    ),
    "a virtual dataset": ("is stored in other files", _virtual),
    "a filter of the user's": ("needs the HDF5 filter 32015, which fer does not use", _filtered),
    "a huge shape": (
        r"promises 8000000000000000 bytes, but only 0 are stored",
        lambda file: file.create_dataset("label", (10**15,), np.int64, chunks=(1024,)),
    ),
    "a huge shape without chunks": (
        "promises .* bytes, but only 0 are stored",
        lambda file: file.create_dataset("label", (10**12,), np.int64),
    ),
    "no shape": ("has no shape", lambda file: file.create_dataset("label", data=h5py.Empty("i8"))),
    "references": ("is object, but int64", lambda file: file.create_dataset("label", (78,), h5py.ref_dtype)),
    "references to regions": (
        "is object, but int64",
        lambda file: file.create_dataset("label", (78,), h5py.regionref_dtype),
    ),
    "records": (
        "is void, but int64|is void64, but int64",
        lambda file: file.create_dataset("label", (78,), np.dtype([("a", "i8")])),
    ),
    "lists": ("is object, but int64", lambda file: file.create_dataset("label", (78,), h5py.vlen_dtype(np.int64))),
    "compression where there is none": (
        "promises .* bytes, but only .* are stored",
        lambda file: file.create_dataset("label", data=np.zeros(10**6, np.int64), compression="gzip"),
    ),
}


@pytest.mark.parametrize(("message", "make"), STORED_OTHERWISE.values(), ids=STORED_OTHERWISE)
def test_dataset_that_is_stored_as_no_artifact_stores_it_is_refused(
    message: str, make: Callable[[h5py.File], object], tmp_path: Path
) -> None:
    path = seed_file("voxels", tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        _replace(file, "label", make)
    with pytest.raises(ArtifactError, match=f"dataset 'label' .*{message}"):
        open_artifact(path, VOXELS)


def test_compressed_bomb_is_refused_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seed_file("voxels", tmp_path / "a.h5")
    with open_artifact(path, VOXELS) as opened:
        monkeypatch.setattr(artifact, "_MOST_INFLATED", 1000)
        with pytest.raises(
            ArtifactError, match=r"'occupancy' grows from \d+ bytes to \d+; refused\. Run 'fer voxelize'"
        ):
            opened.read("occupancy")
        assert opened.read("occupancy", slice(0, 2)).shape == (2, 8, 8, 8)


CHANGED: list[tuple[str, str, Any, str]] = [
    ("voxels", "parents", '{"a": 1}', "parents or config"),
    ("model", "parents", '{"voxels": 5}', "parents or config"),
    ("voxels", "config", "[" * 100_00, "an attribute does not parse"),
    ("voxels", "seed", np.inf, "an attribute does not parse"),
    ("voxels", "format", "a\nb", "is a a b file"),
    ("voxels", "format", "x" * 5000, "is a x{80} file"),
    ("voxels", "format_version", np.arange(3), "is damaged"),
    ("voxels", "format_version", "2", "is damaged"),
    ("voxels", "format_version", h5py.Empty("i8"), "is damaged"),
]


@pytest.mark.parametrize(("reader", "name", "value", "message"), CHANGED)
def test_attribute_that_no_artifact_has_is_refused_in_one_line(
    reader: str, name: str, value: Any, message: str, tmp_path: Path
) -> None:
    path = seed_file(reader, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ArtifactError, match=message) as caught:
        open_artifact(path)
    assert "\n" not in str(caught.value)


def changed_config(reader: str, path: Path, change: Callable[[dict[str, Any]], object], name: str = "config") -> Path:
    seed_file(reader, path)
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs[name])
        change(tree)
        file.attrs[name] = json.dumps(tree)
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item))
        # As in an artifact of before there were digests, which would tell of any change.
        for dataset in found:
            dataset.attrs.pop(DIGEST, None)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("network"),
        lambda config: config["network"].update(layers=[]),
        lambda config: config["network"].update(resolution="a"),
        lambda config: config["network"].update(classes=7),
        lambda config: config["network"]["layers"][0].update(stride=0),
        lambda config: config["network"]["layers"][0].update(filters=10**9),
        lambda config: config["network"]["layers"][0].update(filters=10**18, kernel=10**6),
        lambda config: config["network"]["layers"][0].update(filters=-1),
        lambda config: config["network"]["layers"][-1].update(filters=10**11),
    ],
)
def test_network_that_the_weights_are_not_of_is_refused_before_it_takes_memory(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    path = changed_config("model", tmp_path / "a.h5", change)
    with (
        open_artifact(path, MODEL) as opened,
        pytest.raises(ArtifactError, match=r"is damaged: .* Run 'fer train' again"),
    ):
        load_network(opened)


def test_voxels_without_their_settings_are_refused(tmp_path: Path) -> None:
    for change, name in (
        (lambda config: config.pop("voxelization"), "config"),
        (lambda config: config["voxelization"].update(resolution=None), "config"),
        (lambda classes: classes.append(3), "classes"),
    ):
        with pytest.raises(
            ArtifactError, match=r"is damaged: .* Run 'fer voxelize' again|'resolution': None.* is not usable"
        ):
            open_voxels(changed_config("voxels", tmp_path / "a.h5", change, name))


@pytest.mark.parametrize("change", [{"epoch": [1]}, {"step": "a"}, {"phase": None}, {"sums": 3}, {"more": 0}])
def test_checkpoint_of_no_position_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = changed_config("checkpoint", tmp_path / "a.h5", lambda position: position.update(change), "position")
    assert hostile.outcome("checkpoint", path.read_bytes(), tmp_path) == hostile.REFUSED


def test_mat_that_crashes_scipy_is_refused() -> None:
    """With numbers of type 0, SciPy 1.17.1 dies of a segmentation fault."""
    content = bytearray(hostile.seeds("mat")[0])
    start = content.index(b"instance") + len(b"instance")
    assert content[start : start + 8] == struct.pack("<II", 2, 64)
    content[start] = 0
    with pytest.raises(InputError, match=r"a\.mat: not a readable MATLAB 5 file: numbers are stored as type 0"):
        read_shape(bytes(content), "a.mat")


def test_member_of_an_archive_without_a_name_is_passed_over(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("x", "OFF")
        opened.writestr("b.off", "OFF")
    content = (tmp_path / "a.zip").read_bytes()
    nameless = bytearray(content)
    start = nameless.index(b"PK\1\2")
    nameless[start + 46 : start + 47] = b"\0"  # zipfile cuts a name at its first zero
    (tmp_path / "a.zip").write_bytes(nameless)
    assert [entry.name for entry in list_entries(tmp_path / "a.zip").entries] == ["b"]
    close_archives()


def test_codebook_without_its_precision_is_described_as_damaged(tmp_path: Path) -> None:
    path = changed_config("codebook", tmp_path / "a.h5", lambda precision: precision.pop("feedback"), "precision")
    with pytest.raises(ArtifactError, match=r"is damaged: KeyError: 'feedback'\. Run 'fer cluster' again"):
        describe(path)


# ------------------------------------------------------------------------------------------------- the process apart


@pytest.fixture
def examiners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of examiners, for a process apart of their own that may take a second."""
    folder = tmp_path / "examiners"
    folder.mkdir()
    (folder / "examiners.py").write_text(
        "import os, signal\n"
        "def loop(path):\n    while True: pass\n"
        "def crash(path): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def grow(path): bytearray(3 << 30)\n"
        "def fail(path): raise ValueError\n"
        "def ignore(path): print('through')\n"
        "def count(path): open(str(path) + '.count', 'a').write('.')\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(vetting.__file__).parents[2]}")
    monkeypatch.setattr(vetting, "SECONDS", 1)
    monkeypatch.setattr(vetting, "_known", set())
    vetting._end()
    yield "examiners"
    vetting._end()


def test_file_that_loops_crashes_or_grows_harms_only_the_process_apart(examiners: str, tmp_path: Path) -> None:
    path = tmp_path / "a\n b.h5"
    path.write_bytes(b"content")
    for examiner, message in (
        ("loop", "takes more than 1 s"),
        ("crash", "crashes"),
        ("grow", "takes more than 1024 MB of memory"),
    ):
        with pytest.raises(ArtifactError, match=f"is damaged: opening it .*{message}"):
            vetting.vet(path, f"{examiners}:{examiner}")
    vetting.vet(path, f"{examiners}:fail")  # which is for whoever opens it to say


@pytest.mark.parametrize(("place", "value"), [(44848, 0), (45304, 4)])
def test_artifact_that_keeps_libhdf5_busy_for_ever_is_refused(
    place: int, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of the heap of texts is another."""
    monkeypatch.setattr(vetting, "SECONDS", 1)
    content = bytearray(hostile.seeds("voxels")[0])
    content[place] = value
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.h5 is damaged: opening it crashes, or takes more than 1 s"):
        open_artifact(tmp_path / "a.h5")


def test_process_apart_that_was_ended_is_started_anew(examiners: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"content")
        vetting.vet(tmp_path / name, f"{examiners}:count")
        assert vetting._vetter is not None
        vetting._vetter.kill()
        vetting._vetter.wait()
    assert (tmp_path / "b.count").read_text() == "."


def test_file_is_tried_once_until_it_changes(examiners: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"content")
    for _ in range(3):
        vetting.vet(path, f"{examiners}:count")
    assert Path(f"{path}.count").read_text() == "."
    path.write_bytes(b"other content")
    vetting.vet(path, f"{examiners}:count")
    assert Path(f"{path}.count").read_text() == ".."


def vetted_ahead() -> None:
    """Wait until what was asked for ahead is done."""
    for thread in threading.enumerate():
        if thread.name == "vetting":
            thread.join(30)
            assert not thread.is_alive()


def test_file_vetted_ahead_is_not_tried_again(examiners: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"content")
    vetting.vet_ahead([tmp_path / "none", path], f"{examiners}:count")
    vetting.vet(path, f"{examiners}:count")
    vetted_ahead()
    assert Path(f"{path}.count").read_text() == "."


def test_what_is_wrong_with_a_file_vetted_ahead_is_said_when_it_is_opened(examiners: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"content")
    vetting.vet_ahead([path], f"{examiners}:crash")
    vetted_ahead()
    with pytest.raises(ArtifactError, match="crashes"):
        vetting.vet(path, f"{examiners}:crash")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_forked_process_vets_while_this_one_does(examiners: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"content")
    with vetting._lock:
        child = os.fork()
        if not child:
            signal.alarm(30)
            vetting.vet(path, f"{examiners}:count")
            vetting._end()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert Path(f"{path}.count").read_text() == "."


# --------------------------------------------------------------------------------------------------------------- HTML


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, links, and what stands in data blocks."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.links: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "style")]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", decl))


EVIL = [
    "<script>alert(1)</script>", "</script>", "<!--", "-->", "]]>", '"', "'", "onload=x", " ", "<img src=x onerror=y>",
    "&lt;", "&#60;", "</td>", "<", ">", "=", "`", "{{ 7*7 }}", "{% raw %}", "javascript:alert(1)", "\u2028", "\0",
    "\x1b[2J", "\n", "🪑", "\ud800", "</title>", "</style>",
]  # fmt: skip
NAMES = st.lists(st.sampled_from(EVIL) | st.text(max_size=5), min_size=1, max_size=6).map("".join)
FOUR = st.lists(NAMES.filter(str.strip), min_size=4, max_size=4, unique_by=lambda name: name.encode(errors="replace"))
PLAIN = ["a", "b", "c", "d"]


def assert_same_structure(source: str, plain: str) -> None:
    hostile_page, harmless = Structure(source), Structure(plain)
    assert hostile_page.elements == harmless.elements
    assert not any(link.strip().lower().startswith(("javascript:", "http", "//")) for link in hostile_page.links)


def report_of(names: list[str]) -> str:
    sample, nearest, predicted, other = names
    known = {"table": predicted, "chair": other}

    def renamed(values: dict[str, float]) -> dict[str, float]:
        return {known.get(name, name): value for name, value in values.items()}

    whole = diagnosis_of()
    layers = tuple(
        changed(
            layer,
            **{
                path: {
                    "speaks_for": known.get(said.speaks_for, said.speaks_for),
                    "exemplar": nearest,
                    "evidence": renamed(said.evidence),
                }
                for path, said in layer.paths.items()
            },
        )
        for layer in whole.layers
    )
    diagnosis = replace(
        whole,
        sample=sample,
        nearest_training_sample=nearest,
        predicted=predicted,
        label=other,
        verdict=f"{sample} was taken for {predicted}",
        probabilities=renamed(whole.probabilities),
        layers=layers,
    )
    words = {name: f"{picture.words} {sample}" for name, picture in shape_pictures(diagnosis_of()).items()}
    source = page._fill_page(diagnosis, words, dict.fromkeys(words, b""), page.Site())
    return source.replace(page.packed_library(), "")  # a megabyte, the same in all


@cache
def plain_report() -> str:
    return report_of(PLAIN)


@settings(STEADY, max_examples=40)
@given(FOUR)
@example(EVIL[:4])
def test_no_element_or_attribute_of_a_report_comes_from_a_name(names: list[str]) -> None:
    assert_same_structure(report_of(names), plain_report())


def test_no_element_or_attribute_of_an_evaluation_comes_from_a_name(evaluated: Evaluation, tmp_path: Path) -> None:
    def written(names: list[str]) -> str:
        named = copy.deepcopy(evaluated)
        named["runs"] = [{**each, "run": names[0]} for each in named["runs"]]
        classes = named["per_class_accuracy"]
        named["per_class_accuracy"] = dict(zip(names, classes.values(), strict=False))
        for mistake in named["misclassified"]:
            mistake |= {"sample": names[1], "label": names[2], "predicted": names[3]}
        return write_evaluation_page(named, tmp_path / "a.html").read_text(encoding="utf-8").replace("<wbr>", "")

    plain = written(PLAIN)

    @settings(STEADY, max_examples=25)
    @given(FOUR)
    def check(names: list[str]) -> None:
        assert_same_structure(written(names), plain)

    check()


def test_no_element_or_attribute_of_a_gallery_comes_from_a_name(tmp_path: Path) -> None:
    diagnosis = diagnosis_of()
    (tmp_path / "report").mkdir()
    for name in ("input.png", "class-code.png"):
        (tmp_path / "report" / name).write_bytes(b"")

    def written(names: list[str]) -> str:
        sample, title, label, predicted = names
        changes = {"label": label, "predicted": predicted, "probabilities": {predicted: 1.0}}
        answer = diagnosis_json(replace(diagnosis, sample=sample), report="r") | changes
        row = Explained(answer, diagnosis.answer, diagnosis.suspicion, {"report": tmp_path / "report" / "index.html"})
        (tmp_path / "report" / "index.html").write_text(PLACEHOLDER)
        gallery = write_gallery([row], ["conv3"], tmp_path, title).read_text(encoding="utf-8")
        navigation = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
        return gallery.replace("<wbr>", "").replace("</html>", f"{navigation}</html>")

    plain = written(PLAIN)

    @settings(STEADY, max_examples=60)
    @given(FOUR)
    def check(names: list[str]) -> None:
        assert_same_structure(written(names), plain)

    check()


@settings(STEADY, max_examples=100)
@given(NAMES, NAMES)
def test_no_element_or_attribute_of_a_notebook_comes_from_a_name(one: str, other: str) -> None:
    def made(first: str, second: str) -> str:
        return markup.table([first, "b"], [[second, first]]) + markup.paragraph(first, second)

    assert_same_structure(made(one, other), made("a", "b"))
