"""`fer info`: what an artifact holds, without running anything."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fer_cli.codebooks.fitted_layer import DESCRIBED, summarise_layer
from fer_cli.data.duplicates import count_duplicates
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.oddities import Measured, find_oddities, remarks_of
from fer_cli.errors import ArtifactError
from fer_cli.network.activations import PATHS
from fer_cli.network.attached.model_file import is_attached, read_origin, read_spec
from fer_cli.reports.attachment import level_facts
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.declarations import Json
from fer_cli.storage.history import read_history
from fer_cli.storage.run_paths import calibration_path
from fer_cli.storage.schema import CALIBRATION, CHECKPOINT, CODEBOOK, MODEL, VOXELS


def describe(path: Path) -> Json:
    """Provenance and a summary of the content of any artifact. Raises ArtifactError if it is none or damaged."""
    summaries = {
        VOXELS: _voxels,
        MODEL: _model,
        CHECKPOINT: _model,
        CODEBOOK: _codebook,
        CALIBRATION: _calibration,
    }
    with open_artifact(path) as artifact, artifact.interpreted():
        return {
            "format": artifact.form.name,
            "version": artifact.version,
            "id": artifact.id,
            "parents": artifact.parents,
            "created_by": artifact.created_by,
            "config": artifact.config,
            "content": summaries[artifact.form](artifact),
        }


def _voxels(artifact: Artifact) -> dict[str, object]:
    classes = artifact.attribute("classes")
    labels = artifact.read("label").tolist()
    names = [classes[label] if 0 <= label < len(classes) else "unlabelled" for label in labels]
    splits = artifact.read_text("split")
    is_grid = "occupancy" in artifact
    samples, *sides = artifact.shape("occupancy" if is_grid else "intensity")
    voxels = math.prod(sides)
    sides = sides if is_grid else sides[1:]
    groups: dict[tuple[str, str], list[int]] = {
        group: [] for group in sorted({*zip(names, splits, strict=True)}, key=_order)
    }
    for sample, group in enumerate(zip(names, splits, strict=True)):
        groups[group].append(sample)
    by_class: dict[str, dict[str, int]] = {}
    for (name, split), members in groups.items():
        by_class.setdefault(name, {})[split] = len(members)
    sample_names = artifact.read_text("name")
    dropped = zip(artifact.read_text("dropped/source"), artifact.read("dropped/duplicate_of").tolist(), strict=True)
    skipped = zip(artifact.read_text("skipped/source"), artifact.read_text("skipped/reason"), strict=True)
    n_occupied = artifact.read("record/n_occupied")
    return {
        "samples": samples,
        **({} if is_grid else {"volumes": artifact.config["volumes"]}),
        "resolution": sides[0] if len(set(sides)) == 1 else sides,
        "occupied_share": float(n_occupied.sum()) / max(1, samples * voxels) if is_grid else None,
        "classes": by_class,
        "records": _records(artifact, groups, n_occupied / voxels if is_grid else None),
        "duplicates": vars(count_duplicates(artifact.read("record/duplicate_of"), splits, labels)),
        "remarks": _remarks(artifact, names, sample_names) if is_grid else [],
        "dropped": [{"source": source, "duplicate_of": sample_names[stays]} for source, stays in dropped],
        "skipped": [{"source": source, "reason": reason} for source, reason in skipped],
    }


def _remarks(artifact: Artifact, classes: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    """What is odd about shapes; nothing in files that do not record how far they extend."""
    if "record/extent" not in artifact:
        return []
    measured = Measured(
        n_occupied=artifact.read("record/n_occupied"),
        extent=artifact.read("record/extent"),
        n_stray=artifact.read("record/n_stray"),
        edge=np.linalg.norm(artifact.read("index_to_world")[:, :3, 0], axis=1),
        inner=VoxelSettings.from_json(artifact.config["voxelization"]).inner,
    )
    return remarks_of(find_oddities(measured, [None if name == "unlabelled" else name for name in classes]), names)


def _order(group: tuple[str, str]) -> tuple[str, bool, bool, str]:
    """Classes by name, train before test before whatever else there is."""
    name, split = group
    return name, split != "train", split != "test", split


def _records(
    artifact: Artifact, groups: Mapping[tuple[str, str], list[int]], occupied: Float64[np.ndarray, " sample"] | None
) -> list[dict[str, str | int | float | None]]:
    """What the samples of each class and split are like; null where it is not known of any of them."""
    n_faces, n_open_edges = artifact.read("record/n_faces"), artifact.read("record/n_open_edges")
    enclosed, warnings = artifact.read("record/enclosed"), artifact.read_text("record/warnings")
    records: list[dict[str, str | int | float | None]] = []
    for (name, split), members in groups.items():
        meshes = [sample for sample in members if n_faces[sample] >= 0]
        filled = [sample for sample in members if enclosed[sample] >= 0]
        records.append(
            {
                "class": name,
                "split": split,
                "samples": len(members),
                "median_faces": float(np.median(n_faces[meshes])) if meshes else None,
                "open_share": float((n_open_edges[meshes] > 0).mean()) if meshes else None,
                "warned_share": sum(bool(warnings[sample]) for sample in members) / len(members),
                "enclosed_share": float((enclosed[filled] == 1).mean()) if filled else None,
                "occupied_share": None if occupied is None else float(occupied[members].mean()),
            }
        )
    return records


def _model(artifact: Artifact) -> dict[str, object]:
    parts = ("encoder", "feedback", "weights")
    attached = {"network": _attached(artifact)} if is_attached(artifact.config) else {}
    return {
        **attached,
        "parameters": {
            part: sum(int(np.prod(artifact.shape(name))) for name in names)
            for part in parts
            if (names := artifact.names(f"{part}/"))
        },
        "history": [vars(record) for record in read_history(artifact)],
    }


def _attached(artifact: Artifact) -> dict[str, object]:
    """The levels of an attached network with what their central location sees, and the code that builds it."""
    spec, origin = read_spec(artifact), read_origin(artifact)
    levels = [level_facts(level, artifact.read(f"field/{level.name}")) for level in spec.levels]
    source = None if origin.recorded is None else str(origin.recorded.source)
    return {"input": str(spec.input), "source": source, "levels": levels}


def _codebook(artifact: Artifact) -> dict[str, object]:
    layers = [name.split("/")[1] for name in artifact.names(f"{PATHS[0]}/") if name.endswith("/centroid")]
    precision = artifact.attribute("precision")
    summaries = []
    for path in PATHS:
        for layer in layers:
            arrays = {part: artifact.read(f"{path}/{layer}/{part}") for part in DESCRIBED}
            filters = artifact.shape(f"{path}/{layer}/centroid")[2]
            bits = precision[path][layer]["bits"]
            summaries.append(vars(summarise_layer(path, layer, filters=filters, bits=bits, **arrays)))
    return {
        "layers": summaries,
        "choice": artifact.attribute("choice"),
        "validation_samples": _validation_samples(artifact),
    }


def _validation_samples(codebook: Artifact) -> int | None:
    """How many samples a codebook is calibrated on, by itself or by the file beside it; None if it is not."""
    if "calibration/index" in codebook:
        return codebook.shape("calibration/index")[0]
    try:
        with open_artifact(calibration_path(codebook.path), CALIBRATION) as calibration:
            calibration.require_parent("codebook", codebook)
            return calibration.shape("calibration/index")[0]
    except ArtifactError:
        return None


def _calibration(artifact: Artifact) -> dict[str, object]:
    labels, predicted = artifact.read("calibration/label"), artifact.read("calibration/predicted")
    return {
        "validation_samples": len(labels),
        "accuracy": float((labels == predicted).mean()),
        "scores": len(artifact.names("calibration/score/")),
    }
