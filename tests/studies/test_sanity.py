import json

import numpy as np
import pytest

from fer_cli.codebooks.reading import read_samples
from fer_cli.network.activations import PATHS
from fer_cli.run import Run
from fer_cli.studies.sanity import check_sanity, fit_small_codebook


@pytest.fixture(scope="module")
def checked(run: Run) -> dict:
    predicted = read_samples(run.network, run.codebook, run.voxels.tensor(run.voxels.indices("test"))).predicted
    return check_sanity(run, "test", predicted=predicted)


def test_the_trained_network_is_like_itself(checked: dict) -> None:
    for row in checked["checks"]["trained"].values():
        assert all(row[key] is None or row[key] == pytest.approx(1) for key in row if "correlation" in key)


def test_a_random_decoder_leaves_the_feedforward_path_alone_and_changes_the_other(checked: dict) -> None:
    trained, found = checked["checks"]["trained"], checked["checks"]["random_decoder"]
    for layer, row in found.items():
        assert row["feedforward_auroc"] == trained[layer]["feedforward_auroc"]
        assert row["feedforward_score_correlation"] == pytest.approx(1)
    assert any(row["feedback_score_correlation"] != pytest.approx(1) for row in found.values())


def test_a_random_encoder_and_permuted_labels_change_the_scores(checked: dict) -> None:
    for name in ("random_encoder", "permuted_labels"):
        rows = checked["checks"][name].values()
        assert any(row["feedforward_score_correlation"] != pytest.approx(1) for row in rows), name


def test_findings_name_what_was_measured(checked: dict) -> None:
    best = max(row["feedback_auroc"] for row in checked["checks"]["random_decoder"].values())
    assert any("decoder with random weights" in said and f"{best:.3f}" in said for said in checked["findings"])
    assert len(checked["findings"]) == 4
    json.dumps(checked, allow_nan=False)


def test_a_small_codebook_counts_every_sample_once(run: Run) -> None:
    samples = run.voxels.indices("train")[::2]
    book = fit_small_codebook(run.network, run.voxels, samples, run.voxels.labels[samples], seed=0)
    counts = np.bincount(run.voxels.labels[samples], minlength=3)
    for path in PATHS:
        for layer in run.network.spec.layer_names:
            assert (book.layer(path, layer).histogram.sum(axis=1) == counts).all()
    assert book.prior.sum() == pytest.approx(1)
