import numpy as np
import pytest

from fer_cli.storage import spooled
from fer_cli.storage.spooled import SpooledRows


@pytest.mark.parametrize("most", [1 << 20, 40], ids=["in memory", "in a file"])
def test_what_is_read_is_what_was_added(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "_MOST_IN_MEMORY", most)
    expected = np.random.default_rng(0).random((11, 3)).astype(np.float32)
    rows = SpooledRows(3)
    for part in (expected[:2], expected[2:7].T.copy().T, expected[7:]):
        rows.append(part)
    assert rows.shape == (len(rows), 3) == (11, 3)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12), slice(3, 3), slice(None)):
        np.testing.assert_array_equal(rows[part], expected[part])
    rows.append(expected)
    np.testing.assert_array_equal(rows[11:13], expected[:2])


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 2 numbers do not go with rows of 3"):
        SpooledRows(3).append(np.zeros((1, 2), np.float32))
