"""`fer evaluate`: accuracy, Table I, and how well scores detect misclassification, over a split.

Nothing is fitted here; the suspicion score's calibration comes from the validation samples.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fer_cli.activations import batches
from fer_cli.detection import detection_metrics
from fer_cli.errors import ResourceError
from fer_cli.reading import read_samples
from fer_cli.reconstruction import (
    ERRORS,
    class_code_reconstruction,
    error_ratio,
    local_reconstruction,
    nearest_training_sample,
    table1_errors,
)
from fer_cli.run import Run


def evaluate(
    run: Run, *, split: str = "test", report: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Evaluate a run on a split; the result's keys are those of `fer evaluate --json` (`docs/cli.md`).

    Raises UsageError if the split has no labelled sample, and what opening the run's artifacts raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    indices = voxels.indices(split)
    labels = voxels.labels[indices]
    predicted: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[np.ndarray]] = {}
    for part in batches(indices):
        grids = voxels.tensor(part)
        reading = read_samples(network, codebook, grids)
        predicted.append(reading.predicted)
        _extend(scores, reading.confidence_scores())
        nearest = nearest_training_sample(codebook, reading)
        table1 = table1_errors(
            grids[:, 0].numpy(),
            local_reconstruction(network, reading),
            voxels.grids(nearest).astype(np.float32),
            class_code_reconstruction(network, codebook, reading),
        )
        _extend(errors, table1)
        report(sum(map(len, predicted)), len(indices))
    chosen = np.concatenate(predicted)
    wrong = chosen != labels
    joined_errors = {name: np.concatenate(parts) for name, parts in errors.items()}
    confidence = {name: np.concatenate(parts) for name, parts in scores.items()}
    confidence["suspicion"] = 1 - run.calibration.suspicion(confidence)
    # The paper takes a large error for a sign of misclassification.
    confidence |= {name: -values for name, values in joined_errors.items()}
    confidence["input_vs_code/input_vs_local"] = -error_ratio(joined_errors)
    by_class = {
        name: float(1 - wrong[labels == label].mean()) if (labels == label).any() else None
        for label, name in enumerate(voxels.classes)
    }
    return {
        "split": split,
        "n": len(labels),
        "n_errors": int(wrong.sum()),
        "accuracy": float(1 - wrong.mean()),
        "class_accuracy": float(np.mean([share for share in by_class.values() if share is not None])),
        "per_class_accuracy": by_class,
        "table1": {
            "all": _table1(joined_errors, np.ones_like(wrong)),
            "correct": _table1(joined_errors, ~wrong),
            "misclassified": _table1(joined_errors, wrong),
        },
        "detection": {name: detection_metrics(values, wrong) for name, values in confidence.items()},
        "misclassified": [
            {
                "sample": voxels.names[indices[i]],
                "label": voxels.classes[labels[i]],
                "predicted": voxels.classes[chosen[i]],
                "max_softmax": float(confidence["max_softmax"][i]),
                "suspicion": float(1 - confidence["suspicion"][i]),
            }
            for i in np.flatnonzero(wrong)
        ],
    }


def write_evaluation(evaluation: Mapping[str, Any], folder: Path) -> Path:
    """Write an evaluation as JSON into `folder`. Raises ResourceError where that cannot be written."""
    path = folder / f"{evaluation['split']}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}.") from error
    return path


def _table1(errors: Mapping[str, Float[np.ndarray, " sample"]], chosen: Bool[np.ndarray, " sample"]) -> Any:
    """Means of Table I's errors over the chosen samples, and the ratio of the means; None if there are none."""
    if not chosen.any():
        return None
    means = {name: float(errors[name][chosen].mean()) for name in ERRORS}
    return {**means, "ratio": means["input_vs_code"] / means["input_vs_local"]}


def _extend(columns: dict[str, list[np.ndarray]], batch: Mapping[str, np.ndarray]) -> None:
    for name, values in batch.items():
        columns.setdefault(name, []).append(values)
