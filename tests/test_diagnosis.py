import numpy as np
import pytest
import torch

from fer_cli.activations import FEEDFORWARD, PATHS
from fer_cli.codebook import Codebook, LayerCodebook
from fer_cli.dataset import Sample
from fer_cli.diagnosis import explain, find_blame, unravel
from fer_cli.errors import UsageError
from fer_cli.model import PRESETS, NetworkConfig
from fer_cli.reading import Reading, read_samples
from fer_cli.receptive import receptive_field
from fer_cli.reconstruction import ERRORS, class_code_reconstruction, local_reconstruction, table1_errors
from fer_cli.run import Run

CONFIG = NetworkConfig(PRESETS["smoke"], ("p", "q", "r"), 32)
BELOW = CONFIG.layer_names[:-1]


def reading_of(seed: int, wrong: set[str]) -> tuple[Codebook, Reading]:
    """Random codes of one sample, and evidence in which the layers `wrong` speak for class 2 over class 0."""
    generator = np.random.default_rng(seed)
    books, codes, evidence = {}, {}, {}
    for layer in CONFIG.layer_names:
        filters, *sides = CONFIG.level_shape(layer)
        locations = int(np.prod(sides))
        histogram = generator.integers(0, 9, (locations, 4, 3)).astype(np.int32)
        centroids = np.zeros((locations, 4, filters), np.float32)
        exemplar, n_codes = np.zeros((locations, 4), np.int32), np.full(locations, 4, np.int32)
        books[layer] = LayerCodebook(centroids, histogram, exemplar, n_codes, 32)
        codes[layer] = generator.integers(0, 4, (1, locations))
        evidence[layer] = np.array([[0, 9, 1 if layer in wrong else -1]], np.float32)
    codebook = Codebook(CONFIG, np.array([0.2, 0.5, 0.3]), lambda path, layer: books[layer])
    return codebook, Reading({}, {FEEDFORWARD: codes}, {FEEDFORWARD: evidence})


