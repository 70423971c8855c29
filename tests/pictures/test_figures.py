import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_cli.errors import ResourceError, UsageError
from fer_cli.evaluation.survey import survey
from fer_cli.network.backbone import receptive_field
from fer_cli.pictures.figures import fullest_location, write_figures
from fer_cli.run import Run

FIGURES = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7")


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("figures") / "new"
    return folder, write_figures(run, folder)


def test_every_figure_is_drawn_of_the_samples_that_the_rule_picks(run: Run, written: tuple[Path, dict]) -> None:
    folder, answer = written
    found = survey(run)
    right, wrong = found.typical(correct=True), found.typical(correct=False)
    assert right
    assert wrong
    expected = {
        "fig2": [found.most_typical()],
        "fig3": [found.most_typical()],
        "fig4": right[:3],
        "fig5": right[:7],
        "fig6": wrong[:3],
        "fig7": wrong[:7],
    }
    assert {name: figure["samples"] for name, figure in answer["figures"].items()} == expected
    for name in FIGURES:
        path = Path(answer["figures"][name]["path"])
        assert path == folder / f"{name}.png"
        with Image.open(path) as picture:
            assert picture.width >= 560
            colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert colours is not None
            assert len(colours) > 20
    assert answer["table1"] == found.outcomes.table1()
    assert answer["errors_norm"] == found.outcomes.errors_norm()
    assert answer["shares"] == found.outcomes.shares()
    assert answer["rule"]


def test_what_is_written_is_what_is_told(written: tuple[Path, dict]) -> None:
    folder, answer = written
    assert {path.name for path in folder.iterdir()} == {
        "figures.json",
        "table1.md",
        *(f"{name}.png" for name in FIGURES),
    }
    assert json.loads((folder / "figures.json").read_text(encoding="utf-8")) == answer
    lines = (folder / "table1.md").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "| misclassified, the paper | 19.185 | 22.610 | 26.467 | 35.837 | 1.87 |"
    wrong = answer["errors_norm"]["misclassified"]
    assert lines[-2].startswith(f"| misclassified, this run | {wrong['input_vs_local']:.3f} | ")
    assert len({line.count("|") for line in lines}) == 1


def test_the_same_run_gives_the_same_pictures(run: Run, written: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = written
    write_figures(run, tmp_path)
    for name in FIGURES:
        assert (tmp_path / f"{name}.png").read_bytes() == (folder / f"{name}.png").read_bytes(), name


def test_fullest_location_sees_the_most_occupied_voxels(run: Run) -> None:
    spec, backbone = run.network.spec, run.network.backbone
    volume = np.zeros(spec.input.volume, np.float32)
    volume[0, 6, 1, 4] = volume[0, 7, 0, 5] = volume[0, 1, 6, 6] = 1
    for layer in spec.layer_names[:-1]:
        found = fullest_location(backbone, layer, volume)
        counts = {}
        for location in np.ndindex(*spec.map_shape(layer)):
            (x0, x1), (y0, y1), (z0, z1) = receptive_field(backbone, layer, location)
            counts[location] = int(volume[0, x0:x1, y0:y1, z0:z1].sum())
        best = max(counts.values())
        assert found == next(location for location, count in counts.items() if count == best)


def test_what_cannot_be_drawn_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labelled sample in the split 'validation'"):
        write_figures(run, tmp_path / "x", split="validation")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        write_figures(run, tmp_path / "file" / "x")
