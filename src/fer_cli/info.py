"""`fer info`: what an artifact holds, without running anything."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fer_cli.activations import PATHS
from fer_cli.artifact import Artifact, open_artifact
from fer_cli.checkpoint import read_history
from fer_cli.clustering import summarise_layer
from fer_cli.schema import CHECKPOINT, CODEBOOK, MODEL, VOXELS

_BLOCK = 256


def describe(path: Path) -> dict[str, Any]:
    """Provenance and a summary of the content of any artifact. Raises ArtifactError if it is none or damaged."""
    summaries = {VOXELS: _voxels, MODEL: _model, CHECKPOINT: _model, CODEBOOK: _codebook}
    with open_artifact(path) as artifact:
        return {
            "format": artifact.form.name,
            "version": artifact.form.version,
            "id": artifact.id,
            "parents": artifact.parents,
            "created_by": artifact.created_by,
            "config": artifact.config,
            "content": summaries[artifact.form](artifact),
        }


def _voxels(artifact: Artifact) -> dict[str, Any]:
    classes = artifact.attribute("classes")
    labels = artifact.read("label").tolist()
    names = [classes[label] if 0 <= label < len(classes) else "unlabelled" for label in labels]
    counts = Counter(zip(names, artifact.read_text("split"), strict=True))
    samples, side, *_ = artifact.shape("occupancy")
    occupied = sum(
        int(artifact.read("occupancy", slice(start, start + _BLOCK)).sum()) for start in range(0, samples, _BLOCK)
    )
    skipped = zip(artifact.read_text("skipped/source"), artifact.read_text("skipped/reason"), strict=True)
    return {
        "samples": samples,
        "resolution": side,
        "occupied_share": occupied / max(1, samples * side**3),
        "classes": {
            name: {split: counts[name, split] for split in ("train", "test", "unlabelled") if counts[name, split]}
            for name in sorted(set(names))
        },
        "skipped": [{"source": source, "reason": reason} for source, reason in skipped],
    }


def _model(artifact: Artifact) -> dict[str, Any]:
    parts = ("encoder", "feedback", "weights")
    return {
        "parameters": {
            part: sum(int(np.prod(artifact.shape(name))) for name in names)
            for part in parts
            if (names := artifact.names(f"{part}/"))
        },
        "history": [vars(record) for record in read_history(artifact)],
    }


def _codebook(artifact: Artifact) -> dict[str, Any]:
    layers = [name.split("/")[1] for name in artifact.names(f"{PATHS[0]}/") if name.endswith("/centroid")]
    summaries = []
    for path in PATHS:
        for layer in layers:
            arrays = [artifact.read(f"{path}/{layer}/{part}") for part in ("histogram", "inertia", "scatter")]
            summaries.append(vars(summarise_layer(path, layer, *arrays)))
    return {
        "layers": summaries,
        "validation_samples": artifact.shape("calibration/index")[0],
    }
