"""What benchmarks compute on the way to their figures, where a mistake would not show in the table."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.formats.registry import Mesh
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
from fer_cli.network.fer_cnn import build
from fer_cli.network.phases import FeedforwardPhase, TrainingData, TrainingSettings
from fer_cli.network.winograd import WinogradConv3d
from fer_cli.run import Run
from fer_cli.studies.evaluate import evaluate
from networks import cube
from tiny import load_benchmark


@pytest.fixture(scope="module")
def recipes() -> ModuleType:
    return load_benchmark("recipes")


@pytest.fixture(scope="module")
def variants() -> ModuleType:
    return load_benchmark("variants")


def test_finished_blocks_of_the_gpu_are_not_run_again(tmp_path: Path) -> None:
    script = load_benchmark("gpu")
    bench = script.Bench(torch.device("cpu"), True, tmp_path, None, None)
    names = list(script.blocks(bench, full=False))
    done = {name: {"seconds": 1.0, "figures": {"kept": 0.25}} for name in names if not name.startswith("matrix")}
    (tmp_path / "gpu.json").write_text(json.dumps({"machine": script.machine(bench.device), "blocks": done}))
    command = [sys.executable, script.__file__, "--device", "cpu", "--small", "--output", str(tmp_path)]
    said = subprocess.run([*command, "--budget", "21"], capture_output=True, text=True, check=True).stdout
    assert "the budget is spent" in said  # one second is too short for any block
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "gpu.json").read_text())["blocks"]
    assert set(found) == set(names)
    speeds = found["matrix product, TFLOP/s"]["figures"]  # one for each precision that this processor computes in
    assert speeds
    for name, speed in speeds.items():
        assert (name.partition(" ")[0], speed > 0) == ("cpu", True)
    assert f"| {names[-1]} | kept | 0.25 |" in (tmp_path / "gpu.md").read_text()


def test_every_class_is_spread_evenly_over_the_folds(recipes: ModuleType) -> None:
    labels = np.repeat([0, 1, 2], [40, 9, 22])
    folds = recipes._folds(labels)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=recipes.FOLDS)
        assert counts.max() - counts.min() <= 1


def test_mean_of_classes_counts_every_class_alike(recipes: ModuleType) -> None:
    labels = np.repeat([0, 1], [90, 10])
    values = np.concatenate([np.zeros(90), np.tile([0.0, 1.0], 5)])
    mean, low, high = recipes._mean_of_classes(values, labels)
    assert mean == 0.25
    # Only the second class varies: half of a binomial share of ten.
    assert low == pytest.approx(0.25 - 0.155, abs=0.06)
    assert high == pytest.approx(0.25 + 0.155, abs=0.06)


def test_alarms_of_recipes_are_those_of_the_class_that_one_view_gives(recipes: ModuleType) -> None:
    logits = np.array([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]] * 10)
    views = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]] * 10)
    fold, labels = {"logits": logits, "views": views}, np.array([0, 1, 1] * 10)
    softmax, mean = (recipes._drawn_metrics(fold, labels, score, 0) for score in ("softmax", "views"))
    # The second of three is wrong; by softmax it is between the others, by views the lowest, and right by their mean.
    assert (softmax["accuracy"][0], softmax["auroc"][0]) == (pytest.approx(2 / 3), 0.5)
    assert (mean["accuracy"][0], mean["auroc"][0]) == (1.0, 1.0)


def test_sharpness_within_no_distance_is_the_plain_loss_and_further_off_a_higher_one(
    variants: ModuleType, run: Run
) -> None:
    training = run.voxels.indices("train")
    data = TrainingData(run.voxels, training, training[:2], torch.device("cpu"))
    encoder = build(
        run.network.backbone.config
    ).backbone.eval()  # batch norm as it stands, so that the loss is one of weights
    settings = TrainingSettings(label_smoothing=0.0)

    def loss(phase: FeedforwardPhase, radius: float = 0.0) -> tuple[float, list[torch.Tensor]]:
        phase.radius = radius
        value = phase.terms(encoder, training[:8], torch.Generator().manual_seed(1))["class"]
        return float(value.detach()), list(torch.autograd.grad(value, list(encoder.parameters())))

    plain, gradient = loss(FeedforwardPhase(data, settings, encoder))
    near, same = loss(variants.SharpnessAware(data, settings, encoder))
    assert near == pytest.approx(plain, rel=1e-5)
    for one, other in zip(gradient, same, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert loss(variants.SharpnessAware(data, settings, encoder), 0.05)[0] > plain


def test_classes_that_face_one_way_are_not_mirrored_in_it(variants: ModuleType, run: Run) -> None:
    generator = np.random.default_rng(0)
    grids = np.zeros((60, 16, 16, 16), np.uint8)
    grids[:, 3:13, 3:13, 3:13] = 1
    grids[:20, 3:6, :, 6:13] = 0  # the first class has nothing in front
    for number in range(20, 40):  # the second faces any of two ways
        grids[number, :, 0 if generator.random() < 0.5 else -1] = 1
    voxels = replace(
        run.voxels, input=cube(16), labels=np.repeat([0, 1, 2], 20), packed=np.packbits(grids.reshape(60, -1), axis=1)
    )
    data = TrainingData(voxels, np.arange(60), np.arange(2), torch.device("cpu"))
    augmentation = Augmentation(shift=0, mirror=True)
    phase = variants.OwnMirrors(
        data, TrainingSettings(augmentation=augmentation), build(run.network.backbone.config).backbone
    )
    assert phase.own.tolist() == [[False, True, True], [True, True, True], [True, True, True]]
    _, labels, flips = phase.varied(np.arange(60), torch.Generator().manual_seed(0))
    assert labels.tolist() == voxels.labels.tolist()
    assert [flips[labels == label].any(0).tolist()[:2] for label in range(2)] == [[False, True], [True, True]]


@pytest.mark.parametrize(("signs", "expected"), [([1, 1, 1, 1], 1.0), ([1, -1, 1, -1], -1 / 3), ([0, 0, 0, 0], -1 / 3)])
def test_agreement_is_the_mean_cosine_of_pairs(variants: ModuleType, signs: list[int], expected: float) -> None:
    row = np.random.default_rng(0).normal(size=50)
    assert variants.agreement(np.outer(signs, row)) == pytest.approx(expected)


def test_poses_are_told_apart_by_a_head_of_their_own(variants: ModuleType, run: Run) -> None:
    training = run.voxels.indices("train")
    data = TrainingData(run.voxels, training, training[:2], torch.device("cpu"))
    encoder = build(run.network.backbone.config).backbone.eval()
    settings = TrainingSettings(label_smoothing=0.0, augmentation=Augmentation(mirror=True, quarter_turns=True))
    phase = variants.Poses(data, settings, encoder)
    terms = phase.terms(encoder, training[:8], torch.Generator().manual_seed(1))
    plain = FeedforwardPhase(data, settings, encoder).terms(encoder, training[:8], torch.Generator().manual_seed(1))
    assert terms["class"].item() == pytest.approx(plain["class"].item(), rel=1e-3)
    with torch.no_grad():
        encoder.poses.weight.zero_()
        encoder.poses.bias.zero_()
        even = phase.terms(encoder, training[:8], torch.Generator().manual_seed(1))["voxel"]
    assert even.item() == pytest.approx(phase.weight * np.log(8 * len(run.voxels.classes)))


def test_stretched_shape_keeps_the_length_of_its_longest_side(variants: ModuleType) -> None:
    grids = torch.zeros(4, 1, 20, 18, 16)
    grids[0, 0, 2:18, 5:11, 4:6] = 1
    grids[1, 0, 7:10, 3:15, 2:14] = 1
    grids[2, 0, 9, 9, 9] = 1
    lengths = torch.tensor([[16, 6, 2], [3, 12, 12], [1, 1, 1], [1, 1, 1]])  # nothing counts as one voxel
    scales = torch.tensor([[0.5, 1.5, 1.0], [1.0, 0.8, 1.25], [2.0, 1.0, 0.5], [0.5, 1.0, 1.0]])
    found = variants.as_long_as_before(grids, scales)
    torch.testing.assert_close((found * lengths).amax(1), lengths.amax(1).float())
    torch.testing.assert_close(found / scales, (found / scales)[:, :1].expand(-1, 3))


def test_hollow_shape_keeps_what_touches_free_space(recipes: ModuleType) -> None:
    cube = np.zeros((1, 8, 8, 8), np.uint8)
    cube[0, 2:6, 2:6, 2:6] = 1
    shell = recipes.hollow(cube)
    assert shell.sum() == 4**3 - 2**3
    assert not shell[0, 3:5, 3:5, 3:5].any()
    assert np.array_equal(recipes.hollow(shell), shell)
    full = np.ones((1, 8, 8, 8), np.uint8)
    assert recipes.hollow(full).sum() == 8**3 - 6**3  # the grid's edge is free space


def test_pretraining_sees_training_shapes_of_other_classes_alone_longer_by_a_quarter(
    recipes: ModuleType, run: Run
) -> None:
    voxels = run.voxels
    others = recipes.other_classes(voxels, voxels.classes[:1])
    chosen = voxels.indices("train")
    chosen = chosen[voxels.labels[chosen] > 0]
    assert others.classes == voxels.classes[1:]
    assert others.names == [voxels.names[i] for i in chosen]
    assert list(others.labels) == [voxels.labels[i] - 1 for i in chosen]
    for before, after in zip(voxels.grids(chosen), others.grids(range(len(others))), strict=True):
        for short, long in zip(_extent(before), _extent(after), strict=True):
            assert abs(long - min(1.25 * short, voxels.input.shape[0])) <= 1


def _extent(grid: np.ndarray) -> list[int]:
    return [int(np.ptp(np.flatnonzero(grid.any(axis=others)))) + 1 for others in ((1, 2), (0, 2), (0, 1))]


def test_nearest_shape_of_a_shape_is_itself(run: Run) -> None:
    voxels, training = run.voxels, run.voxels.indices("train")
    found, iou = load_benchmark("limits").nearest_shapes(voxels, training[::3], training)
    assert (iou == 1).all()
    np.testing.assert_array_equal(voxels.grids(training[found]), voxels.grids(training[::3]))


def test_proportions_are_those_of_the_shapes_extents(run: Run) -> None:
    voxels = run.voxels
    found = load_benchmark("limits").proportions(voxels, "test")
    chosen = voxels.indices("test")
    for label, (median, square) in enumerate(found):
        extents = np.array([_extent(grid) for grid in voxels.grids(chosen[voxels.labels[chosen] == label])])
        assert np.array_equal(median, np.median(extents, axis=0))
        assert square == (extents[:, 0] == extents[:, 1]).mean()


def test_recognition_without_codebooks_is_what_evaluate_finds(run: Run) -> None:
    found = load_benchmark("recognition").recognise([run, run], [run])
    wanted = evaluate(run, run)
    assert {key: value for key, value in found["runs"][1].items() if key != "seed"}.items() <= wanted["runs"][1].items()
    assert found["runs"][0]["seed"] == run.model.seed
    for key in ("n", "n_errors", "accuracy", "class_accuracy", "per_class_accuracy"):
        assert found[key] == wanted[key]
    assert found["without_duplicates"].items() <= wanted["without_duplicates"].items()
    for layer, by_gates in wanted["reconstruction"].items():
        for gates, measures in by_gates.items():
            assert found["reconstruction"][layer][gates] == pytest.approx(measures, rel=1e-6)


def test_recognition_of_volumes_is_what_evaluate_finds(run: Run) -> None:
    row, majority = load_benchmark("volumes").recognised(run, "test")
    wanted = evaluate(run)
    assert row[:3] == pytest.approx([wanted["accuracy"], wanted["recognition"]["auc"], wanted["class_accuracy"]])
    assert np.isnan(row[3:]).all()  # a threshold is of two classes
    assert majority == wanted["recognition"]["majority"]


def test_steep_voxels_weigh_more_in_the_loss_by_gradient() -> None:
    intensities = load_benchmark("intensities")
    target = torch.zeros(1, 1, 8, 6, 5)
    target[:, :, 4:] = 1.0
    raw = target.clone()
    weight = torch.ones(1)
    losses = []
    for x in (1, 3, 4, 6):  # far from the step, at it, at it, far from it
        raw = target.clone()
        raw[:, :, x] += 0.5
        losses.append(float(intensities.ByGradient(1.0).loss(raw, target, weight, "sum")))
    # The step of two planes has four times the mean steepness, of which three count.
    assert losses == pytest.approx([15 / 1.75, 60 / 1.75, 60 / 1.75, 15 / 1.75], rel=1e-3)
    assert np.array_equal(np.flatnonzero(intensities.steepness(target)[0, 0, :, 0, 0].numpy()), [3, 4])


def test_throughput_measures_products_only_in_the_precisions_that_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without hardware for it, one large product in bfloat16 takes PyTorch minutes.
    training, measured = load_benchmark("training"), []
    monkeypatch.setattr(training, "matrix_product", lambda dtype: measured.append(dtype) or 100.0)
    monkeypatch.setattr(training, "mixed_precision", lambda device: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr("sys.argv", ["training.py", "--preset", "smoke", "--batch", "2", "--steps", "1"])
    training.main()
    assert measured == [torch.float32]
    out = capsys.readouterr().out
    assert "100 GFLOP/s in float32; fer train computes in float32." in out
    assert out.count("| plain float32 |") == out.count("| fer train |") == 2


def test_a_voxel_is_near_a_surface_that_ends_within_a_hundredth_of_it() -> None:
    """A box of 8 voxels a side holds a wall that ends a little before the border at 3."""
    script = load_benchmark("voxelize")
    corners = np.array(list(np.ndindex(2, 2, 2)), float) * 8
    for short, is_near in ((0.005, True), (0.02, False)):
        wall = np.array([[3 - short, 1, 1.5], [3 - short, 2, 1.5], [2.5, 1, 1.5]])
        mesh = Mesh(np.concatenate([corners, wall]), np.array([[0, 0, 0], [7, 7, 7], [8, 9, 10]]))
        grid = voxelize_shape(mesh, VoxelSettings(8, 0))
        assert grid.occupancy[2, 1, 1]
        assert not grid.occupancy[3, 1, 1]
        assert script.near_surface(mesh, grid)[3, 1, 1] == is_near


@torch.inference_mode()
def test_fewer_multiplications_are_compared_with_those_of_pytorch() -> None:
    script = load_benchmark("winograd")
    with torch.inference_mode(mode=False):
        layer = WinogradConv3d(8, 8, 3, padding=1)
    feature, kinds = torch.rand(2, 8, 8, 8, 8), []
    script._measure(lambda: kinds.append(type(layer)), {"conv": layer}, WinogradConv3d, [(), ("conv",)], 1)
    assert kinds == [torch.nn.Conv3d] * 2 + [WinogradConv3d] * 2
    own, usual = script._errors(layer, lambda: layer(feature))
    assert own != usual
    assert type(layer) is WinogradConv3d
