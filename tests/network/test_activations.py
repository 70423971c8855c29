import weakref

import numpy as np
import torch

from fer_cli.network.activations import (
    FEEDBACK,
    FEEDFORWARD,
    PATHS,
    Columns,
    batches,
    encode,
    encode_paths,
    feed_back,
    predict,
    predict_samples,
    round_to,
)
from fer_cli.network.backbone import OUTPUT
from fer_cli.run import Run


def test_feedback_features_hang_on_the_probabilities_alone(run: Run) -> None:
    grids = run.voxels.tensor([0, 30])
    forward = encode(run.network, grids)
    features = feed_back(run.network, forward[OUTPUT])
    assert list(features) == list(reversed(run.network.spec.layer_names))
    assert torch.equal(features[OUTPUT], forward[OUTPUT])
    decoding = run.network.decode(forward[OUTPUT], OUTPUT)
    assert all(torch.equal(decoding.features[layer], features[layer]) for layer in decoding.features)


def test_both_paths_are_the_encoder_and_what_feeds_back(run: Run) -> None:
    grids = run.voxels.tensor([0, 30, 7])
    features = encode_paths(run.network, grids)
    assert tuple(features) == PATHS
    forward = encode(run.network, grids)
    for layer, feature in forward.items():
        assert torch.equal(features[FEEDFORWARD][layer], feature)
    for layer, feature in feed_back(run.network, forward[OUTPUT]).items():
        assert torch.equal(features[FEEDBACK][layer], feature)


def test_rounding_is_to_half_precision_and_stays_finite() -> None:
    feature = torch.tensor([1.0001, 1e9, -1e9])
    assert round_to(feature, 16).tolist() == [1, 65504, -65504]
    assert torch.equal(round_to(feature, 32), feature)


def test_batches_are_consecutive() -> None:
    indices = np.arange(10) * 3
    assert [part.tolist() for part in batches(indices, 4)] == [[0, 3, 6, 9], [12, 15, 18, 21], [24, 27]]
    assert not list(batches(indices[:0]))


def test_columns_hold_the_rows_of_all_batches_and_none_of_their_arrays() -> None:
    whole = {"number": np.arange(7), "pair": np.arange(14.0, dtype=np.float32).reshape(7, 2)}
    columns, batch_arrays = Columns(7), []
    for rows in batches(np.arange(7), 3):
        batch = {name: values[rows] for name, values in whole.items()}
        batch_arrays += [weakref.ref(values) for values in batch.values()]
        columns.add(batch)
        assert columns.filled == rows[-1] + 1
        del batch
    for name, values in whole.items():
        assert np.array_equal(columns.arrays[name], values)
        assert columns.arrays[name].dtype == values.dtype
    assert not any(array() is not None for array in batch_arrays)


def test_predictions_of_samples_are_those_of_their_batches(run: Run) -> None:
    indices = np.arange(len(run.voxels))[::-1]
    expected = np.concatenate([predict(run.network, run.voxels.tensor(part)) for part in batches(indices)])
    assert np.array_equal(predict_samples(run.network, run.voxels, indices), expected)
