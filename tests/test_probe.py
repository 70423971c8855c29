import numpy as np
import pytest
import torch

from fer_cli.errors import UsageError
from fer_cli.probe import probe
from fer_cli.receptive import LocationError, receptive_field, response_field
from fer_cli.run import Run


@pytest.mark.parametrize(
    ("layer", "location"), [("conv1", (0, 3, 1)), ("conv1", (2, 1, 3)), ("conv2", (1, 0, 1)), ("fc4", (0, 0, 0))]
)
def test_probe_is_algorithm_1_step_by_step(run: Run, layer: str, location: tuple[int, int, int]) -> None:
    grid, config = run.voxels.grids([41])[0], run.network.config
    found = probe(run.network, grid, layer, location)
    index = config.index(layer)
    box = receptive_field(config.specs, index, location, config.input_shape)
    field = response_field(config.specs, index, location, config.input_shape)
    assert (found.layer, found.location, found.receptive_field, found.response_field) == (layer, location, box, field)
    assert found.map_shape == config.level_shape(layer)[1:]
    with torch.inference_mode():
        feature = run.network.encoder.features(torch.from_numpy(grid).float()[None, None])[layer].clone()
        for where in np.ndindex(*found.map_shape):
            if where not in field:
                feature[0, :, *where] = 0
        expected = run.network.decode(feature, layer).occupancy[0].numpy()
    np.testing.assert_array_equal(found.reconstruction, expected)
    (x0, x1), (y0, y1), (z0, z1) = box
    np.testing.assert_array_equal(found.crop, expected[x0:x1, y0:y1, z0:z1])


def test_probe_does_not_see_beyond_the_receptive_fields_of_its_response_field(run: Run) -> None:
    grid, config = run.voxels.grids([3])[0], run.network.config
    before = probe(run.network, grid, "conv1", (0, 0, 0))
    seen = np.zeros(config.input_shape, bool)
    for location in before.response_field:
        (x0, x1), (y0, y1), (z0, z1) = receptive_field(config.specs, 0, location, config.input_shape)
        seen[x0:x1, y0:y1, z0:z1] = True
    assert not seen.all()
    other = np.where(seen, grid, 1 - grid).astype(np.uint8)
    np.testing.assert_array_equal(probe(run.network, other, "conv1", (0, 0, 0)).reconstruction, before.reconstruction)
    inside = np.where(seen, 1 - grid, grid).astype(np.uint8)
    assert (probe(run.network, inside, "conv1", (0, 0, 0)).reconstruction != before.reconstruction).any()


def test_what_cannot_be_probed_is_refused(run: Run) -> None:
    grid = run.voxels.grids([0])[0]
    with pytest.raises(LocationError, match="location 0,2,0 lies outside conv2, whose feature map is 2×2×2"):
        probe(run.network, grid, "conv2", (0, 2, 0))
    with pytest.raises(UsageError, match="no layer 'conv7'; the layers are conv1, conv2, conv3, fc4, output"):
        probe(run.network, grid, "conv7", (0, 0, 0))
    with pytest.raises(UsageError, match="output has no features of the input; probe one of conv1, conv2, conv3, fc4"):
        probe(run.network, grid, "output", (0, 0, 0))
