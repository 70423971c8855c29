from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_cli.diagnosis.probe import layer_locations, sweep
from fer_cli.errors import ResourceError, UsageError
from fer_cli.pictures.mosaic import check_size, write_sweep
from fer_cli.run import Run


@pytest.mark.parametrize("by", ["feature", "centroid"])
def test_a_sweep_is_a_sheet_a_slice_and_tells_what_each_location_gave(run: Run, tmp_path: Path, by: str) -> None:
    grid = run.voxels.volumes([41])[0]
    locations = layer_locations(run.network.spec, "conv2")
    centroids_of = run.codebook if by == "centroid" else None
    probes = list(sweep(run.network, grid, "conv2", locations, centroids_of=centroids_of))
    paths, found = write_sweep(probes, grid, tmp_path / "new", sample="<i>shape</i> 😀", by=by)
    assert paths == [tmp_path / "new" / "slice-00.png", tmp_path / "new" / "slice-01.png"]
    for path in paths:
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert colours is not None
            assert len(colours) > 10
    assert [one.location for one in found] == locations
    for one, probed in zip(found, probes, strict=True):
        (x0, x1), (y0, y1), (z0, z1) = one.receptive_field
        difference = probed.reconstruction[:, x0:x1, y0:y1, z0:z1] - grid[:, x0:x1, y0:y1, z0:z1].astype(float)
        assert one.error == pytest.approx(float(np.square(difference).sum()), rel=1e-6)
        assert (one.code is None) == (by == "feature")


def test_a_sweep_too_large_to_draw_is_refused_with_what_to_do() -> None:
    check_size("conv2", 512, 8)
    with pytest.raises(UsageError, match=r"conv1 has 4096 locations, and at most 1024 .* slices 0 to 15 with --slices"):
        check_size("conv1", 4096, 16)


def test_a_folder_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    grid = run.voxels.volumes([41])[0]
    (tmp_path / "file").write_text("")
    probes = sweep(run.network, grid, "fc4", [(0, 0, 0)])
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        write_sweep(probes, grid, tmp_path / "file" / "x", sample="s", by="feature")
