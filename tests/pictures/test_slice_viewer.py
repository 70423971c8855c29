import base64
import gzip
import json

import numpy as np
import pytest

from diagnoses import GREY_SHAPE, RAS, grey, grey_diagnosis
from fer_cli.pictures import slice_viewer
from fer_cli.pictures.slice_viewer import in_steps, pack_steps, slice_facts


def unpacked(packed: str, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """What the script makes of it: one value after the other."""
    plain = gzip.decompress(base64.b64decode(packed))
    count = int(np.prod(shape))
    codes = [plain[i] if bits == 8 else (plain[i] << 8) + plain[count + i] for i in range(count)]
    return np.array(codes).reshape(shape)


@pytest.mark.parametrize("bits", [8, 16])
def test_values_are_at_most_half_a_step_off(bits: int) -> None:
    grid = grey(0)[0]
    steps = in_steps(grid, bits)
    codes = unpacked(pack_steps(steps.codes[None]), bits, grid.shape)
    assert steps.step == pytest.approx((float(grid.max()) - float(grid.min())) / (2**bits - 1))
    assert np.abs(steps.low + steps.step * codes - grid).max() <= steps.step / 2 * (1 + 1e-6)


def test_whole_numbers_are_kept_exactly() -> None:
    grid = np.random.default_rng(0).integers(-1024, 3072, (8, 4, 2)).astype(np.float32)
    steps = in_steps(grid, 16)
    codes = unpacked(pack_steps(steps.codes[None]), 16, grid.shape)
    np.testing.assert_array_equal(steps.low + steps.step * codes, grid)
    assert not in_steps(np.full((2, 2, 2), 7.5, np.float32), 8).codes.any()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_page_holds_every_volume_within_its_step(channels: int) -> None:
    diagnosis = grey_diagnosis(channels=channels)
    facts = slice_facts(diagnosis, diagnosis.slicing)
    assert json.loads(json.dumps(facts)) == facts
    volumes = {
        "input": diagnosis.input_volume,
        "local": diagnosis.local_volume,
        "class-code": diagnosis.class_code_volume,
        "nearest": diagnosis.nearest_volume,
        "from-conv1": diagnosis.slicing.reconstructions["conv1"],
        "from-conv4": diagnosis.slicing.reconstructions["conv4"],
    }
    assert [volume["name"] for volume in facts["volumes"]] == list(volumes)
    for packed in facts["volumes"]:
        codes = unpacked(packed["packed"], packed["bits"], (channels, *GREY_SHAPE))
        low, step = (np.array(packed[key])[:, None, None, None] for key in ("low", "step"))
        assert (np.abs(low + step * codes - volumes[packed["name"]]) <= step / 2 * (1 + 1e-6)).all()
    assert facts["volumes"][0]["bits"] == 16
    np.testing.assert_array_equal(facts["affine"], RAS[:3])
    assert facts["spacing"] == [2.0, 1.5, 3.0]
    assert facts["cursor"] == [5, 1, 2]
    assert facts["weights"] == [0.75, 0.25]
    assert facts["fields"] == {"conv3": [[[0, 4], [4, 8]], [[0, 3], [3, 6]], [[0, 2], [2, 4]]]}


def test_a_page_of_large_volumes_holds_fewer_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = grey_diagnosis()
    sizes = [len(volume["packed"]) for volume in slice_facts(diagnosis, diagnosis.slicing)["volumes"]]
    for limit, kept in ((sum(sizes), 6), (sum(sizes[:5]), 5), (1, 4)):
        monkeypatch.setattr(slice_viewer, "MOST_PACKED", limit)
        assert len(slice_facts(diagnosis, diagnosis.slicing)["volumes"]) == kept


def test_a_page_of_a_volume_without_a_place_says_none() -> None:
    diagnosis = grey_diagnosis(matrix=None, spacing=None)
    facts = slice_facts(diagnosis, diagnosis.slicing)
    assert facts["affine"] is None
    assert facts["spacing"] is None
    assert [plane["name"] for plane in facts["planes"]] == ["z slice", "y slice", "x slice"]
