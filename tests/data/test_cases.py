"""Inputs that once came out wrong, each for a kind (`shared/cases`), through the command itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_cli.data.dataset import open_voxels
from forks import fer

pytestmark = [pytest.mark.end_to_end, pytest.mark.real_data]


def voxelized(source: Path, folder: Path, *options: object) -> dict[str, Any]:
    outcome = fer("voxelize", source, "-o", folder / "v.h5", "--force", "--json", *options, folder=folder)
    assert outcome.code == 0, outcome.stderr
    answer: dict[str, Any] = json.loads(outcome.stdout)
    return answer


def grids(folder: Path) -> np.ndarray:
    voxels = open_voxels(folder / "v.h5")
    with voxels.artifact:
        found: np.ndarray = voxels.volumes(range(len(voxels)))[:, 0]
        return found


LAYOUTS = {
    "test_of_class_Train_becomes_class_test": {"Car": {"train": 1, "test": 1}, "Train": {"train": 1, "test": 1}},
    "class_Train_beside_Car": {"Car": {"train": 2, "test": 1}, "Train": {"train": 2, "test": 1}},
    "numeric_classes_merged": {name: {"train": 1, "test": 1} for name in "012"},
    "numeric_fraction_refused": {name: {"train": 1, "test": 1} for name in "01"},
    "shapenetcore_class_models": {name: {"train": 1, "test": 1} for name in ("02691156", "03001627")},
}
DRAWN = ("class_Train_beside_Car", "numeric_fraction_refused", "shapenetcore_class_models")


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_a_case_gives_its_classes_and_splits(name: str, shared_cases: Path, tmp_path: Path) -> None:
    options = ("--test-fraction", 0.3) if name in DRAWN else ()
    assert voxelized(shared_cases / f"layout_{name}.zip", tmp_path, *options)["classes"] == LAYOUTS[name]


SAME = {
    "obj_bom_refused.obj": "",
    "obj_bom_scrambled_silently.obj": "",
    "ply_lf_header_crlf_end_header.ply": "",
    "ply_mixed_newlines.ply": "",
    "glb_json_padded_with_nul.glb": "",
    "glb_requires_EXT_texture_webp.glb": "",
    "glb_requires_KHR_materials_transmission.glb": "",
    "glb_sparse_morph_target.glb": "",
    "stl_ascii_end_solid_two_words.stl": "1 solids end without a line 'endsolid'; the text may be cut off",
    "stl_ascii_no_endsolid.stl": "1 solids end without a line 'endsolid'; the text may be cut off",
    "stl_binary_trailing_bytes.stl": "10 bytes after the last triangle are left out",
}


def test_shape_of_a_case_is_that_of_its_reference(shared_cases: Path, tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for name in (*SAME, "REFERENCE_L_shape.obj"):
        shutil.copy(shared_cases / name, source / name)
    answer = voxelized(source, tmp_path)
    assert answer["skipped"] == []
    assert len(grids(tmp_path)) == len(SAME) + 1
    assert all((grid == grids(tmp_path)[0]).all() for grid in grids(tmp_path))
    assert {said["reason"] for said in answer["warnings"]} >= {said for said in SAME.values() if said}


def test_points_of_a_case_are_those_of_its_reference(shared_cases: Path, tmp_path: Path) -> None:
    for name in ("xyz_decimal_comma_misread.xyz", "xyz_decimal_point_reference.xyz"):
        shutil.copy(shared_cases / name, tmp_path / name)
    voxelized(tmp_path, tmp_path)
    comma, point = grids(tmp_path)
    np.testing.assert_array_equal(comma, point)
    for name, count in (("xyz_cloud_nan_refused.xyz", 1), ("ply_cloud_nan_refused.ply", 1)):
        (warned,) = voxelized(shared_cases / name, tmp_path)["warnings"]
        assert warned["reason"] == f"{count} points without a place (NaN) are left out"


def test_instances_of_a_case_are_placed(shared_cases: Path, tmp_path: Path) -> None:
    alone = tmp_path / "a.glb"
    content = (shared_cases / "glb_gpu_instancing_one_copy.glb").read_bytes()
    alone.write_bytes(content.replace(b"EXT_mesh_gpu_instancing", b"EXT_mesh_xxx_instancing"))
    voxelized(alone, tmp_path)
    one = grids(tmp_path)[0]
    voxelized(shared_cases / "glb_gpu_instancing_one_copy.glb", tmp_path)
    assert not np.array_equal(grids(tmp_path)[0], one)


def test_mat_of_a_case_is_its_grid(shared_cases: Path, tmp_path: Path) -> None:
    voxelized(shared_cases / "mat_v73_unclear_message.mat", tmp_path)
    assert grids(tmp_path).any()


def test_files_of_a_case_are_read_or_named(shared_cases: Path, tmp_path: Path) -> None:
    source = shared_cases / "folder_silently_ignored"
    answer = voxelized(source, tmp_path)
    assert answer["classes"] == {"chair": {"train": 1}}
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {skip["source"] for skip in answer["skipped"]} == files - {"chair/train/read.off"}
    strict = fer("voxelize", source, "-o", tmp_path / "w.h5", "--strict", folder=tmp_path)
    assert strict.code == 3
    assert "ignored" in strict.stderr
