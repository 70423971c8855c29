import numpy as np
import pytest

from fer_cli.calibration.typicality import known_typicality
from fer_cli.run import Run


def distances(count: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {layer: np.exp(generator.normal(i, 0.5 + i, count)) for i, layer in enumerate(("conv1", "conv2", "fc3"))}


def test_atypicality_is_the_largest_deviation_of_any_layer() -> None:
    known, new = distances(50, 0), distances(8, 1)

    def score(values: dict[str, float]) -> tuple[float, str]:
        logs = {layer: np.log(known[layer]) for layer in known}
        return max(((np.log(values[layer]) - logs[layer].mean()) / logs[layer].std(), layer) for layer in known)

    own = [score({layer: known[layer][i] for layer in known})[0] for i in range(50)]
    for i, found in enumerate(known_typicality(known).measure(new)):
        expected, layer = score({layer: new[layer][i] for layer in new})
        assert (found.score, found.layer) == (pytest.approx(expected), layer)
        assert found.p_value == (1 + sum(other >= expected for other in own)) / 51


def test_p_values_of_samples_like_the_known_ones_are_uniform() -> None:
    p_values = []
    for seed in range(200):
        together = distances(60, seed)
        known = known_typicality({layer: values[:50] for layer, values in together.items()})
        p_values += [found.p_value for found in known.measure({layer: v[50:] for layer, v in together.items()})]
    # 2000 values from 200 calibrations: a standard error below 0.02.
    for level in (0.1, 0.25, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.06)


def test_what_lies_on_its_codes_and_a_single_known_sample_are_no_errors() -> None:
    known = known_typicality({"conv1": np.array([2.0])})
    on, same, far = known.measure({"conv1": np.array([0.0, 2.0, 2.0 * np.e])})
    assert on.score < 0
    assert (same.score, same.p_value) == (0, 1)
    assert (far.score, far.p_value) == (pytest.approx(1), 0.5)


def test_noise_lies_farther_from_its_codes_than_a_box(run: Run) -> None:
    from fer_cli.codebooks.reading import code_distances, read_samples

    box = run.voxels.tensor([3])
    noise = (run.voxels.tensor([3]) * 0).bernoulli_(0.5)
    scores = [
        run.typicality.measure(code_distances(run.codebook, read_samples(run.network, run.codebook, grid)))[0].score
        for grid in (box, noise)
    ]
    assert scores[0] < scores[1]
