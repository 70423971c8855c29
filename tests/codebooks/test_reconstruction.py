import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from fer_cli.codebooks.reading import Reading, read_samples
from fer_cli.codebooks.reconstruction import (
    ERRORS,
    _elect,
    class_code_errors,
    class_code_reconstruction,
    error_norms,
    error_ratio,
    layer_exemplar,
    local_reconstruction,
    nearest_training_sample,
    representatives,
    table1_errors,
)
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import Decoding
from fer_cli.run import Run


@pytest.fixture(scope="module")
def reading(run: Run) -> Reading:
    return read_samples(run.network, run.codebook, run.voxels.tensor(run.voxels.indices("test")))


def summed(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for channel in range(2):
        for x in range(8):
            for y in range(4):
                for z in range(2):
                    total += (float(a[channel, x, y, z]) - float(b[channel, x, y, z])) ** 2
    return total


def test_table_1_is_four_sums_over_voxels() -> None:
    x, local, nearest, code = np.random.default_rng(0).random((4, 3, 2, 8, 4, 2)).astype(np.float32)
    errors = table1_errors(x, local, nearest, code)
    assert tuple(errors) == ERRORS
    pairs = {"input_vs_local": (x, local), "nearest_vs_code": (nearest, code)}
    pairs |= {"local_vs_code": (local, code), "input_vs_code": (x, code)}
    for name, (a, b) in pairs.items():
        assert errors[name] == pytest.approx([summed(a[i], b[i]) for i in range(3)], rel=1e-12)
    np.testing.assert_allclose(error_ratio(errors), errors["input_vs_code"] / errors["input_vs_local"])
    assert all(not error.any() for error in table1_errors(x, x, x, x).values())
    lengths = [np.linalg.norm((x[i] - code[i]).astype(np.float64)) for i in range(3)]
    assert error_norms(errors)["input_vs_code"] == pytest.approx(lengths, rel=1e-6)


def test_errors_to_the_codes_of_all_classes_are_sums_over_voxels() -> None:
    volumes, codes = np.random.default_rng(1).random((2, 3, 2, 8, 4, 2)).astype(np.float32)
    found = class_code_errors(volumes, codes[:2])
    assert found == pytest.approx(np.array([[summed(x, code) for code in codes[:2]] for x in volumes]), rel=1e-12)


def test_grids_of_another_shape_are_never_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    grids = np.zeros((3, 1, 4, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"shapes \(3, 1, 4, 4, 4\) and \(1, 1, 4, 4, 4\) cannot be compared"):
        table1_errors(grids, grids[:1], grids, grids)


def elect(ballots: list[np.ndarray]) -> int:
    votes: dict[int, float] = {}
    for ballot in ballots:
        for name in ballot.tolist():
            if name >= 0:
                votes[name] = votes.get(name, 0) + 1 / len(ballot)
    best = max(votes.values())
    return min(name for name, count in votes.items() if count > best - 1e-9)


def test_nearest_training_sample_has_most_votes_of_layers(run: Run, reading: Reading) -> None:
    chosen = nearest_training_sample(run.codebook, reading)
    for sample in range(len(chosen)):
        ballots = []
        for layer in run.network.spec.layer_names[:-1]:
            book, codes = run.codebook.layer(FEEDBACK, layer), reading.codes[FEEDBACK][layer][sample]
            ballots.append(np.array([book.exemplar[location, code] for location, code in enumerate(codes)]))
        assert chosen[sample] == elect(ballots)
    held = run.model.read("validation/index")
    assert {run.voxels.splits[i] for i in chosen} == {"train"}
    assert not set(chosen) & set(held)


def test_exemplar_of_a_layer_has_most_votes_of_its_locations(run: Run, reading: Reading) -> None:
    for path in PATHS:
        for layer in run.network.spec.layer_names:
            book = run.codebook.layer(path, layer)
            chosen = layer_exemplar(run.codebook, reading, path, layer)
            for sample, codes in enumerate(reading.codes[path][layer]):
                ballot = np.array([book.exemplar[location, code] for location, code in enumerate(codes)])
                assert chosen[sample] == elect([ballot])


def test_class_code_reconstruction_passes_through_feedback_centroids_only(
    run: Run, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Decoding] = []
    decode = ExplainedNetwork.decode

    def watch(self: ExplainedNetwork, *args: object, **options: object) -> Decoding:
        seen.append(decode(self, *args, **options))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(ExplainedNetwork, "decode", watch)
    grids = class_code_reconstruction(run.network, run.codebook, reading)
    assert len(seen) == 1
    np.testing.assert_array_equal(grids, run.network.signal.value(seen[0].raw).numpy())
    assert list(seen[0].features) == list(reversed(run.network.spec.layer_names[:-1]))
    for layer, feature in seen[0].features.items():
        centroids = run.codebook.layer(FEEDBACK, layer).centroids
        for vectors, known in zip(feature.flatten(2).permute(2, 0, 1).numpy(), centroids, strict=True):
            assert {vector.tobytes() for vector in vectors} <= {centroid.tobytes() for centroid in known}


@torch.inference_mode()
def test_class_code_reconstruction_is_a_slow_descent(run: Run, reading: Reading) -> None:
    feature: Tensor = reading.features[FEEDFORWARD][OUTPUT]
    for name, step in run.network.feedback.steps.items():
        feature = step(feature)
        below = run.network.spec.index(name) - 1
        if below < 0:
            break
        centroids = run.codebook.layer(FEEDBACK, run.network.spec.layer_names[below]).centroids
        for index in np.ndindex(len(feature), *feature.shape[2:]):
            sample, where = index[0], index[1:]
            known = centroids[np.ravel_multi_index(where, feature.shape[2:])]
            vector = feature[sample, :, *where].numpy()
            nearest = np.square(known.astype(np.float64) - vector).sum(axis=1).argmin()
            feature[sample, :, *where] = torch.from_numpy(known[nearest])
    grids = class_code_reconstruction(run.network, run.codebook, reading)
    np.testing.assert_allclose(grids, torch.sigmoid(feature).numpy(), atol=1e-6)


def test_local_reconstruction_and_representative_decode_their_own_layer(run: Run, reading: Reading) -> None:
    decoded = representatives(run.network, run.codebook, reading)
    for layer in run.network.spec.layer_names:
        local = local_reconstruction(run.network, reading, layer)
        decoded_alone = run.network.reconstruct(reading.features[FEEDFORWARD][layer], layer)
        np.testing.assert_array_equal(local, decoded_alone.numpy())
        for path in PATHS:
            feature = run.codebook.feature_map(path, layer, reading.codes[path][layer])
            shown = decoded[path][layer]
            # In float32, and in batches of other sizes, which sum in another order.
            np.testing.assert_allclose(shown, run.network.reconstruct(feature, layer).numpy(), atol=1e-5)
            assert ((shown >= 0) & (shown <= 1)).all()


def elected_one_by_one(ballots: list[np.ndarray], sample: int) -> int:
    """The rule, voter by voter: a ballot's locations share one vote."""
    votes: dict[int, float] = {}
    for ballot in ballots:
        for name in ballot[sample].tolist():
            if name >= 0:
                votes[name] = votes.get(name, 0.0) + 1 / len(ballot[sample])
    best = max(votes.values(), default=0.0)
    return min((name for name, given in votes.items() if given > best - 1e-9), default=0)


def test_the_nearest_training_sample_is_elected_as_by_counting_votes_one_by_one() -> None:
    generator = np.random.default_rng(0)
    ballots = [generator.integers(-1, 6, (40, locations)) for locations in (64, 8, 1, 1)]
    ballots = [ballot * 1000 for ballot in ballots]  # names far apart; −1000 votes for none
    ballots[0][3] = ballots[1][3] = ballots[2][3] = ballots[3][3] = -1
    assert _elect(ballots).tolist() == [elected_one_by_one(ballots, sample) for sample in range(40)]
    assert _elect([np.full((2, 5), -1)]).tolist() == [0, 0]
    assert _elect([np.array([[7, 2, 7, 2]])]).tolist() == [2]
