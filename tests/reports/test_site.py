import csv
import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from markupsafe import escape

from fer_cli.pictures.drawing import open_drawing
from fer_cli.reports.evaluation_page import join_evaluation, write_evaluation_page
from fer_cli.reports.gallery import Several, Wanted, explain_several
from fer_cli.reports.group_pictures import write_group_pictures
from fer_cli.reports.selection import misclassified
from fer_cli.reports.site import PLACEHOLDER, doubts, picture_path
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import write_evaluation


def pages_of(several: Several) -> list[Path]:
    return [each.files["report"] for each in several.explained]


@pytest.fixture(scope="module")
def made(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Several]:
    """A copy of a run's folder with an evaluation, the reports of three mistakes, and their gallery."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    folder.mkdir()
    for path in (run.paths.voxels, run.paths.model, run.paths.codebook, run.paths.calibration):
        (folder / path.name).symlink_to(path)
    copy = Run(RunPaths.in_folder(folder), device=torch.device("cpu"))
    evaluation = copy.evaluate("test")
    evaluation["trust"][0] |= {"verdict": "fails", "follows": "Do not trust it."}
    json_file = write_evaluation(evaluation, folder / "evaluate")
    write_group_pictures(copy, evaluation["groups"] or [], json_file.parent)
    write_evaluation_page(evaluation, json_file.with_suffix(".html"), folder)
    with open_drawing(1) as drawing:
        wanted = Wanted(None, None, drawing, volumes=False)
        names = misclassified(copy, "test")[:3]
        several = explain_several(
            copy, names, folder / "explain", wanted, what="mistakes", complain=print, progress=lambda *_: None
        )
    return folder, several


def links(page: Path) -> list[Path]:
    """The files that a page links to or shows."""
    found = re.findall(r'(?:href|src)="((?!data:)[^"#]+)', page.read_text(encoding="utf-8"))
    return [page.parent / unquote(target) for target in found]


def test_every_link_of_a_site_leads_to_a_file(made: tuple[Path, Several]) -> None:
    folder, several = made
    assert join_evaluation(folder, "test", several_model(folder)) == folder / "evaluate" / "test.html"
    assert several.gallery is not None
    source = (folder / "evaluate" / "test.html").read_text(encoding="utf-8")
    left = json.loads((folder / "evaluate" / "test.json").read_text(encoding="utf-8"))["n_errors"] - 3
    command = escape(shlex.join(["fer", "explain", "--errors", "--run", str(folder)]))
    assert (f"{left} of {left + 3} mistakes have no report yet; <code>{command}</code>" in source) == (left > 0)
    pages = [several.gallery, folder / "evaluate" / "test.html", folder / "evaluate" / "index.html", *pages_of(several)]
    for page in pages:
        assert links(page), page
        for target in links(page):
            assert target.resolve().is_file(), (page, target)


def several_model(folder: Path) -> str:
    [run] = json.loads((folder / "evaluate" / "test.json").read_text(encoding="utf-8"))["runs"]
    return run["model"]


def test_reports_lead_to_their_neighbours_in_the_order_of_the_gallery(made: tuple[Path, Several]) -> None:
    _, several = made
    ranked = sorted(several.explained, key=lambda each: -each.suspicion.score)
    for place, each in enumerate(ranked):
        source = each.files["report"].read_text(encoding="utf-8")
        assert PLACEHOLDER not in source
        for step, rel in ((-1, "prev"), (1, "next")):
            found = re.findall(f'<a href="([^"]*)" rel="{rel}">', source)
            if not 0 <= place + step < len(ranked):
                assert found == []
                continue
            [href] = found
            assert (each.files["report"].parent / unquote(href)).samefile(ranked[place + step].files["report"])


def test_reports_of_a_site_share_script_and_style_and_are_small(made: tuple[Path, Several]) -> None:
    folder, several = made
    assert {path.name for path in (folder / "explain" / "assets").iterdir()} == {
        "library.js",
        "report.css",
        "report.js",
    }
    for page in pages_of(several):
        assert "data:image" not in page.read_text(encoding="utf-8")
        assert sum(path.stat().st_size for path in page.parent.iterdir()) < 3e5


def test_reports_repeat_what_failed_on_the_trust_card_of_the_same_model(made: tuple[Path, Several]) -> None:
    folder, several = made
    for page in pages_of(several):
        assert re.search(
            r'<a href="../../evaluate/test.html">evaluation</a>: Do not trust it\.', page.read_text("utf-8")
        )
    evaluation = json.loads((folder / "evaluate" / "test.json").read_text(encoding="utf-8"))
    assert doubts(evaluation) == {"Do not trust it.": None}
    assert join_evaluation(folder, "test", "of another model") is None
    assert join_evaluation(folder, "val", several_model(folder)) is None


def test_table_of_the_gallery_is_written_as_csv(made: tuple[Path, Several]) -> None:
    folder, several = made
    with (folder / "explain" / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ranked = sorted(several.explained, key=lambda each: -each.suspicion.score)
    assert [row["sample"] for row in rows] == [each.json["sample"] for each in ranked]
    assert [float(row["suspicion"]) for row in rows] == [each.suspicion.score for each in ranked]
    assert all((folder / "explain" / unquote(row["report"])).is_file() for row in rows)


def test_groups_show_pictures_and_lead_to_reports_and_to_their_part_of_the_gallery(
    made: tuple[Path, Several],
) -> None:
    folder, several = made
    page = join_evaluation(folder, "test", several_model(folder))
    assert page is not None
    source = page.read_text(encoding="utf-8")
    evaluation = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    first = evaluation["groups"][0]
    assert f'src="pictures/{first["samples"][0]}.png"' in source
    explained = {each.json["sample"] for each in several.explained}
    for name in {name for group in evaluation["groups"] for name in group["samples"]}:
        assert (f'<a href="../explain/{name}/index.html">{name.replace("_", "_<wbr>")}</a>' in source) == (
            name in explained
        )
    several_mistakes = [group for group in evaluation["groups"] if group["size"] > 1]
    assert several_mistakes
    for group in several_mistakes:
        chosen = "&amp;".join(f"sample={name}" for name in group["samples"])
        assert (f'"../explain/index.html#{chosen}"' in source) == bool(explained & set(group["samples"]))


def test_single_files_carry_all_they_need(run: Run, tmp_path: Path) -> None:
    with open_drawing(1) as drawing:
        wanted = Wanted(None, None, drawing, volumes=False, single_file=True)
        several = explain_several(
            run, ["pole_test_03"], tmp_path, wanted, what="samples", complain=print, progress=lambda *_: None
        )
    assert not (tmp_path / "assets").exists()
    assert several.gallery is not None
    assert 'src="data:image/png;base64,' in several.gallery.read_text(encoding="utf-8")
    [page] = pages_of(several)
    assert links(page) == []


def test_pictures_of_names_that_differ_in_odd_characters_are_apart(tmp_path: Path) -> None:
    assert picture_path(tmp_path, "a b") != picture_path(tmp_path, "a_b") == tmp_path / "pictures" / "a_b.png"
