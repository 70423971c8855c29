"""`fer evaluate`: accuracy, reconstructions, Table I, and how well scores detect misclassification, over a split.

Nothing is fitted here; the suspicion score's calibration comes from the validation samples.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.activations import FEEDFORWARD, batches
from fer_cli.detection import detection_metrics
from fer_cli.errors import ResourceError
from fer_cli.fidelity import Fidelity
from fer_cli.reading import read_samples
from fer_cli.reconstruction import ERRORS, error_ratio, read_errors
from fer_cli.run import Run
from fer_cli.votes import voted_probabilities


def evaluate(
    run: Run,
    *,
    split: str = "test",
    votes: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluate a run on a split; the result's keys are those of `fer evaluate --json` (`docs/cli.md`).

    With `votes` the accuracy of a vote over so many turns about the vertical is told beside that of one view.

    Raises UsageError if the split has no labelled sample or the votes cannot be taken, and what opening the run's
    artifacts raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    indices = voxels.indices(split)
    labels = voxels.labels[indices]
    predicted: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[np.ndarray]] = {}
    voted: list[np.ndarray] = []
    fidelity = Fidelity(network)
    for part in batches(indices):
        grids = voxels.tensor(part)
        reading = read_samples(network, codebook, grids)
        predicted.append(reading.predicted)
        _extend(scores, reading.confidence_scores())
        _extend(errors, read_errors(network, codebook, voxels, reading, grids))
        fidelity.add(grids, reading.features[FEEDFORWARD])
        if votes is not None:
            voted.append(voted_probabilities(network, grids, votes).argmax(1).numpy())
        report(sum(map(len, predicted)), len(indices))
    chosen = np.concatenate(predicted)
    wrong = chosen != labels
    # Nothing but the training split repeats itself.
    repeated = voxels.repeats_training(indices) if split != "train" else np.zeros(len(indices), dtype=bool)
    joined_errors = {name: np.concatenate(parts) for name, parts in errors.items()}
    confidence = {name: np.concatenate(parts) for name, parts in scores.items()}
    confidence["suspicion"] = 1 - run.calibration.suspicion(confidence)
    # The paper takes a large error for a sign of misclassification.
    confidence |= {name: -values for name, values in joined_errors.items()}
    confidence["input_vs_code/input_vs_local"] = -error_ratio(joined_errors)
    return {
        "split": split,
        **_accuracy(wrong, labels),
        "per_class_accuracy": {
            name: float(1 - wrong[labels == label].mean()) if (labels == label).any() else None
            for label, name in enumerate(voxels.classes)
        },
        "without_duplicates": _accuracy(wrong[~repeated], labels[~repeated]),
        "votes": None if votes is None else {"views": votes, **_accuracy(np.concatenate(voted) != labels, labels)},
        "reconstruction": fidelity.means(),
        "table1": {
            "all": mean_errors(joined_errors, np.ones_like(wrong)),
            "correct": mean_errors(joined_errors, ~wrong),
            "misclassified": mean_errors(joined_errors, wrong),
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


def _accuracy(wrong: Bool[np.ndarray, " sample"], labels: Int[np.ndarray, " sample"]) -> dict[str, Any]:
    """Samples, errors, accuracy, and the mean over classes of the accuracy within each; None without samples."""
    if not len(wrong):
        return {"n": 0, "n_errors": 0, "accuracy": None, "class_accuracy": None}
    return {
        "n": len(wrong),
        "n_errors": int(wrong.sum()),
        "accuracy": float(1 - wrong.mean()),
        "class_accuracy": float(np.mean([1 - wrong[labels == label].mean() for label in np.unique(labels)])),
    }


def mean_errors(errors: Mapping[str, Float[np.ndarray, " sample"]], chosen: Bool[np.ndarray, " sample"]) -> Any:
    """Means of Table I's errors over the chosen samples, and the ratio of the means; None if there are none."""
    if not chosen.any():
        return None
    means = {name: float(errors[name][chosen].mean()) for name in ERRORS}
    return {**means, "ratio": means["input_vs_code"] / means["input_vs_local"]}


def _extend(columns: dict[str, list[np.ndarray]], batch: Mapping[str, np.ndarray]) -> None:
    for name, values in batch.items():
        columns.setdefault(name, []).append(values)
