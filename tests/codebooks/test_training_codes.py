import numpy as np
import torch

from fer_cli.codebooks.training_codes import TrainingCodes, read_training_codes
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.run import Run


def test_a_run_keeps_the_codes_of_its_clustered_samples(run: Run) -> None:
    clustered = np.setdiff1d(run.voxels.indices("train"), run.model.read("validation/index"))
    layer = run.network.spec.local_layer
    kept = run.training_codes
    assert kept is not None
    assert kept.layer == layer
    np.testing.assert_array_equal(kept.index, clustered)
    told: list[int] = []
    again = read_training_codes(run.network, run.codebook, run.voxels, clustered, report=told.append)
    np.testing.assert_array_equal(kept.code, again.code)
    assert told[-1] == len(clustered)


def test_nearest_are_in_order_of_the_distance_to_the_centroids_chosen(run: Run) -> None:
    kept = run.training_codes
    assert kept is not None
    centroids = run.codebook.layer(FEEDFORWARD, kept.layer).centroids
    volume = run.voxels.tensor([int(run.voxels.indices("test")[0])])
    feature = encode(run.network, volume, [kept.layer])[kept.layer][0].float()
    among = run.voxels.labels[kept.index] != 1
    distances = {}
    for index, codes in zip(kept.index[among], kept.code[among], strict=True):
        chosen = np.stack([centroids[place, code] for place, code in enumerate(codes)])
        distances[int(index)] = float(np.square(chosen - feature.flatten(1).T.numpy()).sum())
    found = kept.nearest(run.codebook, feature, among, 4).tolist()
    assert [distances[index] for index in found] == sorted(distances.values())[:4]
    everything = kept.nearest(run.codebook, feature, among, 10**6)
    assert sorted(everything.tolist()) == sorted(distances)
    nothing = TrainingCodes(kept.layer, kept.index[:0], kept.code[:0])
    assert nothing.nearest(run.codebook, feature, np.zeros(0, bool), 4).tolist() == []
    assert torch.isfinite(feature).all()
