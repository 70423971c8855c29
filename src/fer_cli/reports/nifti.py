"""A diagnosis or a probe as NIfTI: maps on the voxels that the network read, with their affine.

A viewer lays them on the file that the sample came from, since `fer voxelize` and `fer explain` keep the affine map of
what they turn, resample, crop and pad. No text of that file's header is written.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fer_cli.arguments import file_name
from fer_cli.data.formats.nifti import encode_nifti
from fer_cli.data.sample_input import Sample
from fer_cli.diagnosis.blame import weigh_voxels
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.probe import Probe
from fer_cli.network.activations import PATHS
from fer_cli.storage.disk import write_whole

Maps = dict[str, Shaped[np.ndarray, "channel x y z"]]


def write_nifti(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write the maps of a diagnosis into the folder `nifti` of `folder`, a file each; the files written.

    `blame` holds the summed weights of the diagnosis's `places` that see a voxel; all weights together are 1. `fields`
    holds the number of the first of them that sees a voxel, 0 for none; `fields.json` lists the locations by
    number. `reconstruction-LAYER` and `exemplar-LAYER-PATH` are those of the report, `error-…` is the absolute
    difference from the input. Other samples are laid on the input voxel by voxel; they are not registered.

    Raises ResourceError where a file cannot be written, UsageError where nibabel is not installed.
    """
    place = folder / "nifti"
    written = [
        _write(place, name, values, diagnosis.index_to_world, is_placed=diagnosis.is_placed)
        for name, values in _maps(diagnosis).items()
    ]
    if diagnosis.places.boxes:
        blame = diagnosis.places
        listed = [
            {"label": label, "layer": blame.layer, "location": location, "weight": weight, "box": box}
            for label, (location, box, weight) in enumerate(
                zip(blame.locations, blame.boxes, blame.weights, strict=True), start=1
            )
        ]
        written.append(place / "fields.json")
        write_whole(written[-1], json.dumps(listed, indent=2) + "\n")
    return written


def write_probe_nifti(probed: Probe, sample: Sample, folder: Path) -> list[Path]:
    """Write `input`, `field` (1 where the location sees a voxel) and `reconstruction` of a probe, as `write_nifti`."""
    x, y, z = sample.volume.shape[1:]
    field = weigh_voxels((x, y, z), (probed.receptive_field,), ())[None].astype(np.uint8)
    maps: Maps = {"input": sample.volume, "field": field, "reconstruction": probed.reconstruction}
    place = folder / "nifti"
    return [
        _write(place, name, values, sample.index_to_world, is_placed=sample.is_placed) for name, values in maps.items()
    ]


def _maps(diagnosis: Diagnosis) -> Maps:
    decoded = {diagnosis.local_layer: diagnosis.local_volume}
    if diagnosis.slicing is not None:
        decoded = dict(diagnosis.slicing.reconstructions)
    decoded["class-code"] = diagnosis.class_code_volume
    maps: Maps = {"input": diagnosis.input_volume, "nearest": diagnosis.nearest_volume}
    for name, volume in decoded.items():
        maps[f"reconstruction-{name}"] = volume
        maps[f"error-{name}"] = np.abs(volume - diagnosis.input_volume)
    for layer in diagnosis.layers:
        for path in PATHS:
            maps[f"exemplar-{layer.name}-{path}"] = layer.paths[path].exemplar_volume
    blame = diagnosis.places
    if blame.boxes:
        x, y, z = diagnosis.input_volume.shape[1:]
        labels = np.zeros((1, x, y, z), np.uint16)
        for label, ((x0, x1), (y0, y1), (z0, z1)) in reversed([*enumerate(blame.boxes, start=1)]):
            labels[0, x0:x1, y0:y1, z0:z1] = label
        maps |= {"blame": weigh_voxels((x, y, z), blame.boxes, blame.weights)[None], "fields": labels}
    return maps


def _write(folder: Path, name: str, values: np.ndarray, index_to_world: np.ndarray, *, is_placed: bool) -> Path:
    path = folder / f"{file_name(name)}.nii.gz"
    kept = values.astype(np.float32) if values.dtype.kind == "f" or values.dtype == bool else values
    write_whole(path, encode_nifti(kept, index_to_world, is_placed=is_placed))
    return path
