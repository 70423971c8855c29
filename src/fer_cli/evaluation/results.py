"""What an evaluation holds: the types of `fer evaluate --json`, key by key; `docs/cli.md` says what each means.

Results are plain dicts of these shapes from where they are computed to where they are written or shown, so that the
JSON file, the page and the terminal hold the same. An interval is [low, high] at 95 %; None stands for what is not
defined.
"""

from typing import NotRequired, TypedDict

Interval = list[float]
Ends = list[float | None]
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


class Sanity(TypedDict):
    """How alike explanations of randomised networks are; `checks[network][layer]` holds correlations and AUROCs.

    `blame_interval` is that of the random encoder's mean correlation of blame at the local layer.
    """

    n: int
    n_errors: int
    clustered: int
    checks: dict[str, dict[str, dict[str, float | None]]]
    findings: list[str]
    blame_interval: Interval | None


class Rates(TypedDict):
    """Shares of samples, for each number of replaced locations."""

    rate: list[float | None]
    rate_ci: list[Ends]


class Ranking(Rates):
    """How well a ranking of locations repairs; `normalised` is 0 for random places and 1 for the best found."""

    area: float | None
    area_ci: Ends
    normalised: NotRequired[float | None]
    normalised_ci: NotRequired[Ends]
    ours_less: NotRequired[float | None]
    ours_less_ci: NotRequired[Ends]


class Specificity(TypedDict):
    """What a donor of a wrong class repairs, and what repairing breaks."""

    wrong_class_repairs: dict[str, Rates]
    correct_broken: dict[str, Rates]


class LayerRepair(TypedDict):
    """Repairs at one layer, of `m` locations; rankings by donor and name."""

    locations: int
    m: list[int]
    donors: dict[str, dict[str, Ranking]]
    specificity: Specificity


class Repair(TypedDict):
    """Repairs of the misclassified samples of all runs."""

    n_errors: int
    runs: int
    implied_class_is_true: float | None
    implied_class_is_true_ci: Ends
    layers: dict[str, LayerRepair]


class Departures(TypedDict):
    """Of some samples, the share whose computation departs at 5 %."""

    n: int
    significant: float | None
    significant_ci: Ends


class LayerHits(Departures):
    """How often the layer at fault is named, or one beside it."""

    chance: float
    hit_chance: float | None
    departure_chance: float | None
    hit: float | None
    hit_ci: Ends
    near: float | None
    near_ci: Ends
    departure_hit: float | None
    departure_hit_ci: Ends
    departure_near: float | None
    departure_near_ci: Ends


class AtDose(TypedDict):
    """Weight noise of one dose, in standard deviations of a layer's weights: how often the layer is named at 5 %."""

    dose: float
    rate: float | None
    rate_ci: Ends
    n: int
    chance: float | None
    turned: float
    by_layer: dict[str, float]


class Overlap(TypedDict):
    """How well a ranking finds the locations at fault."""

    iou: float | None
    iou_ci: Ends
    rank: float | None
    rank_ci: Ends


class Located(TypedDict):
    """The same of all rankings at one layer."""

    n: int
    chance_iou: float
    chance_rank: float
    rankings: dict[str, Overlap]


class Tried(TypedDict):
    """Grafts of one class on another."""

    tried: int
    turned: int


class Planted(TypedDict):
    """Planted faults, by kind and then by layer; `unplanted` by outcome, `grafts` by kind and pair of classes.

    `answer` is how often the answer names the place: `findings.answer_shares`.
    """

    answer: dict[str, dict[str, list[float | int]]]
    layer: dict[str, dict[str, LayerHits]]
    location: dict[str, dict[str, Located]]
    unplanted: dict[str, Departures]
    grafts: dict[str, dict[str, Tried]]
    weights_by_dose: list[AtDose]


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


class CauseScore(TypedDict):
    """Share of `n` plantings whose cause was named, with Wilson's interval."""

    n: int
    right: float | None
    ci: Interval | None


class CauseAtDose(CauseScore):
    """Of one kind of planting at one dose; `tried` counts those too that changed no prediction."""

    kind: str
    dose: float
    tried: int


class LabelSearch(TypedDict):
    """Labels of the split that were changed, and those that were called questionable.

    `training` names the training samples whose own labels are questionable, the most questionable first.
    """

    changed: int
    suspects: int
    precision: CauseScore
    recall: CauseScore
    training: list[str]


class Average(TypedDict):
    """Mean over causes of the share that is named, with its bootstrap interval."""

    right: float | None
    ci: Interval | None


class Causes(TypedDict):
    """How often the cause planted was named, by cause and by dose, and the search for changed labels.

    `average` is over planted causes: of `ours`, of `neighbours` with softmax, and of the `majority`.
    """

    planted: dict[str, CauseScore]
    average: dict[str, Average]
    doses: list[CauseAtDose]
    labels: LabelSearch


class Group(TypedDict):
    """Mistakes of one kind that are alike; `share` is that of all mistakes. See `studies.groups`."""

    size: int
    share: float
    true: str
    predicted: str
    cause: str
    layer: str | None
    title: str
    samples: list[str]
    remedy: str
    counterexamples: list[str]


class Question(TypedDict):
    """A question of the trust card; `follows` says how to read this run's reports, empty where the answer is good."""

    question: str
    value: float | None
    interval: Interval | None
    verdict: str
    follows: str


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
