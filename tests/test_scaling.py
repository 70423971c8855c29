"""What docs/scaling.md says of costs is what the benchmark counts, and that what PyTorch counts."""

import re
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fer_cli.data.formats.registry import read_shape
from fer_cli.data.source import list_entries
from fer_cli.network.fer_cnn import NetworkConfig, build
from networks import cube
from tiny import load_benchmark

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return load_benchmark("scaling")


@pytest.mark.parametrize(("preset", "resolution"), [("smoke", 32), ("smoke", 64), ("residual", 32)])
def test_operations_are_those_that_pytorch_counts(preset: str, resolution: int, scaling: ModuleType) -> None:
    cost = scaling.cost(preset, resolution)
    with torch.device("meta"):
        network = build(NetworkConfig.to_train(cost.config.layers, cost.config.classes, cube(resolution)))
        grids = torch.zeros(2, 1, resolution, resolution, resolution)
    with FlopCounterMode(display=False) as forward:
        logits = network.backbone(grids)
    assert forward.get_total_flops() == 2 * sum(cost.levels)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert backward.get_total_flops() == 2 * (cost.encoder_step - sum(cost.levels))
    entry = "output"
    with FlopCounterMode(display=False) as mirror:
        network.decode(torch.zeros(2, len(cost.config.classes), 1, 1, 1, device="meta"), entry)
    assert mirror.get_total_flops() == pytest.approx(2 * sum(cost.mirrors), rel=0.01)
    assert cost.parameters == tuple(
        sum(p.numel() for p in part.parameters()) for part in (network.backbone, network.feedback)
    )


def test_tables_of_the_page_are_the_benchmarks(scaling: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.print_levels()
    scaling.print_steps()
    scaling.print_prediction(scaling.RATES)
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ", "1,000,000 shapes"))]
    assert len(rows) > 18
    assert not [row for row in rows if row not in page]


def test_repeated_voxels_are_a_voxel_set(scaling: ModuleType, run_paths, tmp_path: Path) -> None:
    from fer_cli.data.dataset import open_voxels

    scaling.repeat(run_paths.voxels, tmp_path / "many.h5", 130)
    many, few = open_voxels(tmp_path / "many.h5", in_memory=True), open_voxels(run_paths.voxels)
    assert len(many) == len(set(many.names)) == len(many.indices("train")) == 130
    training = few.indices("train")
    assert (many.grids([61, 129]) == few.grids(training[[1, 9]])).all()
    assert many.labels[129] == few.labels[training[9]]
    scaling.repeat(run_paths.voxels, tmp_path / "fewer.h5", 9)
    fewer = open_voxels(tmp_path / "fewer.h5")
    assert [int((fewer.labels == label).sum()) for label in range(3)] == [3, 3, 3]


def test_steps_are_timed_in_turns(
    scaling: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "PER_CLASS", 2)
    scaling.print_turns("smoke", [20, 40], 2)
    head, _, *rows = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert head == "| shapes | feedforward, a shape | times that of 20 | feedback, a shape | times that of 20 |"
    assert [row.split("|")[1].strip() for row in rows] == ["20", "40"]
    assert rows[0].count("1.000 (1.000 – 1.000)") == 2
    assert all(float(cell.split()[0]) > 0 for row in rows for cell in row.split("|")[2:6])


def test_whole_runs_are_compared_by_their_median_epochs(
    scaling: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PER_CLASS", 2), ("ENOUGH", 60)):
        monkeypatch.setattr(scaling, name, value)
    scaling.print_measured("smoke", [20, 40], 1)
    table, said = capsys.readouterr().out.split("|\n\n")
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith(("| 20 ", "| 40 "))]
    for row, epochs in zip(rows, (3, 2), strict=True):
        for cell in row[1:3]:
            median, low, high = (float(number) for number in re.findall(r"[\d.]+", cell))
            assert low <= median <= high
            assert epochs > 2 or low == high  # the first is left out
        assert float(row[3].split()[0]) > 100
    assert re.search(r"time a shape, feedback: slowest \d+ % over fastest; wanted 10 %", said)


def test_repeated_shapes_are_read_back_and_no_two_are_alike(tmp_path: Path) -> None:
    scale = load_benchmark("scale")
    grid = np.random.default_rng(0).random((30, 30, 30)) < np.linspace(0, 0.3, 30)
    read = read_shape(b"".join(scale.binvox(grid)), "shape.binvox")
    np.testing.assert_array_equal(read.occupancy, grid)
    generator = np.random.default_rng(0)
    copies = {scale.varied(grid, times, generator).tobytes() for times in range(1, 26)} | {grid.tobytes()}
    assert len(copies) == 26
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        for split, name in (("train", "bed_1"), ("train", "bed_2"), ("test", "bed_3"), ("test", "bed_4")):
            archive.writestr(f"shapes/bed/{split}/{name}.binvox", b"".join(scale.binvox(grid)))
    scale.write_repeated(tmp_path / "few.zip", tmp_path / "many.zip", 5)
    listed = [(entry.name, entry.split) for entry in list_entries(tmp_path / "many.zip").entries]
    assert [name for name, split in listed if split == "train"] == [
        "bed_1_0",
        "bed_1_1",
        "bed_1_2",
        "bed_2_0",
        "bed_2_1",
    ]
    assert [name for name, split in listed if split == "test"] == ["bed_3"]
