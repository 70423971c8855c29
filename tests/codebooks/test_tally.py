from collections.abc import Callable

import numpy as np
import pytest
import torch

from fer_cli.codebooks.device_tally import DeviceTally
from fer_cli.codebooks.tally import Tally

RNG = np.random.default_rng(3)
LOCATIONS, SAMPLES, FILTERS, K, CLASSES = 5, 40, 4, 6, 3
VECTORS = RNG.standard_normal((LOCATIONS, SAMPLES, FILTERS)).astype(np.float32)
CENTROIDS = RNG.standard_normal((LOCATIONS, K, FILTERS)).astype(np.float32)
CODES = np.square(VECTORS[:, :, None] - CENTROIDS[:, None]).sum(axis=3).argmin(axis=2)
LABELS = RNG.integers(0, CLASSES, SAMPLES)
NAMES = np.sort(RNG.choice(1000, SAMPLES, replace=False))


def on_device(*parts: slice) -> Tally:
    tally = DeviceTally(torch.from_numpy(CENTROIDS), CLASSES)
    for part in parts:
        vectors, codes = (torch.from_numpy(np.ascontiguousarray(each[:, part])) for each in (VECTORS, CODES))
        tally.add(vectors, codes, samples=NAMES[part], labels=LABELS[part])
    return tally.tally()


def tallied(*parts: slice) -> Tally:
    tally = Tally.empty(LOCATIONS, K, FILTERS, CLASSES)
    for part in parts:
        tally.add(VECTORS[:, part], CODES[:, part], CENTROIDS, samples=NAMES[part], labels=LABELS[part])
    return tally


@pytest.mark.parametrize("count", [tallied, on_device])
@pytest.mark.parametrize("parts", [(slice(0, 40),), (slice(0, 7), slice(7, 8), slice(8, 40))])
def test_a_tally_is_what_a_loop_counts(parts: tuple[slice, ...], count: Callable[..., Tally]) -> None:
    tally = count(*parts)
    for location in range(LOCATIONS):
        offsets = VECTORS[location].astype(np.float64) - CENTROIDS[location, CODES[location]]
        distances = np.square(offsets).sum(axis=1)
        assert tally.inertia[location] == pytest.approx(distances.sum())
        mean = VECTORS[location].mean(axis=0, dtype=np.float64)
        assert tally.scatter[location] == pytest.approx(np.square(VECTORS[location] - mean).sum())
        for code in range(K):
            members = np.flatnonzero(CODES[location] == code)
            expected = np.bincount(LABELS[members], minlength=CLASSES)
            np.testing.assert_array_equal(tally.histogram[location, code], expected)
            nearest = NAMES[members[distances[members].argmin()]] if len(members) else -1
            assert tally.exemplar[location, code] == nearest


def test_of_equally_near_samples_the_first_is_the_exemplar() -> None:
    vectors = np.zeros((2, 6, 1), np.float32)
    tally = Tally.empty(2, 2, 1, 1)
    zeros = np.zeros(6, np.int64)
    centroids = np.array([[[1.0], [5.0]]] * 2, np.float32)
    for start in (0, 6):
        names = np.arange(start, start + 6) + 30
        tally.add(vectors, np.zeros((2, 6), np.int64), centroids, samples=names, labels=zeros)
    assert tally.exemplar.tolist() == [[30, -1], [30, -1]]


def test_on_a_device_too_the_first_of_equally_near_samples_is_the_exemplar() -> None:
    tally = DeviceTally(torch.tensor([[[1.0], [5.0]]] * 2), 1)
    for start in (0, 6):
        names, zeros = np.arange(start, start + 6) + 30, np.zeros(6, np.int64)
        tally.add(torch.zeros(2, 6, 1), torch.zeros(2, 6, dtype=torch.int64), samples=names, labels=zeros)
    assert tally.tally().exemplar.tolist() == [[30, -1], [30, -1]]


def test_features_that_never_vary_have_no_scatter() -> None:
    vectors = np.full((1, 9, 3), 0.1, np.float32)
    tally = Tally.empty(1, 1, 3, 1)
    zeros = np.zeros(9, np.int64)
    tally.add(vectors, zeros[None], vectors[:, :1], samples=np.arange(9), labels=zeros)
    assert (tally.scatter[0], tally.inertia[0]) == (0, 0)


def test_tallies_of_locations_join_in_order() -> None:
    whole, parts = tallied(slice(0, 40)), []
    for location in range(LOCATIONS):
        here = slice(location, location + 1)
        tally = Tally.empty(1, K, FILTERS, CLASSES)
        tally.add(VECTORS[here], CODES[here], CENTROIDS[here], samples=NAMES, labels=LABELS)
        parts.append(tally)
    joined = Tally.joined(parts)
    for name, array in vars(whole).items():
        np.testing.assert_array_equal(getattr(joined, name), array, err_msg=name)
