"""Scans in voxels.h5 lie where their files lay: the affine map of every sample, held to nibabel's."""

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat

from fer_cli.data.dataset import VoxelSet, open_voxels
from fer_cli.data.plan import plan
from fer_cli.data.preparation import PreparationSettings
from fer_cli.data.store_volumes import store_volumes

SHAPE = (14, 11, 9)


def stored(source: Path, output: Path, settings: PreparationSettings) -> VoxelSet:
    planned = plan(source, as_volumes=True)
    store_volumes(planned.source, output, planned.listing, planned.collection, settings)
    return open_voxels(output)


def centre_of_mass(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """In the units of the world."""
    places = np.argwhere(values)
    return apply_affine(affine, np.average(places, axis=0, weights=values[tuple(places.T)]))


def affines() -> dict[str, np.ndarray]:
    turned, flipped, plain = np.eye(4), np.eye(4), np.eye(4)
    turned[:3, :3] = euler2mat(0.4, -0.3, 0.2) @ np.diag([0.7, 1.1, 2.5])
    flipped[:3, :3] = np.diag([-1.0, -0.5, 3.0])[[2, 0, 1]]
    for matrix in (turned, flipped, plain):
        matrix[:3, 3] = (-71.5, 33.25, 1204.0)
    return {"turned": turned, "flipped": flipped, "plain": plain}


@pytest.mark.parametrize("name", affines())
@pytest.mark.parametrize("orientation", [None, "LPI"])
@pytest.mark.parametrize("shape", [None, (20, 22, 18), (11, 11, 11)])
def test_a_landmark_keeps_its_place_in_the_world(
    name: str, orientation: str | None, shape: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    affine = affines()[name]
    for number, landmark in enumerate(((6, 5, 4), (7, 6, 5))):
        values = np.zeros(SHAPE, np.float32)
        values[landmark] = 1
        folder = tmp_path / "set" / f"class_{number}" / "train"
        folder.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{number}.nii.gz")
        kept = nibabel.load(folder / f"{number}.nii.gz").affine  # in the single precision of NIfTI
        settings = PreparationSettings(kind="intensity", orientation=orientation, shape=shape)
        voxels = stored(folder / f"{number}.nii.gz", tmp_path / f"{number}.h5", settings)
        (place,) = np.argwhere(voxels.volumes([0])[0, 0])
        found = apply_affine(voxels.index_to_world(0), place)
        np.testing.assert_allclose(found, apply_affine(kept, landmark), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", affines())
def test_a_resampled_blob_keeps_its_centre_of_mass(name: str, tmp_path: Path) -> None:
    """Linear interpolation spreads a blob alike to both sides, so that its centre stays."""
    away = np.stack(np.meshgrid(*(np.arange(24) - 11.5 for _ in "xyz"), indexing="ij"))
    blob = np.exp(-((away - np.array([1.5, -0.75, 0.4])[:, None, None, None]) ** 2).sum(0) / 8).astype(np.float32)
    blob[blob < 1e-5] = 0
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(blob, affines()[name]), path)
    settings = PreparationSettings(kind="intensity", orientation="RAS", spacing=(0.6, 0.8, 1.3), shape=(90, 80, 60))
    voxels = stored(path, tmp_path / "v.h5", settings)
    found = centre_of_mass(voxels.volumes([0])[0, 0], voxels.index_to_world(0))
    expected = centre_of_mass(blob, nibabel.load(path).affine)
    # Samples of a smooth blob 2 voxels wide, where they are 1.3 mm apart at most.
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_hippocampus_volumes_keep_their_place_in_voxels(kind: str, shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "msd-hippocampus-nifti-24.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".nii.gz") and kind in name]
        archive.extractall(tmp_path, names)
    assert len(names) == 24
    settings = PreparationSettings(kind="intensity", orientation="LPS", shape=(48, 64, 52))
    voxels = stored((tmp_path / names[0]).parent, tmp_path / "v.h5", settings)
    assert len(voxels) == 24
    for index, source in enumerate(voxels.artifact.read_text("source")):
        image = nibabel.load((tmp_path / names[0]).parent / Path(source).name)
        found, values = voxels.index_to_world(index), voxels.volumes([index])[0, 0]
        # Turning and padding move voxels by whole indices.
        to_file = np.linalg.inv(image.affine) @ found
        np.testing.assert_allclose(to_file, np.rint(to_file), atol=1e-6)
        np.testing.assert_allclose(image.affine @ np.rint(to_file), found, rtol=1e-6, atol=1e-6)
        values = values - values.min()
        own = image.get_fdata()
        np.testing.assert_allclose(
            centre_of_mass(values, found), centre_of_mass(own - own.min(), image.affine), rtol=1e-6, atol=1e-4
        )
