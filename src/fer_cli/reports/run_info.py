"""`fer info RUN`: what a run's folder holds, how far the run is, and which command comes next."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fer_cli.errors import ArtifactError, LineageError
from fer_cli.network.activations import PATHS
from fer_cli.network.attached.model_file import is_attached
from fer_cli.network.checkpoint import checkpoint_path
from fer_cli.network.weights import read_spec
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.declarations import Format, Json
from fer_cli.storage.history import read_history
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, CODEBOOK, MODEL, VOXELS

_PARENTS = {"voxels": (), "model": ("voxels",), "codebook": ("model",), "calibration": ("codebook",)}
"""What each artifact of a run is made from, of the others."""
_STAGES = {"voxels": "voxelize", "model": "train", "codebook": "cluster", "calibration": "calibrate"}


def describe_run(folder: Path) -> Json:
    """The artifacts in a run's folder, each with a summary or what is wrong with it, and the words of the next command.

    Raises ArtifactError if it holds none of them.
    """
    paths = RunPaths.in_folder(folder)
    parts: dict[str, tuple[Path, Format, Callable[[Artifact], Json]]] = {
        "voxels": (paths.voxels, VOXELS, _voxels),
        "model": (paths.model, MODEL, _model),
        "codebook": (paths.codebook, CODEBOOK, _codebook),
        "calibration": (paths.calibration, CALIBRATION, _calibration),
    }
    if not any(path.exists() for path, _, _ in parts.values()):
        raise ArtifactError(
            f"{folder} is no folder of a run: it holds none of voxels.h5, model.h5 and codebook.h5. Name an artifact, "
            f"or begin a run with 'fer voxelize SOURCE --run {folder}'."
        )
    opened: dict[str, Artifact] = {}
    told: dict[str, Any] = {"format": "fer-run", "run": str(folder)}
    for name, (path, form, summary) in parts.items():
        told[name] = _described(name, path, form, summary, opened)
    told["evaluations"] = list(_evaluations(folder, opened.get("model")))
    told["explained"] = sum(1 for _ in folder.glob("explain/*/diagnosis.json"))
    told["problems"] = [told[name]["problem"] for name in parts if told[name] and told[name]["problem"]]
    told["next"] = _next(told, paths)
    for artifact in opened.values():
        artifact.close()
    return told


def _described(
    name: str, path: Path, form: Format, summary: Callable[[Artifact], Json], opened: dict[str, Artifact]
) -> Json | None:
    """Summary of an artifact, which is left open; None if it does not exist."""
    if not path.exists():
        return None
    found: Json = {"path": str(path), "id": None, "problem": None}
    try:
        artifact = opened[name] = open_artifact(path, form)
        found["id"] = artifact.id
        for role in _PARENTS[name]:
            if role in opened:
                artifact.require_parent(role, opened[role])
        with artifact.interpreted():
            found |= summary(artifact)
    except (ArtifactError, LineageError) as error:
        found["problem"] = str(error)
    return found


def _voxels(artifact: Artifact) -> Json:
    classes = artifact.attribute("classes")
    counts: dict[str, dict[str, int]] = {name: {} for name in classes}
    for label, split in zip(artifact.read("label").tolist(), artifact.read_text("split"), strict=True):
        of_class = counts.setdefault(classes[label] if label >= 0 else "unlabelled", {})
        of_class[split] = of_class.get(split, 0) + 1
    is_grid = "occupancy" in artifact
    samples, *sides = artifact.shape("occupancy" if is_grid else "intensity")
    return {
        "samples": samples,
        "holds": "occupancy" if is_grid else "intensity",
        "shape": [1, *sides] if is_grid else sides,
        "up": artifact.config.get("voxelization", {}).get("up", "z") if is_grid else None,
        "classes": counts,
    }


def _model(artifact: Artifact) -> Json:
    history, attached = read_history(artifact), is_attached(artifact.config)
    last = {record.phase: record for record in history}
    sizes = (int(np.prod(artifact.shape(name))) for part in ("encoder", "feedback") for name in artifact.names(part))
    return {
        "network": "attached" if attached else artifact.config["training"]["preset"],
        "parameters": sum(sizes),
        "layers": list(read_spec(artifact).layer_names),
        "has_feedback": bool(artifact.names("feedback/")),
        "validation_samples": artifact.shape("validation/index")[0],
        "validation_accuracy": last["feedforward"].validation_score if "feedforward" in last else None,
        "reconstruction_score": last["feedback"].validation_score if "feedback" in last else None,
        "seconds": sum(record.seconds for record in history),
    }


def _codebook(artifact: Artifact) -> Json:
    layers = [name.split("/")[1] for name in artifact.names(f"{PATHS[0]}/") if name.endswith("/centroid")]
    return {"k": {layer: artifact.shape(f"{PATHS[0]}/{layer}/centroid")[1] for layer in layers}}


def _calibration(artifact: Artifact) -> Json:
    labels, predicted = artifact.read("calibration/label"), artifact.read("calibration/predicted")
    views = artifact.config.get("views")
    return {
        "validation_samples": len(labels),
        "accuracy": float((labels == predicted).mean()) if len(labels) else None,
        "views": views["number"] if views else None,
    }


def _evaluations(folder: Path, model: Artifact | None) -> Iterator[Json]:
    """What the evaluations in the folder say, the oldest first; files that are none are passed over."""
    for path in sorted(folder.glob("evaluate/*.json"), key=lambda path: path.stat().st_mtime):
        try:
            read = json.loads(path.read_bytes())
            mistakes = {each["sample"]: float(each["suspicion"]) for each in read["misclassified"] if each["run"] == 0}
            yield {
                "path": str(path),
                **{key: read[key] for key in ("split", "n", "n_errors", "accuracy")},
                "of_this_model": None if model is None else read["runs"][0]["model"] == model.id,
                "most_suspicious": max(mistakes, key=lambda name: mistakes[name]) if mistakes else None,
            }
        except (OSError, ValueError, LookupError, TypeError):
            continue


def _next(told: Json, paths: RunPaths) -> list[str]:
    """The words of the next command: the first stage that is missing or has to be made again, else a mistake."""
    for name, stage in _STAGES.items():
        made = told[name]
        if made is None:
            resume = ["--resume"] if name == "model" and checkpoint_path(paths.model).exists() else []
            return [stage, *(["SOURCE"] if name == "voxels" else []), *resume]
        if made["problem"]:
            return [stage, *(["SOURCE"] if name == "voxels" else []), "--force"]
        if name == "model" and not made["has_feedback"]:
            return ["train", "--encoder", str(paths.model), "-o", str(paths.model.with_name("model-whole.h5"))]
    current = [each for each in told["evaluations"] if each["of_this_model"]]
    if not current:
        return ["evaluate"]
    mistake = current[-1]["most_suspicious"]
    return ["explain", mistake] if mistake else ["figures"]
