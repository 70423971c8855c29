import numpy as np
import pytest

from fer_cli.codebooks.choice import CANDIDATES, choice_rows, choose, choose_codes, measure_agreement
from fer_cli.execution.workers import open_threads
from fer_cli.run import Run


def test_clusters_that_are_there_are_found_by_every_seed() -> None:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((4, 5)) * 50
    vectors = np.concatenate([centre + generator.standard_normal((30, 5)) for centre in centres]).astype(np.float32)
    at_four, at_eleven = measure_agreement(vectors, [4, 11], [1, 2, 3])
    assert at_four == pytest.approx(1)
    assert at_eleven < 0.9


def test_noise_is_parted_as_the_seed_has_it() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 12)).astype(np.float32)
    assert measure_agreement(vectors, [10], [1, 2, 3])[0] < 0.5


def test_the_largest_k_within_one_standard_error_of_the_best_is_chosen() -> None:
    #        k =  5     10    15    20
    table = [[0.50, 0.92, 0.90, 0.60], [0.70, 0.88, 0.86, 0.62]]
    candidates = choose("conv3", (5, 10, 15, 20), table)
    assert [c.k for c in candidates if c.chosen] == [15]
    assert [c.agreement for c in candidates] == pytest.approx([0.6, 0.9, 0.88, 0.61])
    assert candidates[1].error == pytest.approx(0.02)
    assert [c.k for c in choose("fc7", (5, 10), [[0.9, 0.9]]) if c.chosen] == [10]
    rows = choice_rows([vars(candidate) for candidate in candidates])
    assert rows == [{"layer": "conv3", "k": 15, "5": "0.60", "10": "0.90", "15": "0.88", "20": "0.61"}]


def test_choice_does_not_hang_on_workers(run: Run) -> None:
    samples = np.arange(60)
    seen: list[tuple[int, int]] = []
    choices = []
    for workers in (1, 3):
        with open_threads(workers) as executor:
            choices.append(
                choose_codes(run.network, run.voxels, samples, executor, seed=0, report=lambda *n: seen.append(n))
            )
    assert choices[0] == choices[1]
    layers = run.network.spec.layer_names[:-1]
    assert [c.layer for c in choices[0] if c.chosen] == list(layers)
    assert {c.k for c in choices[0]} == {CANDIDATES[0]}  # 60 samples are too few for more
    assert seen[-1][0] == seen[-1][1]
