import numpy as np
import pytest
import torch

from fer_cli.data.volumes import InputSpec
from fer_cli.evaluation import baselines
from fer_cli.evaluation.encoded import Encoded, encode_samples
from fer_cli.network.backbone import OUTPUT
from fer_cli.run import Run
from networks import ArrayVolumes


def test_encoded_samples_are_what_the_encoder_gives(run: Run) -> None:
    indices = run.voxels.indices("test")[:5]
    found = encode_samples(run.network, run.voxels, indices)
    with torch.inference_mode():
        features = run.network.backbone.features(run.voxels.tensor(indices))
        logits = run.network.backbone(run.voxels.tensor(indices))
    assert run.network.spec.upper_layers == ("conv3", "fc4")
    np.testing.assert_allclose(found.features["fc4"], features["fc4"].flatten(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-5)
    assert found.wrong.tolist() == (logits.argmax(1).numpy() != run.voxels.labels[indices]).tolist()


def test_distances_are_those_to_the_nearest_training_volume_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_SHAPES", 4)
    monkeypatch.setattr(baselines, "_TRAINING_SHAPES", 3)
    generator = np.random.default_rng(0)
    array = generator.standard_normal((15, 2, 4, 3, 2)).astype(np.float32)
    labels = np.array([0, 0, 0, 2, 2, 2, 2, 0, 0, *[1] * 6])
    volumes = ArrayVolumes(array, labels, ["train"] * 15, ("a", "b", "c"), InputSpec(2, (4, 3, 2), "intensity"))
    training = Encoded(np.arange(9), labels[:9], np.zeros((9, 3), np.float32), {})
    found = baselines.volume_distances(volumes, np.arange(9, 15), training, 3)
    for i in range(6):
        for label in (0, 2):
            assert found[i, label] == pytest.approx(
                min(float(np.square(array[9 + i] - array[j]).sum()) for j in np.flatnonzero(labels == label)), rel=1e-4
            )
    assert np.isinf(found[:, 1]).all()


def test_dropout_of_nothing_is_the_network_and_more_of_it_makes_unsure(run: Run) -> None:
    encoded = encode_samples(run.network, run.voxels, run.voxels.indices("test"))
    plain = torch.softmax(torch.from_numpy(encoded.logits), 1).numpy()
    np.testing.assert_allclose(baselines.dropout_probabilities(run.network, run.voxels, encoded, 0.0), plain, atol=1e-5)
    much = baselines.dropout_probabilities(run.network, run.voxels, encoded, 0.8)
    np.testing.assert_allclose(much.sum(axis=1), 1, atol=1e-5)
    assert np.abs(much - plain).max() > 1e-3
    np.testing.assert_array_equal(much, baselines.dropout_probabilities(run.network, run.voxels, encoded, 0.8))


def test_views_are_averaged_with_the_shape_itself(run: Run) -> None:
    encoded = encode_samples(run.network, run.voxels, run.voxels.indices("test"))
    found = baselines.varied_probabilities(run.network, run.voxels, encoded, dropout=0.1)
    grids = run.voxels.tensor(encoded.indices)

    def mean(views: list[torch.Tensor]) -> np.ndarray:
        return torch.stack([run.network.backbone(view).softmax(1) for view in views]).mean(0).numpy()

    with torch.inference_mode():
        mirrored = mean([grids, grids.flip(2), grids.flip(3), grids.flip((2, 3))])
        np.testing.assert_allclose(found["mirrored"], mirrored, atol=1e-5)
    scores = baselines.variation_baselines(found, encoded.predicted)
    assert scores["mirrored"] == pytest.approx(mirrored[np.arange(len(grids)), encoded.predicted], abs=1e-5)


def test_trivial_scores_are_squared_distances(run: Run) -> None:
    training = encode_samples(run.network, run.voxels, run.voxels.indices("train"))
    tested = encode_samples(run.network, run.voxels, run.voxels.indices("test"))
    _, scores = baselines.trivial_baselines(run.network, run.voxels, training, (training, tested))
    grids = run.voxels.grids(training.indices).astype(float)
    untrained = baselines.untrained_network(run.network, seed=0)
    trained = run.network.feedback.state_dict()
    assert any(not torch.equal(value, trained[name]) for name, value in untrained.feedback.state_dict().items())
    for i, index in enumerate(tested.indices):
        shape = run.voxels.grids([int(index)])[0].astype(float)
        mean = grids[training.labels == tested.predicted[i]].mean(axis=0)
        assert scores["class_mean_grid"][i] == pytest.approx(-((shape - mean) ** 2).sum(), rel=1e-4)
        code = torch.softmax(torch.from_numpy(tested.logits[i : i + 1]), 1)[:, :, None, None, None]
        with torch.inference_mode():
            painted = untrained.reconstruct(code, OUTPUT)[0].numpy()
        assert scores["random_decoder"][i] == pytest.approx(-((shape - painted) ** 2).sum(), rel=1e-3)


def test_the_best_on_validation_has_the_highest_auroc() -> None:
    wrong = np.array([True, False, True, False])
    scores = {"bad": np.array([4.0, 1, 3, 2]), "good": np.array([1.0, 4, 2, 3]), "same": np.array([1.0, 4, 2, 3])}
    assert baselines.best_on_validation(scores, wrong) == "good"
    assert baselines.best_on_validation(scores, np.zeros(4, bool)) == "bad"


def test_distances_of_intensities_far_from_zero_do_not_cancel() -> None:
    array = 1000 + np.random.default_rng(0).standard_normal((6, 1, 4, 3, 2)).astype(np.float32)
    volumes = ArrayVolumes(array, np.zeros(6, int), ["train"] * 6, ("a",), InputSpec(1, (4, 3, 2), "intensity"))
    training = Encoded(np.arange(5), np.zeros(5, int), np.zeros((5, 1), np.float32), {})
    found = baselines.volume_distances(volumes, np.array([5, 0]), training, 1)
    assert found[0, 0] == pytest.approx(min(float(np.square(array[5] - array[j]).sum()) for j in range(5)), rel=1e-3)
    assert 0 <= found[1, 0] < 1e-3


def test_dropout_without_a_kept_feature_runs_the_whole_network(run: Run) -> None:
    encoded = encode_samples(run.network, run.voxels, run.voxels.indices("test"))
    bare = Encoded(encoded.indices, encoded.labels, encoded.logits, {})
    np.testing.assert_allclose(
        baselines.dropout_probabilities(run.network, run.voxels, bare, 0.5),
        baselines.dropout_probabilities(run.network, run.voxels, encoded, 0.5),
        atol=1e-5,
    )
