import zipfile
from pathlib import Path

import numpy as np

from fer_cli.data.batches import VoxelizedShape, decode, voxelize_batch
from fer_cli.data.entries import Entry
from fer_cli.data.formats.registry import read_shape
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape

SHEET = "OFF\n4 2 0\n0 0 0\n{} 0 0\n0 2 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"


def test_outcomes_are_decoded_as_they_were(tmp_path: Path) -> None:
    settings = VoxelSettings(16, 1)
    contents = {"a.off": SHEET.format(3), "b.off": "OFF\n", "c.off": SHEET.format(5)}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    entries = [Entry(name, name, None, "unlabelled") for name in [*contents, "missing.off"]]
    one, reason, other, missing = decode(voxelize_batch(tmp_path, entries, settings, "run"))
    for name, outcome in (("a.off", one), ("c.off", other)):
        assert isinstance(outcome, VoxelizedShape)
        expected = voxelize_shape(read_shape(contents[name].encode(), name), settings)
        np.testing.assert_array_equal(outcome.occupancy(16), expected.occupancy)
        np.testing.assert_array_equal(outcome.index_to_world, expected.index_to_world)
        assert outcome.n_occupied == expected.occupancy.sum()
        assert (outcome.n_faces, outcome.n_open_edges, outcome.enclosed, outcome.warnings) == (2, 4, -1, ())
    assert isinstance(reason, str)
    assert not reason.startswith("b.off")
    assert missing == "cannot be read: No such file or directory."


def test_a_batch_is_the_same_bytes_whenever_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text(SHEET.format(3))
    entries = [Entry("a", "a.off", None, "unlabelled")]
    first, second = (voxelize_batch(tmp_path, entries, VoxelSettings(8, 0), run) for run in ("one", "two"))
    assert first == second


def test_an_archive_that_was_replaced_is_read_anew_by_the_next_run(tmp_path: Path) -> None:
    counts = []
    for run, faces in enumerate(("3 0 1 2\n", "3 0 1 2\n3 0 1 3\n")):
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
            n_faces = faces.count("\n")
            archive.writestr("a.off", f"OFF\n4 {n_faces} 0\n0 0 0\n3 0 0\n0 2 0\n0 0 1\n{faces}")
        (tmp_path / "new.zip").replace(tmp_path / "shapes.zip")
        entries = [Entry("a", "a.off", None, "unlabelled")]
        (outcome,) = decode(voxelize_batch(tmp_path / "shapes.zip", entries, VoxelSettings(8, 0), str(run)))
        assert isinstance(outcome, VoxelizedShape)
        counts.append(outcome.n_faces)
    assert counts == [1, 2]
