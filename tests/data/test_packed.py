"""Packed grids of many samples, which are in a temporary file."""

import numpy as np
import pytest

from fer_cli.data import dataset
from fer_cli.data.dataset import open_voxels
from fer_cli.storage import spooled
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.spooled import SpooledRows


def test_grids_in_a_file_are_those_in_memory(run_paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    held = open_voxels(run_paths.voxels, in_memory=True)
    monkeypatch.setattr(dataset, "_MOST_PACKED", 0)
    monkeypatch.setattr(spooled, "_MOST_IN_MEMORY", 100)
    filed = open_voxels(run_paths.voxels, in_memory=True)
    assert isinstance(held.packed, np.ndarray)
    assert isinstance(filed.packed, SpooledRows)
    chosen = [len(held) - 1, 0, 3, 3]
    np.testing.assert_array_equal(filed.grids(chosen), held.grids(chosen))
    np.testing.assert_array_equal(filed.packed[:], held.packed)
    with pytest.raises(IndexError):
        filed.grids([len(held)])
