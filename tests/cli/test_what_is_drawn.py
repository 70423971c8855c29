from pathlib import Path

import numpy as np
import pytest

from fer_cli import save_volumes
from fer_cli.cli.opening import holds_shapes


@pytest.mark.parametrize(("kind", "shapes"), [("occupancy", True), ("intensity", False)])
def test_only_shapes_need_processes_that_draw(tmp_path: Path, kind: str, *, shapes: bool) -> None:
    volumes = np.random.default_rng(0).integers(0, 2, (4, 4, 4, 4)).astype(np.float32)
    save_volumes(tmp_path / "voxels.h5", (volumes, np.array([0, 0, 1, 1])), classes=["a", "b"], kind=kind)
    assert holds_shapes(tmp_path / "voxels.h5") is shapes


def test_a_file_that_cannot_be_read_is_refused_later(tmp_path: Path) -> None:
    assert holds_shapes(tmp_path / "missing.h5")
    (tmp_path / "damaged.h5").write_bytes(b"no HDF5")
    assert holds_shapes(tmp_path / "damaged.h5")
