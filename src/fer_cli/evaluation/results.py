"""What an evaluation holds: the types of `fer evaluate --json`, key by key; `docs/cli.md` says what each means.

Results are plain dicts of these shapes from where they are computed to where they are written or shown, so that the
JSON file, the page and the terminal hold the same. An interval is [low, high] at 95 %; None stands for what is not
defined.
"""

from typing import TypedDict

from fer_cli.evaluation.study_results import Causes, Group, Interval, Planted, Question, Repair, Sanity

SUSPICION, COMBINED = "suspicion", "combined"
"""The name of the alarm's score, and its older name, of when views and clusters were pooled (docs/adr/0029)."""

Errors = dict[str, float]
"""Table I's errors by name, means over samples, and their `ratio`."""
Fidelity = dict[str, dict[str, dict[str, float]]]
"""Scores of reconstructions, by level, gates (`shut`, `open`) and score."""


class Accuracy(TypedDict):
    """Of some samples; `class_accuracy` is the mean over classes of the accuracy within each."""

    n: int
    n_errors: int
    accuracy: float | None
    class_accuracy: float | None


class AtThreshold(TypedDict):
    """Accuracy, and its mean over classes, at a threshold of the second class's probability."""

    threshold: float
    accuracy: float
    class_accuracy: float


class Recognition(TypedDict):
    """See `recognition.recognise`; `unequal` says that a class has at least twice the samples of another."""

    auc: float | None
    majority: float
    unequal: bool
    at_threshold: AtThreshold | None


class RunResult(Accuracy):
    """One run of those that are pooled. `alarm` is the score that suspicion goes by.

    `weights` and `ridge` are of the time when the alarm was pooled: all weight is the alarm's, and nothing is drawn.
    """

    run: str
    model: str
    seed: int | None
    alarm: str
    weights: dict[str, float]
    ridge: float | None


class Votes(Accuracy):
    """Accuracy by a vote of turned views."""

    views: int


class Viewed(TypedDict):
    """Accuracy of the mean class probabilities over `n` views; `draws` has that of each draw of them, if asked."""

    n: int
    samples: int
    n_errors: int
    accuracy: float
    class_accuracy: float | None
    draws: list[float] | None


class Metrics(TypedDict):
    """How well a score tells misclassified from correct samples."""

    auroc: float | None
    auroc_ci: Interval | None
    aurc: float | None
    aurc_ci: Interval | None
    augrc: float | None
    augrc_ci: Interval | None
    fpr95: float | None
    fpr95_ci: Interval | None
    coverage_at_5: float | None
    coverage_at_5_ci: Interval | None


class Detector(Metrics):
    """A score, which is `ours`, a `baseline` or `trivial`."""

    kind: str


class Difference(TypedDict):
    """A paired difference of a metric."""

    difference: float
    ci: Interval | None


class Differences(TypedDict):
    """Paired differences of every metric."""

    auroc: Difference
    aurc: Difference
    augrc: Difference
    fpr95: Difference
    coverage_at_5: Difference


class Comparison(Differences):
    """One of our scores less another, and why these two."""

    ours: str
    theirs: str
    why: str


class Added(Differences):
    """What a score adds to maximum softmax."""

    score: str


class Detection(TypedDict):
    """Failure detection; `undefined` says why there is none."""

    detection: dict[str, Detector]
    comparisons: list[Comparison]
    added_to_softmax: list[Added]
    undefined: str | None


class Distinct(Accuracy, Detection):
    """Of the samples whose grid is not that of a training sample."""


class Curves(TypedDict):
    """Curves of a score, by the name of their axis."""

    roc: dict[str, list[float]]
    risk_coverage: dict[str, list[float]]


class Claim(TypedDict):
    """A claim of the paper, what it is measured by, and the verdict.

    `by_construction` says that the value follows from the predicted probabilities alone, `in_figures` whether Figs 4
    and 6 show the layer, None without a layer.
    """

    claim: str
    measure: str
    layer: str | None
    value: float | None
    ci: Interval | None
    bound: str
    verdict: str | None
    by_construction: bool
    in_figures: bool | None


class Shares(TypedDict):
    """What clusters and nearest training samples of some samples speak for; of layers by path and class."""

    n: int
    nearest_of_true_class: float | None
    nearest_of_predicted_class: float | None
    layers: list[dict[str, str | float | None]]


class FalseAlarms(TypedDict):
    """Share and number of correct samples with p-values of at most 5 %; see `false_alarms`."""

    rate: float | None
    n: int
    expected: Interval | None
    by_class: dict[str, list[float | int | None]]
    misclassified: list[float | int | None]


class Mistake(TypedDict):
    """A misclassified sample; `run` counts from 0."""

    sample: str
    run: int
    label: str
    predicted: str
    max_softmax: float
    suspicion: float
    cause: str | None


class Evaluation(Accuracy, Detection):
    """A split, evaluated; what was not asked for is None."""

    split: str
    runs: list[RunResult]
    recognition: Recognition
    per_class_accuracy: dict[str, float | None]
    confusion: list[list[int]]
    without_duplicates: Distinct
    votes: Votes | None
    views: Viewed | None
    reconstruction: Fidelity
    table1: dict[str, Errors | None]
    errors_norm: dict[str, Errors | None]
    not_applicable: list[str]
    curves: dict[str, Curves]
    claims: list[Claim]
    shares: dict[str, Shares]
    false_alarms: dict[str, FalseAlarms]
    sanity: list[Sanity] | None
    repair: Repair | None
    planted: Planted | None
    groups: list[Group] | None
    trust: list[Question]
    causes: dict[str, dict[str, int]] | None
    cause_scores: Causes | None
    misclassified: list[Mistake]
