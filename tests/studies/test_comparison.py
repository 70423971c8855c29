import copy
import io
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import binomtest

from fer_cli.data.dataset import open_voxels
from fer_cli.data.volume_file import save_volumes
from fer_cli.diagnosis.cause import CAUSES
from fer_cli.errors import UsageError
from fer_cli.evaluation.study_results import Comparison
from fer_cli.reports.comparison import comparison_report, write_comparison_page
from fer_cli.reports.page import write_report
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.comparison import compare


@pytest.fixture(scope="module")
def other(other_run_paths: RunPaths) -> Run:
    return Run(other_run_paths, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def found(run: Run, other: Run) -> Comparison:
    return run.compare(other)


def test_what_is_mended_and_broken_follows_from_the_mistakes_of_both(run: Run, other: Run, found: Comparison) -> None:
    before, after = set(run.mistakes()), set(other.mistakes())
    assert before != after
    assert {row["sample"] for row in found["mended"]} == before - after
    assert {row["sample"] for row in found["broken"]} == after - before
    assert {row["sample"] for row in found["otherwise"]} <= before & after
    assert found["accuracy"] == pytest.approx([1 - len(wrong) / found["n"] for wrong in (before, after)])
    assert found["difference"] == pytest.approx(found["accuracy"][1] - found["accuracy"][0])
    assert found["difference_ci"][0] <= found["difference"] <= found["difference_ci"][1]
    assert found["p_value"] == binomtest(len(before - after), len(before ^ after)).pvalue
    assert found["only_in"] == [0, 0]
    for row in found["mended"]:
        assert row["after"] == row["label"] != row["before"]
    for row in found["broken"]:
        assert row["before"] == row["label"] != row["after"]
    for row in found["otherwise"]:
        assert row["label"] not in (row["before"], row["after"])
        assert row["before"] != row["after"]


def test_causes_are_those_that_the_run_that_errs_explains(run: Run, other: Run, found: Comparison) -> None:
    for of_run, kind in ((run, "mended"), (other, "broken")):
        for row in found[kind]:
            cause = of_run.explain(row["sample"]).cause
            assert (row["cause"], row["remedy"]) == (cause.name, cause.remedy)
        assert sum(found["causes"][kind].values()) == len(found[kind])


def test_without_causes_nothing_is_explained(run: Run, other: Run, found: Comparison) -> None:
    told: list[tuple[int, int]] = []
    quick = compare(run, other, causes=False, report=lambda *done: told.append(done))
    assert told == []
    assert quick["causes"] == {"mended": {}, "broken": {}}
    assert [row["sample"] for row in quick["mended"]] == [row["sample"] for row in found["mended"]]
    assert all(row["cause"] is None for kind in ("mended", "broken") for row in quick[kind])


def test_progress_ends_with_all_that_is_explained(run: Run, other: Run) -> None:
    told: list[tuple[int, int]] = []
    found = compare(run, other, report=lambda *done: told.append(done))
    total = len(found["mended"]) + len(found["broken"])
    assert told == [(done, total) for done in range(1, total + 1)]


def test_a_run_compared_with_itself_differs_in_nothing(run: Run) -> None:
    found = compare(run, run)
    assert (found["mended"], found["broken"], found["otherwise"]) == ([], [], [])
    assert (found["difference"], found["p_value"], found["difference_ci"]) == (0.0, 1.0, [0.0, 0.0])


def test_samples_are_matched_by_name_and_class(run: Run, other: Run, tmp_path: Path) -> None:
    voxels = other.voxels
    kept = voxels.indices("test")[2:].tolist()
    items = [(voxels.volumes([i])[0], int(voxels.labels[i]), voxels.names[i]) for i in voxels.indices("train").tolist()]
    test = [(voxels.volumes([i])[0], int(voxels.labels[i]), voxels.names[i]) for i in kept]
    test.append((test[0][0], test[0][1], "new"))
    fewer = RunPaths.in_folder(tmp_path)
    save_volumes(fewer.voxels, items, test=test, classes=voxels.classes)

    also = copy.copy(other)
    vars(also)["voxels"] = open_voxels(fewer.voxels)  # where the cached property keeps them
    found = compare(run, also, causes=False)
    assert found["n"] == len(kept)
    assert found["only_in"] == [2, 1]


def test_nothing_in_common_is_refused(run: Run, other: Run) -> None:
    with pytest.raises(UsageError, match=r"no (labelled )?sample (in|of) the split 'val'"):
        compare(run, other, split="val")


def test_page_and_terminal_tell_every_sample_and_link_the_reports(run: Run, found: Comparison, tmp_path: Path) -> None:
    name = found["mended"][0]["sample"] if found["mended"] else found["broken"][0]["sample"]
    which = 0 if found["mended"] else 1
    runs = [str(tmp_path / "before & after"), str(tmp_path / "new")]
    report = write_report(run.explain(name), Path(runs[which]) / "explain" / name)
    page = write_comparison_page({**found, "runs": runs}, tmp_path / "new" / "compare" / "test.html")
    source = page.read_text(encoding="utf-8")
    for kind in ("mended", "broken", "otherwise"):
        for row in found[kind]:
            assert row["sample"] in source
            assert row["cause"] is None or CAUSES[row["cause"]] in source
    [href] = re.findall(r'<th scope="row"><a href="([^"]*)">', source)
    assert (page.parent / unquote(href)).samefile(report)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_report(found))
    text = console.export_text()
    assert max(map(len, text.split("\n"))) <= 80
    assert f"accuracy {found['accuracy'][0]:.4f} → {found['accuracy'][1]:.4f}" in text
    assert f"Mended: wrong before, right after: {len(found['mended'])}" in text


def test_groups_of_a_run_hold_every_mistake(run: Run) -> None:
    groups = run.groups()
    assert sorted(name for group in groups for name in group["samples"]) == sorted(run.mistakes())
    assert np.isclose(sum(group["share"] for group in groups), 1)
