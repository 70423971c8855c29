import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fer_cli.network.poses import Pose, poses, probabilities_by_pose
from fer_cli.run import Run


@pytest.mark.parametrize(("shape", "count"), [((4, 4, 4), 24), ((4, 4, 2), 8), ((4, 2, 2), 8), ((4, 3, 2), 4)])
def test_poses_are_the_rotations_that_keep_the_shape(shape, count):
    found = poses(shape)
    volume = torch.arange(float(np.prod(shape))).reshape(1, 1, *shape)
    turned = {tuple(pose.apply(volume).flatten().tolist()) for pose in found}
    assert len(found) == len(turned) == count
    assert all(pose.apply(volume).shape == volume.shape for pose in found)
    assert found[0] == Pose()
    assert [pose.turns for pose in found] == sorted(pose.turns for pose in found)
    assert all(round(np.linalg.det(pose.matrix)) == 1 for pose in found)


def test_words_say_the_turn_by_the_right_hand():
    for pose in poses((4, 4, 4)):
        whole = np.eye(3)
        for turn in [] if pose.words == "as it is" else pose.words.split(", then "):
            angle, _, axis = turn.split()
            whole = Rotation.from_euler(axis, float(angle.rstrip("°")), degrees=True).as_matrix() @ whole
        np.testing.assert_allclose(whole, pose.matrix, atol=1e-12)


def test_words_name_no_more_turns_than_needed():
    assert [pose.words for pose in poses((4, 5, 6))] == ["as it is", "180° about z", "180° about x", "180° about y"]
    assert sum(pose.turns == 1 for pose in poses((4, 4, 4))) == 9


def test_a_pose_moves_voxels_as_its_matrix_moves_points():
    volume = torch.zeros(1, 1, 5, 5, 5)
    volume[0, 0, 4, 3, 1] = 1
    from_middle = np.array([2, 1, -1])
    for pose in poses((5, 5, 5)):
        [place] = np.argwhere(pose.apply(volume)[0, 0].numpy())
        np.testing.assert_array_equal(place - 2, pose.matrix @ from_middle)


def test_probabilities_are_those_of_the_turned_volumes(run: Run) -> None:
    volume = run.voxels.tensor(run.voxels.indices("test")[:1])
    found, probabilities = probabilities_by_pose(run.network, volume)
    assert len(found) == len(probabilities)
    at = len(found) // 2
    expected = run.network.backbone.features(found[at].apply(volume))["output"].flatten().detach().numpy()
    np.testing.assert_allclose(probabilities[at], expected, atol=1e-5)
