"""Failure detection on pooled samples: metrics of every score, paired differences, ROC and risk-coverage curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression

from fer_cli.evaluation.cluster_scores import RATIO
from fer_cli.evaluation.detection import compare, detection_metrics, risk_coverage, roc
from fer_cli.evaluation.pooled import Pool
from fer_cli.evaluation.results import SUSPICION, Added, Comparison, Curves, Detection, Detector
from fer_cli.evaluation.scored import OURS

SOFTMAX = "max_softmax"
STACKED = (
    SUSPICION,
    "calibrated_feedforward_all",
    "calibrated_feedback_all",
    "agreement_all",
    "typicality_all",
    "input_vs_code",
    RATIO,
)
"""Scores whose value added to maximum softmax is measured."""
FOLDS = 10
_POINTS = 201

Scores = Mapping[str, Float[np.ndarray, " sample"]]


def detect_failures(pool: Pool, weights: Int[np.ndarray, "draw sample"], *, repeated: bool, seed: int = 0) -> Detection:
    """Metrics of every score, comparisons, and value added; with or without samples that repeat a training grid."""
    outcomes = pool.outcomes
    chosen = np.ones_like(outcomes.repeated) if repeated else ~outcomes.repeated
    scores = {name: values[chosen] for name, values in pool.scores.items()}
    wrong, drawn = outcomes.wrong[chosen], weights[:, chosen]
    detection: dict[str, Detector] = {
        name: {"kind": pool.kinds[name], **detection_metrics(values, wrong, drawn)} for name, values in scores.items()
    }
    shape = outcomes.index[chosen]
    defined = bool(wrong.any() and not wrong.all())
    return {
        "detection": detection,
        "comparisons": _comparisons(pool, scores, detection, wrong, drawn) if defined else [],
        "added_to_softmax": added_to_softmax(scores, wrong, shape, drawn, seed=seed) if defined else [],
        "undefined": None if defined else why_undefined(wrong),
    }


def why_undefined(wrong: Bool[np.ndarray, " sample"]) -> str:
    """Why there is nothing to detect."""
    if not len(wrong):
        return "there are no samples, so that nothing can be measured."
    said = "every sample is misclassified" if wrong.all() else "no sample is misclassified"
    return f"{said}, so that there is nothing to tell apart: no detection, no comparison, no claim on mistakes."


def added_to_softmax(
    scores: Scores,
    wrong: Bool[np.ndarray, " sample"],
    shape: Int[np.ndarray, " sample"],
    weights: Int[np.ndarray, "draw sample"],
    *,
    seed: int = 0,
) -> list[Added]:
    """What each of `STACKED` adds to maximum softmax: a logistic stack of both, against softmax in the same manner.

    Stacks are fitted on nine tenths of the shapes of the very split and asked about the last, in turn.
    """
    fold = _folds(shape, seed)
    alone = _stacked([_log_odds(scores[SOFTMAX])], wrong, fold)
    added: list[Added] = []
    for name in STACKED:
        if name not in scores:
            continue
        both = _stacked([_log_odds(scores[SOFTMAX]), _standard(scores[name])], wrong, fold)
        compared = compare({"both": both, "alone": alone}, wrong, weights, ours="both", theirs="alone")
        added.append({"score": name, **compared})
    return added


def curves(pool: Pool, names: Sequence[str]) -> dict[str, Curves]:
    """ROC and risk-coverage curves of some scores, at evenly spaced places; empty where they are not defined."""
    wrong = pool.outcomes.wrong
    if wrong.all() or not wrong.any():
        return {}
    return {
        name: {
            "roc": roc(pool.scores[name], wrong, _POINTS),
            "risk_coverage": risk_coverage(pool.scores[name], wrong, _POINTS),
        }
        for name in dict.fromkeys(names)
    }


def best_baseline(detection: Mapping[str, Detector]) -> str:
    """The score that is not ours with the highest AUROC on the split itself."""
    theirs = {name: row for name, row in detection.items() if row["kind"] != OURS}
    return max(theirs, key=lambda name: theirs[name]["auroc"] or 0.0)


def _comparisons(
    pool: Pool,
    scores: Scores,
    detection: Mapping[str, Detector],
    wrong: Bool[np.ndarray, " sample"],
    weights: Int[np.ndarray, "draw sample"],
) -> list[Comparison]:
    pairs = [
        (SUSPICION, SOFTMAX, "maximum softmax"),
        (SUSPICION, pool.best_baseline_on_validation(), "best baseline, chosen on the validation samples"),
        (SUSPICION, best_baseline(detection), "best baseline, chosen on this very split"),
        ("input_vs_code", "random_decoder", "the paper's criterion against a decoder with random weights"),
        ("input_vs_code", "random_class_code", "the paper's criterion against a random class code"),
    ]
    return [
        {"ours": ours, "theirs": theirs, "why": why, **compare(scores, wrong, weights, ours=ours, theirs=theirs)}
        for ours, theirs, why in pairs
    ]


def _folds(shape: Int[np.ndarray, " sample"], seed: int) -> Int[np.ndarray, " sample"]:
    """The fold of each sample; a shape is in one."""
    distinct, which = np.unique(shape, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(distinct)) % min(FOLDS, len(distinct)))[which]


def _stacked(
    columns: Sequence[Float[np.ndarray, " sample"]],
    wrong: Bool[np.ndarray, " sample"],
    fold: Int[np.ndarray, " sample"],
) -> Float[np.ndarray, " sample"]:
    table = np.stack(columns, axis=1)
    stacked = np.zeros(len(wrong))
    for number in np.unique(fold):
        held = fold == number
        if wrong[~held].all() or not wrong[~held].any():
            stacked[held] = columns[0][held]
            continue
        stacked[held] = LogisticRegression().fit(table[~held], ~wrong[~held]).decision_function(table[held])
    return stacked


def _log_odds(probability: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    tiny = np.finfo(np.float32).eps
    return _standard(np.log(probability + tiny) - np.log1p(tiny - probability))


def _standard(values: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    return (values - values.mean()) / (values.std() or 1.0)
