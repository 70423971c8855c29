import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import fer_cli
from diagnoses import changed, diagnosis_of, grey_diagnosis
from fer_cli import load_run
from fer_cli.diagnosis.categories import Category
from fer_cli.diagnosis.explain import explain
from fer_cli.diagnosis.probe import probe
from fer_cli.errors import ArtifactError, InputError, LineageError, ResourceError, UsageError
from fer_cli.pictures import render
from fer_cli.run import Explanation, Run
from fer_cli.storage.run_paths import RunPaths

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def opened(run_paths: RunPaths) -> Run:
    return load_run(run_paths.voxels.parent, device="cpu")


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, fer_cli; print('load_run' in dir(fer_cli), *sorted({n.partition('.')[0] for n in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True"
    assert not {"torch", "numpy", "h5py", "faiss", "pyvista", "jaxtyping"} & set(said)


@pytest.mark.parametrize("library", ["sklearn", "scipy.stats", "torch._dynamo", "pyvista", "plotly", "matplotlib"])
def test_what_explains_a_sample_loads_no(library: str) -> None:
    # Each takes from a third of a second to a second, of the few that `fer explain` takes.
    code = f"import sys, fer_cli.reports.gallery; print({library!r} in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False"]


def test_the_package_has_no_other_attribute() -> None:
    with pytest.raises(AttributeError, match="'fer_cli' has no attribute 'load_runs'"):
        _ = fer_cli.load_runs


def test_run_explains_as_the_command_does(opened: Run, run: Run) -> None:
    said = opened.explain("plate_test_00")
    expected = explain(run, run.sample("plate_test_00"))
    for field in fields(said):
        if field.name == "layers":
            assert [[p.evidence for p in layer.paths.values()] for layer in said.layers] == [
                [p.evidence for p in layer.paths.values()] for layer in expected.layers
            ]
        elif field.name == "reference_errors":
            np.testing.assert_equal(vars(said.reference_errors), vars(expected.reference_errors))
        elif field.name == "nearest":
            np.testing.assert_equal(vars(said.nearest), vars(expected.nearest))
        elif field.name.endswith("_volume") or field.name == "index_to_world":
            np.testing.assert_array_equal(getattr(said, field.name), getattr(expected, field.name))
        else:
            assert getattr(said, field.name) == getattr(expected, field.name), field.name


def test_run_probes_as_the_command_does(opened: Run, run: Run) -> None:
    said = opened.probe("plate_test_00", "conv2", (1, 0, 1))
    expected = probe(run.network, run.sample("plate_test_00").volume, "conv2", (1, 0, 1))
    np.testing.assert_array_equal(said.reconstruction, expected.reconstruction)
    assert said.response_field == expected.response_field
    said = opened.probe("plate_test_00", "conv2", (1, 0, 1), by="centroid", code=3)
    volume = run.sample("plate_test_00").volume
    expected = probe(run.network, volume, "conv2", (1, 0, 1), centroids_of=run.codebook, code=3)
    np.testing.assert_array_equal(said.reconstruction, expected.reconstruction)
    with pytest.raises(UsageError, match="by='shape': choose 'feature' or 'centroid'"):
        opened.probe("plate_test_00", "conv2", by="shape")
    with pytest.raises(UsageError, match="code=3 needs by='centroid'"):
        opened.probe("plate_test_00", "conv2", code=3)


def test_the_example_of_the_page_runs(
    run_paths: RunPaths,
    box_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shutil.copytree(run_paths.voxels.parent, tmp_path / "fer-run")
    shutil.copy(box_source / "beam/test/beam_test_00.off", tmp_path / "sample.off")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace('"chair"', '"beam"'), str(PAGE), "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert "beam" in said[0]
    assert [line.split()[0] for line in said[2:7]] == ["conv1", "conv2", "conv3", "fc4", "output"]


def test_what_is_not_there_is_told_by_what_it_is(opened: Run, run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is no folder of a run\. Run 'fer demo --run .*nowhere' to make one"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"model\.h5 does not exist\. Run 'fer train'"):
        load_run(tmp_path).explain("plate_test_00")
    with pytest.raises(InputError, match=r"no sample called 'plate_tset_00'\. Near: plate_test_00"):
        opened.explain("plate_tset_00")
    with pytest.raises(UsageError, match="no class 'plates'; near: plate"):
        opened.explain("plate_test_00", label="plates")
    with pytest.raises(UsageError, match="no layer 'conv7'"):
        opened.probe("plate_test_00", "conv7")
    with pytest.raises(UsageError, match="device 'abacus'"):
        load_run(run_paths.voxels.parent, device="abacus")


def test_run_of_mixed_lineage_is_refused(run: Run, run_paths: RunPaths, tmp_path: Path, rewrite: object) -> None:
    bias = "encoder/blocks.output.2.bias"
    rewrite(run.model, tmp_path / "model.h5", {bias: run.model.read(bias) + 1})  # type: ignore[operator]
    with pytest.raises(LineageError, match="was made from model"):
        load_run(run_paths.voxels.parent, model=tmp_path / "model.h5").explain("plate_test_00")


class Texts(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_verdict_category_and_layers_and_nothing_of_a_name_is_markup() -> None:
    evil = '<script>alert("x")</script> & 😀'
    said = diagnosis_of(sample=evil, category=Category("atypical", "p = 0.01 ≤ 0.05 <b>"))
    said = replace(said, layers=tuple(changed(layer, feedforward={"speaks_for": evil}) for layer in said.layers))
    page = said._repr_html_()
    assert len(page) < 10_000
    shown = Texts(page)
    assert set(shown.tags) == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert evil in shown.texts
    assert f" {said.verdict}" in shown.texts
    assert " p = 0.01 ≤ 0.05 <b>" in shown.texts
    assert shown.tags.count("tr") == 1 + len(said.layers)
    assert "conv3 (answer)" in shown.texts


def test_a_notebook_shows_the_first_screen_of_the_report() -> None:
    evil = '<script>alert("x")</script>'
    for made in (diagnosis_of, grey_diagnosis):
        page = Explanation(**vars(made(sample=evil)))._repr_html_()
        shown = Texts(page)
        text = " ".join(" ".join(shown.texts).split())
        assert set(shown.tags) == {"div", "p", "b", "figure", "img", "figcaption"}
        assert evil in text
        said = made()
        for words in (said.verdict, said.cause.words, said.cause.remedy, "input", "prediction", "conv3 ◀"):
            assert words in text, words
        assert shown.tags.count("img") == len(said.pictured_layers) + 5
        assert len(page) < 400_000


def test_a_notebook_shows_words_and_a_table_where_nothing_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def undrawable(*_: object, **__: object) -> None:
        raise ResourceError("no screen")

    monkeypatch.setattr(render, "draw_pngs", undrawable)
    assert Explanation(**vars(diagnosis_of()))._repr_html_() == diagnosis_of()._repr_html_()
