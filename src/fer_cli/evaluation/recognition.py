"""How well classes are told apart, where accuracy alone would hide that one of them is rare."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

from fer_cli.evaluation.results import AtThreshold, Recognition

_UNEQUAL = 2.0
"""From so many times the samples of the rarest class, the most frequent one counts as frequent."""

Probabilities = Float[np.ndarray, "sample klass"]
Labels = Int[np.ndarray, " sample"]
HeldOut = Float[np.ndarray, "validation klass"]
HeldOutLabels = Int[np.ndarray, " validation"]


def recognise(
    probabilities: Probabilities, labels: Labels, val_probabilities: HeldOut, val_labels: HeldOutLabels
) -> Recognition:
    """AUC, the accuracy of always guessing the most frequent class, and for two classes the accuracy at a threshold.

    The threshold is the one that gives the highest balanced accuracy on the validation samples.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    present = counts[counts > 0]
    return {
        "auc": _auc(probabilities, labels),
        "majority": float(counts.max() / max(1, counts.sum())),
        "unequal": bool(len(present) > 1 and present.max() >= _UNEQUAL * present.min()),
        "at_threshold": _at_threshold(probabilities, labels, val_probabilities, val_labels),
    }


def mean_recognition(of_runs: Sequence[Recognition]) -> Recognition:
    """Means over runs of the same samples; None where a run has none."""
    first = of_runs[0]
    areas = [run["auc"] for run in of_runs]
    cuts = [run["at_threshold"] for run in of_runs]
    whole = [cut for cut in cuts if cut is not None]
    at: AtThreshold | None = None
    if len(whole) == len(cuts):
        at = {
            "threshold": float(np.mean([cut["threshold"] for cut in whole])),
            "accuracy": float(np.mean([cut["accuracy"] for cut in whole])),
            "class_accuracy": float(np.mean([cut["class_accuracy"] for cut in whole])),
        }
    auc = None if None in areas else float(np.mean([area for area in areas if area is not None]))
    return {**first, "auc": auc, "at_threshold": at}


def _auc(probabilities: Probabilities, labels: Labels) -> float | None:
    """With two classes that of the second; else the mean over classes of one against the rest."""
    known = [label for label in range(probabilities.shape[1]) if 0 < (labels == label).sum() < len(labels)]
    if not known:
        return None
    chosen = known[1:2] if probabilities.shape[1] == 2 else known
    return float(np.mean([roc_auc_score(labels == label, probabilities[:, label]) for label in chosen or known]))


def _at_threshold(
    probabilities: Probabilities, labels: Labels, val_probabilities: HeldOut, val_labels: HeldOutLabels
) -> AtThreshold | None:
    """Accuracies where the second class is predicted from a threshold of its probability on."""
    if probabilities.shape[1] != 2 or len(set(val_labels.tolist())) < 2 or len(set(labels.tolist())) < 2:
        return None
    values = np.unique(val_probabilities[:, 1].astype(np.float64))
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    reached = [_balanced(val_probabilities[:, 1] >= cut, val_labels) for cut in cuts]
    threshold = float(cuts[int(np.argmax(reached))])
    predicted = probabilities[:, 1] >= threshold
    return {
        "threshold": threshold,
        "accuracy": float((predicted == labels).mean()),
        "class_accuracy": _balanced(predicted, labels),
    }


def _balanced(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([(predicted[labels == label] == label).mean() for label in (0, 1)]))
