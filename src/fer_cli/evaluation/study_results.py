"""What the studies of a run add to an evaluation: sanity checks, repairs, planted faults and causes, groups, trust.

As in `results`, these are types of the JSON, key by key.
"""

from typing import NotRequired, TypedDict

Interval = list[float]
Ends = list[float | None]
"""An interval, or two None where there is none."""


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


class Difference(TypedDict):
    """A sample that two runs predict otherwise; `cause` and `remedy` are of the run that gets it wrong."""

    sample: str
    label: str
    before: str
    after: str
    cause: str | None
    remedy: str | None


class Comparison(TypedDict):
    """Two runs on the samples of a split that both have; see `studies.comparison`.

    `only_in` counts samples that the other run lacks. `otherwise` are wrong in both, as different classes.
    """

    split: str
    runs: list[str]
    n: int
    only_in: list[int]
    accuracy: list[float]
    difference: float
    difference_ci: Interval
    p_value: float
    mended: list[Difference]
    broken: list[Difference]
    otherwise: list[Difference]
    causes: dict[str, dict[str, int]]


class Question(TypedDict):
    """A question of the trust card, and its answer.

    `follows` tells what the answer means for readers of this run's reports; it is empty if the answer is good. If
    `of_class` names a class, the question concerns only reports that predict this class; if None, all reports.
    """

    question: str
    of_class: str | None
    value: float | None
    interval: Interval | None
    verdict: str
    follows: str
