import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagnoses import CORRECT, INPUT, UNKNOWN, UNUSUAL, diagnosis_of
from fer_cli.data.sample_input import Sample
from fer_cli.errors import InputError, ResourceError, UsageError
from fer_cli.pictures.drawing import open_drawing
from fer_cli.reports import gallery, page
from fer_cli.reports.explained import diagnosis_json
from fer_cli.reports.gallery import (
    Several,
    Wanted,
    explain_one,
    explain_several,
)
from fer_cli.reports.gallery_page import Explained, write_gallery
from fer_cli.run import Run

NOTHING = Wanted(None, "conv3", None, volumes=False)


def several(run: Run, names: list[str], folder: Path, wanted: Wanted) -> tuple[Several, list[str], list[tuple]]:
    complaints: list[str] = []
    steps: list[tuple] = []
    result = explain_several(
        run,
        names,
        folder,
        wanted,
        what="samples",
        complain=complaints.append,
        progress=lambda *step: steps.append(step),
    )
    return result, complaints, steps


def test_of_several_each_gets_its_report_and_one_that_fails_is_left_out(run: Run, tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "a shape.npy", run.voxels.grids([3])[0])
    names = ["pole_test_03", "nosuch", str(tmp_path / "one/a shape.npy"), str(tmp_path / "two/a shape.npy")]
    folder = tmp_path / "reports"
    with open_drawing(1) as drawing:
        result, complaints, steps = several(run, names, folder, replace(NOTHING, drawing=drawing, volumes=True))
    assert complaints == ["there is no file and no sample called 'nosuch'."]
    assert [(failed.sample, type(failed.error)) for failed in result.failed] == [("nosuch", InputError)]
    assert steps[0] == (0, 4)
    assert steps[-1] == (4, 4)
    folders = ["pole_test_03", "a_shape", "a_shape-2"]
    assert [each.files["report"] for each in result.explained] == [folder / name / "index.html" for name in folders]
    assert all(each.files["volumes"].is_file() for each in result.explained)
    for each in result.explained:
        stored = json.loads(each.files["report"].with_name("diagnosis.json").read_text(encoding="utf-8"))
        assert {**stored, "volumes": str(each.files["volumes"])} == each.json
    assert result.gallery == folder / "index.html"
    source = result.gallery.read_text(encoding="utf-8")
    assert "<h1>3 samples</h1>" in source
    for link in re.findall(r'<a href="([^"]+)">', source):
        assert (folder / link).is_file()
    assert result.json["gallery"] == str(result.gallery)
    assert result.json["failed"] == [{"sample": "nosuch", "error": complaints[0]}]


def test_a_target_that_ends_in_html_is_the_page_alone(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "new" / "why.HTML"
    with open_drawing(1) as drawing:
        wanted = replace(NOTHING, drawing=drawing)
        one, _ = explain_one(run, "pole_test_03", target, wanted, parent=tmp_path / "explain")
        (tmp_path / "a folder.html").mkdir()
        with pytest.raises(UsageError, match=r"a folder\.html is a folder, but a name that ends in"):
            explain_one(run, "pole_test_03", tmp_path / "a folder.html", wanted, parent=tmp_path)
        with pytest.raises(UsageError, match=r"several samples are written to a folder; .*why\.html names a page"):
            several(run, ["pole_test_03"], tmp_path / "why.html", wanted)
        with pytest.raises(UsageError, match=r"--vtk writes shapes\.vti beside the page: name a folder, not"):
            explain_one(run, "pole_test_03", tmp_path / "why.html", replace(wanted, volumes=True), parent=tmp_path)
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert one.files == {"report": target}
    assert one.json["report"] == str(target)
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "why.HTML", "a folder.html"}


def test_nothing_is_written_where_nothing_is_wanted(run: Run, tmp_path: Path) -> None:
    result, _, _ = several(run, ["pole_test_03", "beam_test_02"], tmp_path / "reports", NOTHING)
    assert [each.json["sample"] for each in result.explained] == ["pole_test_03", "beam_test_02"]
    assert all(each.json["report"] is None for each in result.explained)
    assert result.json["gallery"] is None
    one, diagnosis = explain_one(run, "pole_test_03", None, NOTHING, parent=tmp_path / "reports")
    assert one.json == diagnosis_json(diagnosis, report=None) == result.explained[0].json
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["file", "file/below"])
def test_folder_that_cannot_be_written_is_noticed_before_anything_is_computed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    def compute(*_: object, **__: object) -> None:
        raise AssertionError("computed all the same")

    monkeypatch.setattr(gallery, "explain", compute)
    (tmp_path / "file").write_text("mine")
    wanted = replace(NOTHING, volumes=True)
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        explain_one(run, "pole_test_03", tmp_path / blocked, wanted, parent=tmp_path)
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        several(run, ["pole_test_03"], tmp_path / blocked, wanted)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_does_not_exist_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample called 'nosuch'"):
        explain_one(run, "nosuch", None, replace(NOTHING, volumes=True), parent=tmp_path / "explain")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's folder, to be copied."""
    return page.write_report(diagnosis_of(), tmp_path_factory.mktemp("report") / "one").parent


def explained_of(folder: Path, pictures: Path, **changes: object) -> Explained:
    diagnosis = diagnosis_of(**changes)
    shutil.copytree(pictures, folder)
    answer = diagnosis_json(diagnosis, report=str(folder / "index.html"))
    return Explained(answer, diagnosis.answer, diagnosis.suspicion, {"report": folder / "index.html"})


