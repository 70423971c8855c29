import numpy as np
import pytest

from fer_cli.calibration.p_value import PredictedClasses
from fer_cli.calibration.typicality import Typicality, known_typicality
from fer_cli.run import Run


def distances(count: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {layer: np.exp(generator.normal(i, 0.5 + i, count)) for i, layer in enumerate(("conv1", "conv2", "fc3"))}


def alike(count: int) -> np.ndarray:
    """Predicted classes of samples that are all of one."""
    return np.zeros(count, dtype=int)


def known_of(values: dict[str, np.ndarray]) -> Typicality:
    """Typicality from validation samples that are all predicted as one class."""
    return known_typicality(values, PredictedClasses(alike(len(next(iter(values.values())))), 1))


def test_atypicality_is_the_largest_deviation_of_any_layer() -> None:
    known, new = distances(50, 0), distances(8, 1)

    def score(values: dict[str, float]) -> tuple[float, str]:
        logs = {layer: np.log(known[layer]) for layer in known}
        return max(((np.log(values[layer]) - logs[layer].mean()) / logs[layer].std(), layer) for layer in known)

    typicality = known_of(known)
    for i, found in enumerate(typicality.measure(new, alike(8))):
        expected, layer = score({layer: new[layer][i] for layer in new})
        assert (found.score, found.layer) == (pytest.approx(expected), layer)
        assert found.p_value == pytest.approx((1 + sum(other >= expected for other in typicality.scores)) / 51)


def test_scores_of_known_samples_are_by_statistics_of_others() -> None:
    known = distances(50, 0)
    known["conv2"][7] *= 1e6
    own = (np.log(known["conv2"]) - np.log(known["conv2"]).mean()) / np.log(known["conv2"]).std()
    assert known_of(known).scores[7] > own[7] + 1


def test_p_values_of_samples_like_the_known_ones_are_uniform() -> None:
    p_values = []
    for seed in range(200):
        together = distances(60, seed)
        known = known_of({layer: values[:50] for layer, values in together.items()})
        p_values += [
            found.p_value for found in known.measure({layer: v[50:] for layer, v in together.items()}, alike(10))
        ]
    # 2000 values from 200 calibrations: a standard error below 0.02.
    for level in (0.1, 0.25, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.06)


def test_what_lies_on_its_codes_and_a_single_known_sample_are_no_errors() -> None:
    known = known_of({"conv1": np.array([2.0])})
    on, same, far = known.measure({"conv1": np.array([0.0, 2.0, 2.0 * np.e])}, alike(3))
    assert on.score < 0
    assert (same.score, same.p_value) == (0, 1)
    assert (far.score, far.p_value) == (pytest.approx(1), 0.5)


def test_noise_lies_farther_from_its_codes_than_a_box(run: Run) -> None:
    from fer_cli.codebooks.reading import code_distances, read_samples

    box = run.voxels.tensor([3])
    noise = (run.voxels.tensor([3]) * 0).bernoulli_(0.5)
    readings = [read_samples(run.network, run.codebook, grid) for grid in (box, noise)]
    scores = [
        run.typicality.measure(code_distances(run.codebook, reading), reading.predicted)[0].score
        for reading in readings
    ]
    assert scores[0] < scores[1]
