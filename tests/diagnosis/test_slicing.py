import numpy as np

from fer_cli.diagnosis.slicing import axis_fields
from fer_cli.network.receptive import LayerSpec, receptive_fields


def test_fields_of_convolutions_are_a_grid_of_boxes() -> None:
    layers = [LayerSpec("conv1", 4, kernel=3, stride=2, padding=1), LayerSpec("conv2", 4, kernel=3, stride=1)]
    fields = receptive_fields(layers, 0, (8, 4, 2))
    found = axis_fields(fields)
    assert found is not None
    assert [len(axis) for axis in found] == list(fields.shape[:3])
    for x, y, z in np.ndindex(*fields.shape[:3]):
        assert [list(found[axis][i]) for axis, i in enumerate((x, y, z))] == fields[x, y, z].tolist()


def test_fields_that_are_no_grid_have_no_axes() -> None:
    fields = np.zeros((2, 2, 2, 3, 2), np.int64)
    fields[..., 1] = 4
    fields[1, 0, 1, 0] = (1, 3)
    assert axis_fields(fields) is None