def test_gallery_shows_the_most_suspicious_first_with_what_it_can_be_sorted_by(tmp_path: Path, pictures: Path) -> None:
    suspicion = diagnosis_of().suspicion
    rows = [
        explained_of(tmp_path / "a", pictures, sample="a"),
        explained_of(tmp_path / "b", pictures, sample="b", suspicion=replace(suspicion, score=0.95), **CORRECT),
        explained_of(tmp_path / "c", pictures, sample="c", suspicion=replace(suspicion, score=0.2), **UNKNOWN),
        explained_of(tmp_path / "d", pictures, sample="d", suspicion=replace(suspicion, score=0.15), **UNUSUAL),
        explained_of(tmp_path / "e", pictures, sample="e", suspicion=replace(suspicion, score=0.1), **INPUT),
    ]
    source = write_gallery(rows, ["conv1", "conv2", "conv3"], tmp_path, "five").read_text(encoding="utf-8")
    sorted_by = re.findall(r'data-sort="([^"]*)"', source)
    assert np.reshape(sorted_by, (5, 6)).tolist() == [
        ["b", "chair", "chair", "overlap", "3", "0.95"],
        ["a", "chair", "table", "overlap", "2", "0.87"],
        ["c", "", "table", "overlap", "3", "0.2"],
        ["d", "chair", "table", "overlap", "1", "0.15"],
        ["e", "chair", "table", "overlap", "-1", "0.1"],
    ]
    places = re.findall(r'data-head="goes wrong at"[^>]*>([^<]*)<', source)
    assert places == ["–", "conv3", "–", "conv2", "input"]
    assert "Most frequent: chair taken for table (3)." in source
    assert sorted(re.findall(r'<img[^>]* src="([^"]*)"', source))[:3] == [
        "a/class-code.png",
        "a/input.png",
        "b/class-code.png",
    ]
    assert re.findall(r'<option value="([^"]*)">', source)[:3] == ["", "chair", "–"]
    assert len(re.findall(r'aria-sort="descending"', source)) == 1


def test_gallery_escapes_what_came_from_files(tmp_path: Path, pictures: Path) -> None:
    evil = '<script>alert("1")</script>\'" onload=x'
    row = explained_of(tmp_path / "<b> # %41 🪑", pictures, sample=evil)
    source = write_gallery([row], ["conv3"], tmp_path, evil).read_text(encoding="utf-8")
    assert source.count("<script>") == 1
    assert "<b>" not in source
    assert 'href="%3Cb%3E%20%23%20%2541%20%F0%9F%AA%91/index.html"' in source


def test_gallery_of_nothing_says_so(tmp_path: Path) -> None:
    source = write_gallery([], ["conv3"], tmp_path, "0 misclassified samples").read_text(encoding="utf-8")
    assert "There is none." in source
    assert "<table" not in source


def test_sample_has_the_map_to_its_own_units(run: Run, tmp_path: Path) -> None:
    named = run.sample("pole_test_03")
    stored = run.voxels.artifact.read("index_to_world")[named.index]
    np.testing.assert_array_equal(named.index_to_world, stored)
    np.testing.assert_array_equal(Sample("x", named.volume, None).index_to_world, np.eye(4))


def test_reports_of_files_with_one_stem_do_not_overwrite_each_other(run: Run, tmp_path: Path) -> None:
    wanted, parent = replace(NOTHING, summary=True), tmp_path / "explain"
    for number, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "x.npy", run.voxels.grids([number])[0])
    files = [str(tmp_path / place / "x.npy") for place in ("a", "b")]
    written = [explain_one(run, file, None, wanted, parent=parent)[0].files["diagnosis"] for file in [*files, *files]]
    assert written == [parent / name / "diagnosis.json" for name in ("x", "x-2", "x", "x-2")]
    assert [json.loads(path.read_bytes())["source"] for path in written[:2]] == files
    result, _, _ = several(run, files[::-1], parent, wanted)
    assert [each.files["diagnosis"] for each in result.explained] == [written[1], written[0]]


def test_without_images_the_diagnosis_is_written_and_no_page(run: Run, tmp_path: Path) -> None:
    wanted = replace(NOTHING, summary=True)
    one, _ = explain_one(run, "pole_test_03", tmp_path / "one", wanted, parent=tmp_path)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["diagnosis.json"]
    assert json.loads((tmp_path / "one/diagnosis.json").read_text(encoding="utf-8")) == one.json
    assert one.json["report"] is None
    with pytest.raises(UsageError, match=r"--no-images writes diagnosis\.json and no page: name a folder, not .*why"):
        explain_one(run, "pole_test_03", tmp_path / "why.html", wanted, parent=tmp_path)


def test_files_are_called_as_the_caller_says(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", run.voxels.grids([0])[0])
    named = {str(tmp_path / "x.npy"): "a_x"}
    result = explain_several(
        run,
        [*named, "pole_test_03"],
        tmp_path / "reports",
        replace(NOTHING, summary=True),
        what="samples",
        complain=lambda _: None,
        progress=lambda *_: None,
        called=named,
    )
    assert [each.json["sample"] for each in result.explained] == ["a_x", "pole_test_03"]
    assert result.explained[0].files["diagnosis"] == tmp_path / "reports/a_x/diagnosis.json"
