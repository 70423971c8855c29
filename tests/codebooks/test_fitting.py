from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fer_cli.codebooks.batched_fitting import fit_batched
from fer_cli.codebooks.fitting import Counted, Fitted, fit_locations
from fer_cli.codebooks.kmeans import nearest

RNG = np.random.default_rng(8)
LABELS = RNG.integers(0, 3, 60)
COUNTED = Counted(np.arange(60) * 2, LABELS, 3, keep=True)
Fit = Callable[[np.ndarray, int, Sequence[int], Counted | None], Fitted]


def with_torch(features: np.ndarray, k: int, seeds: Sequence[int], counted: Counted | None) -> Fitted:
    return fit_batched(torch.from_numpy(features), k, seeds, counted)


either = pytest.mark.parametrize("fit", [fit_locations, with_torch])


@either
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_codes_counts_and_exemplars_are_of_the_features_given(dtype: type, fit: Fit) -> None:
    features = np.round(RNG.standard_normal((3, 60, 4)), 1).astype(dtype)
    features[:, ::3] = features[:, :1]  # a vector that repeats
    fitted = fit(features, 7, [1, 2, 3], COUNTED)
    assert fitted.tally is not None
    assert fitted.code is not None
    assert fit(features, 7, [1, 2, 3], replace(COUNTED, keep=False)).code is None
    for location, stored in enumerate(features):
        vectors = stored.astype(np.float32)
        assert fitted.n_codes[location] == 7
        codes = nearest(vectors, fitted.centroids[location])
        np.testing.assert_array_equal(fitted.code[location], codes)
        distances = np.square(vectors - fitted.centroids[location, codes].astype(np.float64)).sum(axis=1)
        assert fitted.tally.inertia[location] == pytest.approx(distances.sum())
        scatter = np.square(vectors - vectors.mean(axis=0, dtype=np.float64)).sum()
        assert fitted.tally.scatter[location] == pytest.approx(scatter)
        assert fitted.n_distinct[location] == len(np.unique(vectors.astype(np.float16), axis=0))
        for code in range(7):
            members = np.flatnonzero(codes == code)
            np.testing.assert_array_equal(
                fitted.tally.histogram[location, code], np.bincount(LABELS[members], minlength=3)
            )
            if len(members):
                assert fitted.tally.exemplar[location, code] == 2 * members[distances[members].argmin()]


@either
def test_few_distinct_vectors_dead_filters_and_silent_locations(fit: Fit) -> None:
    features = np.zeros((2, 60, 3), np.float16)
    features[0, 10:, 1] = 2
    fitted = fit(features, 5, [0, 0], COUNTED)
    assert fitted.tally is not None
    assert fitted.n_codes.tolist() == fitted.n_distinct.tolist() == [2, 1]
    assert fitted.n_dead.tolist() == [2, 3]
    np.testing.assert_array_equal(fitted.centroids[0, :3], [[0, 0, 0], [0, 2, 0], [0, 0, 0]])
    assert fitted.tally.histogram.sum(axis=2).tolist() == [[10, 50, 0, 0, 0], [60, 0, 0, 0, 0]]
    assert fitted.tally.exemplar.tolist() == [[0, 20, -1, -1, -1], [0, -1, -1, -1, -1]]


@either
def test_what_half_precision_cannot_hold_is_brought_to_its_end(fit: Fit) -> None:
    features = np.full((1, 60, 1), 1e30, np.float32)
    features[0, 0] = -1e30
    fitted = fit(features, 2, [0], None)
    assert fitted.centroids.ravel().tolist() == [-65504, 65504]


@either
def test_parts_join_in_order(fit: Fit) -> None:
    features = RNG.standard_normal((4, 60, 2)).astype(np.float16)
    whole = fit(features, 3, [5, 6, 7, 8], None)
    parts = [fit(features[:1], 3, [5], None), fit(features[1:], 3, [6, 7, 8], None)]
    joined = Fitted.joined(parts)
    assert joined.tally is None
    np.testing.assert_array_equal(joined.centroids, whole.centroids)