@pytest.mark.parametrize(
    ("wrong", "layer"),
    [
        (BELOW, "conv1"),
        (BELOW[1:], "conv2"),
        (BELOW[2:], "conv3"),
        (("conv1", *BELOW[3:]), "conv4"),
        (("conv1", "conv2", "fc7"), "fc7"),
        (BELOW[:-1], "output"),
        ((), "output"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_blame_falls_where_the_evidence_turns_for_good(wrong: tuple[str, ...], layer: str, seed: int) -> None:
    codebook, reading = reading_of(seed, set(wrong))
    blame = find_blame(codebook, reading, predicted=2, label=0)
    assert blame.layer == layer
    shape = CONFIG.level_shape(layer)[1:]
    expected = [(0, 0, 0)]
    if shape != (1, 1, 1):
        codes = reading.codes[FEEDFORWARD][layer]
        table = codebook.evidence(FEEDFORWARD, layer, codes)[0]
        differences = [(float(table[i, 2] - table[i, 0]), -i) for i in range(len(table))]
        most = {"conv1": 16, "conv2": 16, "conv3": 8, "conv4": 1}[layer]
        best = sorted(differences, reverse=True)[:most]
        expected = [unravel(-i, shape) for difference, i in best if difference > 0]
    assert list(blame.locations) == expected
    index = CONFIG.index(layer)
    assert list(blame.boxes) == [receptive_field(CONFIG.specs, index, at, (32, 32, 32)) for at in expected]


def test_even_evidence_is_not_wrong() -> None:
    codebook, reading = reading_of(0, set(BELOW))
    reading.evidence[FEEDFORWARD]["conv5"][0] = [1, 0, 1]
    assert find_blame(codebook, reading, predicted=2, label=0).layer == "fc6"


def test_locations_are_flattened_with_z_fastest() -> None:
    shape = (4, 3, 2)
    flat = np.arange(24).reshape(shape)
    assert all(flat[unravel(i, shape)] == i for i in range(24))


def test_diagnosis_is_what_its_parts_say(run: Run) -> None:
    sample = run.sample("pole_test_03")
    diagnosis = explain(run, sample, local_layer="conv2")
    reading = read_samples(run.network, run.codebook, torch.from_numpy(sample.grid).float()[None, None])
    classes = run.network.config.classes
    assert diagnosis.predicted == classes[reading.predicted[0]]
    assert list(diagnosis.probabilities) == list(classes)
    assert sum(diagnosis.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert diagnosis.local_layer == "conv2"
    np.testing.assert_array_equal(diagnosis.input_grid, sample.grid)
    np.testing.assert_array_equal(diagnosis.local_grid, local_reconstruction(run.network, reading, "conv2")[0])
    code = class_code_reconstruction(run.network, run.codebook, reading)
    np.testing.assert_array_equal(diagnosis.class_code_grid, code[0])
    nearest = run.voxels.names.index(diagnosis.nearest_training_sample)
    np.testing.assert_array_equal(diagnosis.nearest_grid, run.voxels.grids([nearest])[0])
    grids = (diagnosis.input_grid, diagnosis.local_grid, diagnosis.nearest_grid, diagnosis.class_code_grid)
    errors = table1_errors(*(grid[None] for grid in grids))
    assert diagnosis.errors == {name: float(values[0]) for name, values in errors.items()}
    assert [layer.name for layer in diagnosis.layers] == list(run.network.config.layer_names)
    for layer in diagnosis.layers:
        for path in PATHS:
            evidence = getattr(layer, f"{path}_evidence")
            assert list(evidence.values()) == pytest.approx(reading.evidence[path][layer.name][0].tolist())
            assert getattr(layer, f"{path}_class") == max(evidence, key=evidence.__getitem__)
            exemplar = run.voxels.names.index(getattr(layer, f"{path}_exemplar"))
            grid = getattr(layer, f"{path}_exemplar_grid")
            np.testing.assert_array_equal(grid, run.voxels.grids([exemplar])[0])
    suspicion = run.calibration.suspicion(reading.confidence_scores())
    assert diagnosis.suspicion.score == suspicion[0]
    assert diagnosis.suspicion.p_value == run.calibration.p_value(suspicion)[0]


def test_errors_are_held_against_those_of_validation_samples_from_the_same_local_layer(run: Run) -> None:
    sample, calibration = run.sample("pole_test_03"), run.calibration
    same = explain(run, sample, local_layer=run.network.config.local_layer).reference_errors
    for group, chosen in ((same.correct, calibration.correct), (same.misclassified, ~calibration.correct)):
        assert set(group) == set(ERRORS)
        for name, values in group.items():
            np.testing.assert_array_equal(values, calibration.errors[name][chosen])
    other = explain(run, sample, local_layer="conv2").reference_errors
    assert set(other.correct) == set(other.misclassified) == {"nearest_vs_code", "input_vs_code"}


def test_verdict_says_whether_and_where_it_went_wrong(run: Run) -> None:
    grid = run.voxels.grids([run.voxels.index_of("beam_test_02")])[0]
    unlabelled = explain(run, Sample("shape", grid, None))
    predicted = unlabelled.predicted
    label = run.network.config.classes.index(predicted)
    rarity = f"{unlabelled.suspicion.p_value:.0%} of correctly classified validation samples"
    sure = f"{predicted} (probability {unlabelled.probabilities[predicted]:.2f})"
    assert (unlabelled.label, unlabelled.correct, unlabelled.blame.layer) == (None, None, None)
    assert unlabelled.verdict.startswith(f"Classified as {sure}; its true class is not known. {rarity}")
    correct = explain(run, Sample("shape", grid, label))
    agreeing = sum(layer.feedforward_class == predicted for layer in correct.layers[:-1])
    assert (correct.correct, correct.blame.layer, correct.blame.locations) == (True, None, ())
    assert correct.verdict.startswith(
        f"Correctly classified as {sure}: the feedforward clusters of {agreeing} of 4 layers speak for {predicted}. "
    )
    endings = {
        "output": "Up to the last layer the feedforward clusters favour {label}, so the mistake is made in the output",
        "conv1": "Already the clusters of conv1 favour {predicted} over {label}, and every layer above agrees",
    }
    between = "The feedforward clusters turn from {label} to {predicted} at {layer} and stay with it above"
    for index, name in enumerate(run.network.config.classes):
        if index == label:
            continue
        wrong = explain(run, Sample("shape", grid, index))
        assert wrong.correct is False
        assert wrong.blame.layer is not None
        text = endings.get(wrong.blame.layer, between)
        where = text.format(label=name, predicted=predicted, layer=wrong.blame.layer)
        assert wrong.verdict.startswith(f"A {name} taken for a {sure}. {where}")
        assert rarity in wrong.verdict
        assert len(wrong.blame.boxes) == len(wrong.blame.locations) >= 1


def test_unknown_local_layer_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="no layer 'conv9'"):
        explain(run, run.sample("pole_test_03"), local_layer="conv9")
