from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fer_cli.calibration.departure import AFTER, RAISED, SPREAD, Course, known_course, return_errors
from fer_cli.calibration.p_value import PredictedClasses
from fer_cli.network.activations import encode
from fer_cli.network.backbone import OUTPUT
from fer_cli.run import Run

LAYERS = ("conv1", "conv2", "fc3", "output")


def figures(count: int, seed: int, raised: Mapping[int, float] | None = None) -> tuple[dict, dict]:
    """Code distances and return errors whose logarithms depend on those before; `raised` adds to those of a layer."""
    generator = np.random.default_rng(seed)
    errors, distances = {}, {}
    before = np.zeros(count)
    for number, layer in enumerate(LAYERS):
        for found in (errors, distances) if layer != OUTPUT else (errors,):
            before = 0.8 * before + (number + 1) * generator.normal((raised or {}).get(number, 0.0), 0.5, count)
            found[layer] = np.exp(before + 3 * number)
    return distances, errors


def alike(count: int) -> np.ndarray:
    """Predicted classes of samples that are all of one."""
    return np.zeros(count, dtype=int)


def known_of(distances: dict, errors: dict) -> Course:
    """The course of samples of one class."""
    return known_course(LAYERS, distances, errors, PredictedClasses(alike(len(errors[OUTPUT])), 1))


def in_order(distances: dict, errors: dict) -> np.ndarray:
    return np.log(np.stack([f[layer] for layer in LAYERS for f in (errors, distances) if layer in f], axis=1))


def test_surprises_are_what_figures_add_to_those_before_them() -> None:
    known = figures(20_000, 0)
    found = known_of(*known).surprises(*known, alike(20_000))
    logarithms = in_order(*known)
    for i in range(logarithms.shape[1]):
        before = np.column_stack([logarithms[:, :i], np.ones(len(logarithms))])
        residual = logarithms[:, i] - before @ np.linalg.lstsq(before, logarithms[:, i], rcond=None)[0]
        # Correlations are drawn to zero by 7 in 20,007; of what lies below a hundredth of the median nothing is told.
        assert np.corrcoef(found[:, i], residual)[0, 1] > 0.99
        assert found[:, i].std() == pytest.approx(1, abs=0.02)


def test_layer_is_the_most_likely_one() -> None:
    known, new = figures(300, 1), figures(40, 2, {1: 2.0})
    course = known_of(*known)
    for surprises, found in zip(course.surprises(*new, alike(40)), course.measure(*new, alike(40)), strict=True):
        likelihoods = []
        for layer in range(len(LAYERS)):
            laws = [
                norm(0, 1) if of < layer else norm(RAISED, SPREAD) if of == layer else norm(0, AFTER)
                for of in course.layer_of
            ]
            likelihoods.append(sum(law.logpdf(value) for law, value in zip(laws, surprises, strict=True)))
        usual = norm(0, 1).logpdf(surprises).sum()
        ordered = sorted(likelihoods)
        assert found.layer == LAYERS[likelihoods.index(ordered[-1])]
        assert found.score == pytest.approx(ordered[-1] - usual)
        assert found.margin == pytest.approx(ordered[-1] - ordered[-2])


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_fault_is_found_where_it_enters_whatever_comes_after(layer: int) -> None:
    course = known_of(*figures(300, 3))
    after = dict.fromkeys(range(layer + 1, len(LAYERS)), -1.5)
    found = course.measure(*figures(200, 4, {layer: 2.5, **after}), alike(200))
    assert np.mean([each.layer == LAYERS[layer] for each in found]) > 0.9
    assert np.mean([each.is_significant for each in found]) > 0.9


def test_p_values_of_samples_like_the_known_ones_are_uniform() -> None:
    p_values = []
    for seed in range(100):
        distances, errors = figures(120, 100 + seed)
        known, new = ([{layer: v[part] for layer, v in f.items()} for f in (distances, errors)] for part in
                      (slice(100), slice(100, None)))  # fmt: skip
        p_values += [found.p_value for found in known_of(*known).measure(*new, alike(20))]
    # 2000 values from 100 courses.
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.03)


def test_p_values_hold_where_classes_have_other_shares_and_scales() -> None:
    """Validation samples of one class in ten; later samples half and half."""
    p_values = []
    for seed in range(60):
        distances, errors = figures(240, 1000 + seed)
        classes = np.r_[np.arange(200) % 10 == 0, np.arange(40) % 2 == 0].astype(int)
        scaled = [{layer: v * np.exp(3 * classes) for layer, v in f.items()} for f in (distances, errors)]
        known, new = ([{layer: v[part] for layer, v in f.items()} for f in scaled] for part in
                      (slice(200), slice(200, None)))  # fmt: skip
        course = known_course(LAYERS, *known, PredictedClasses(classes[:200], 2))
        p_values.append([found.p_value for found in course.measure(*new, classes[200:])])
    flagged = np.array(p_values) <= 0.05
    assert flagged.mean() == pytest.approx(0.05, abs=0.03)
    assert max(flagged[:, ::2].mean(), flagged[:, 1::2].mean()) < 0.1


def test_few_samples_and_figures_that_never_change_are_no_errors() -> None:
    distances, errors = figures(2, 5)
    errors["conv2"] = np.zeros(2)
    for found in known_of(distances, errors).measure(*figures(3, 6), alike(3)):
        assert np.isfinite([found.score, found.margin]).all()
        assert 0 < found.p_value <= 1


def test_return_errors_are_those_of_one_step_of_the_feedback_network(run: Run) -> None:
    grids = run.voxels.tensor(run.voxels.indices("test")[:5])
    features = encode(run.network, grids)
    found = return_errors(run.network, grids, features)
    names = run.network.spec.layer_names
    assert list(found) == list(names)
    for below, layer in zip((None, *names), names, strict=False):
        with torch.inference_mode():
            decoding = run.network.decode(features[layer], layer)
        returned = run.network.signal.value(decoding.raw) if below is None else decoding.features[below]
        lies = grids if below is None else features[below]
        expected = [float(((a - b) ** 2).sum()) for a, b in zip(returned, lies, strict=True)]
        assert found[layer].tolist() == pytest.approx(expected, rel=1e-4)


def test_codebook_holds_what_departures_are_measured_against(run: Run) -> None:
    assert run.course is not None
    fresh = Run(run.paths, device=torch.device("cpu"))
    fresh.__dict__["course"] = None  # as of an earlier codebook
    stored, measured = run.measured_course(), fresh.measured_course()
    assert stored is run.course
    assert measured.layers == stored.layers == run.network.spec.layer_names
    assert measured.mean == pytest.approx(stored.mean, abs=1e-6)
    assert measured.scores == pytest.approx(stored.scores, abs=1e-4)
