"""The likely cause of a mistake and what to do about it, by written rules that are tried in order.

The rules and their thresholds are listed in `docs/method.md`. Thresholds are p-values among training or validation
samples, or were fixed on validation samples; none was chosen on a test split. A rule that needs the true class is
passed over where it is not known. A correctly classified sample has a cause only where its input or the computation is
unusual.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fer_cli.calibration.departure import Departure
from fer_cli.calibration.outliers import Outlyingness
from fer_cli.data.statistics import OFF_CENTRE
from fer_cli.diagnosis.repair import RepairTest
from fer_cli.diagnosis.wording import percentage, probability, with_article

Name = Literal["label", "overlap", "gap", "pose", "input", "part", "layer", "none"]
Strength = Literal["strong", "fair", "weak", "none found"]
CAUSES: Mapping[str, str] = {
    "label": "the label is questionable",
    "overlap": "the two classes overlap",
    "gap": "hardly any training sample is like it",
    "pose": "the pose is unusual",
    "input": "the input is damaged or odd",
    "part": "a part decides",
    "layer": "a layer computes unusually",
    "none": "no cause found",
}
"""What each is called."""

NONE = "none"
SURE = 0.8
"""Probability of the true class in another pose from which on the pose is the cause, or less: see `Signs.sure`."""
SOME_VOTES = 2 / 15
"""Share of the nearest training samples: two of fifteen."""
OVERLAPPING = 0.05
"""Share of votes that one class's correct validation samples give another."""
LEVEL = 0.05
FAR = 0.2
"""p-value of the distance to a class's training samples up to which a sample is far from them."""
NEAR = 0.5
"""p-value of that distance above which it is near: half of the class lie farther."""


_CERTAIN = 1000
"""Odds that are not told any closer."""


@dataclass(frozen=True)
class Cause:
    """One of `CAUSES`, how strong its evidence is, what to do, and the evidence in sentences."""

    name: Name
    strength: Strength
    remedy: str
    evidence: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is called."""
        return CAUSES[self.name]


def because(cause: Cause) -> str:
    """The cause as the end of a sentence that tells a mistake."""
    if cause.name == NONE:
        return f": {cause.words}"
    return f", {'perhaps' if cause.strength == 'weak' else 'likely'} because {cause.words}"


@dataclass(frozen=True)
class PoseFound:
    """The pose in which a class is recognised best: its turns in words, the class, its probability there.

    `is_usual` says whether the sample lies as near to that class's training samples in that pose as samples of it do,
    `is_nearer` whether it lies nearer to them than in the pose that it has.
    """

    turns: str
    klass: str
    probability: float
    is_usual: bool
    is_nearer: bool


@dataclass(frozen=True)
class Around:
    """The training samples around a sample.

    `votes` are shares of the nearest, by class. `p_far` is the p-value of so long a distance to the true class's
    training samples, and `p_predicted` to the predicted one's. `overlap` is the share of votes that correct validation
    samples of one of the two classes give the other. `nearest` names the nearest of the predicted, then of the true
    class.
    """

    votes: Mapping[str, float]
    p_far: float
    p_predicted: float
    overlap: float
    nearest: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True)
class Signs:
    """The evidence about one sample that the rules need; None where it is not known.

    `probabilities` are means over views where samples are varied. `unlikely` is what correct validation samples give to
    a class that is not theirs (`Surroundings.unlikely`), `least` what misclassified ones give to their own
    (`Surroundings.least`), `sure` what a pose has to reach. `suspicion` is a p-value. For a sample without a label,
    `around` holds the second most probable class in place of the true one.
    """

    predicted: str
    label: str | None
    probabilities: Mapping[str, float]
    suspicion: float
    outlyingness: Outlyingness | None = None
    departure: Departure | None = None
    pose: PoseFound | None = None
    around: Around | None = None
    unlikely: float = 0.0
    least: float = 0.0
    sure: float = SURE
    repair: RepairTest | None = None

    @property
    def is_mistake(self) -> bool:
        """Whether the label is another class than the predicted one."""
        return self.label not in (None, self.predicted)

    @property
    def may_be_mistake(self) -> bool:
        """Whether it is one, or may be: without a label, where it is suspicious."""
        return self.is_mistake or (self.label is None and self.suspicion <= LEVEL)

    @property
    def rival(self) -> str:
        """The true class, or the second most probable one where that is not known."""
        if self.label is not None:
            return self.label
        return max(
            (name for name in self.probabilities if name != self.predicted), key=lambda name: self.probabilities[name]
        )


def find_cause(signs: Signs) -> Cause:
    """The first cause whose rule holds."""
    for rule in _RULES:
        if (cause := rule(signs)) is not None:
            return cause
    if signs.label == signs.predicted:
        return Cause("none", "none found", "Nothing needs to be done.")
    return Cause("none", "none found", "Compare it with its nearest training samples.")


def _odd_input(signs: Signs) -> Cause | None:
    odd = signs.outlyingness
    if odd is None or not odd.is_outlier:
        return None
    evidence = [
        f"Among the training samples {percentage(odd.p_value)} lie as far from the others by their plain figures."
    ]
    evidence += [f"Unusual: {words}." for words in odd.unusual[:3]]
    what = f": {odd.unusual[0]}" if odd.unusual else ""
    mend = "move it to the middle" if odd.unusual and odd.unusual[0].startswith(OFF_CENTRE) else "mend or reject it"
    return Cause(
        "input",
        _strength(odd.p_value, 0.002, 0.01),
        f"Look at the input, and {mend}{what}.",
        tuple(evidence),
    )


def _unusual_pose(signs: Signs) -> Cause | None:
    pose = signs.pose
    if pose is None or not signs.may_be_mistake or pose.probability < signs.sure:
        return None
    if not pose.is_usual or not pose.is_nearer:
        return None
    turns = pose.turns.replace("-", "−")
    said = (
        f"Turned {turns} it is {with_article(pose.klass)} (probability {pose.probability:.2f}); no other pose "
        "reaches a probability that is more than 0.05 higher."
    )
    if signs.sure < SURE:
        said += f" This network's probabilities are low, so that {signs.sure:.2f} is enough."
    near = f"In that pose it lies nearer to training samples of {pose.klass} than in its own, and as near as usual."
    remedy = f"Turn it {turns}, or train with such poses."
    return Cause("pose", "strong" if pose.probability >= 0.95 else "fair", remedy, (said, near))


def _unusual_layer(signs: Signs) -> Cause | None:
    found = signs.departure
    if found is None or not found.is_significant:
        return None
    evidence = (
        f"The features of {found.layer} do not fit what lies below it as usual: p = {found.p_value:.3f}.",
        f"The odds that it is {found.layer} and not the next best layer are {_odds(found.margin)}.",
    )
    remedy = (
        f"If its weights were edited, pruned or quantised, look at {found.layer}; if not, this may be chance: about 5 "
        "in 100 correct samples look so, in some classes more."
    )
    return Cause("layer", _strength(found.p_value, 0.01, 0.025), remedy, evidence)


def _questionable_label(signs: Signs) -> Cause | None:
    around, label = signs.around, signs.label
    if not signs.is_mistake or around is None or label is None:
        return None
    given, votes = signs.probabilities[label], around.votes[signs.predicted]
    if given > signs.unlikely or around.votes[label] >= SOME_VOTES or votes < 0.5:
        return None
    close = around.overlap >= OVERLAPPING
    if close and given >= signs.least:
        return None
    evidence = [
        f"The network gives {label} {probability(given)}; 95 % of correct validation samples give a wrong class "
        f"at most {max(signs.unlikely, 0.001):.3f}.",
        f"Of the nearest training samples {percentage(votes)} are of class {signs.predicted}, "
        f"{percentage(around.votes[label])} of class {label}.",
    ]
    if close:
        evidence.append(
            "The two classes lie close, but nine of ten misclassified validation samples give their true class more "
            f"({signs.least:.2g} or more)."
        )
    like = f": the training sample most like it is {around.nearest[0]}" if around.nearest[0] else ""
    sure = signs.suspicion > LEVEL and around.p_predicted > LEVEL
    strength: Strength = "strong" if sure and votes >= 0.8 and not close else "fair" if sure else "weak"
    return Cause("label", strength, f"Check the label {label}{like}.", tuple(evidence))


def _gap(signs: Signs) -> Cause | None:
    around, label = signs.around, signs.label
    if not signs.is_mistake or around is None:
        return None
    among_own = around.votes[str(label)] >= SOME_VOTES
    of_none = around.p_predicted <= FAR and around.p_far <= NEAR and not (among_own and around.overlap >= OVERLAPPING)
    of_other = around.p_far <= FAR and not among_own
    if not of_none and not of_other:
        return None
    evidence = [
        f"Of samples of class {klass} {percentage(p_value)} lie as far or farther from their nearest training samples."
        for klass, p_value in ((signs.predicted, around.p_predicted), (label, around.p_far))
    ]
    if not of_none:
        evidence.append(f"Of its nearest training samples {percentage(around.votes[str(label)])} are of class {label}.")
    like = f"; the most similar so far is {around.nearest[1]}" if around.nearest[1] else ""
    remedy = f"Add training samples of class {label} like this one{like}."
    return Cause("gap", _strength(around.p_far, 0.01, LEVEL), remedy, tuple(evidence))


def _overlap(signs: Signs) -> Cause | None:
    around, rival = signs.around, signs.rival
    if not signs.may_be_mistake or around is None:
        return None
    votes, theirs = around.votes[rival], around.votes[signs.predicted]
    mixed = min(votes, theirs) >= SOME_VOTES
    if not mixed and around.overlap < OVERLAPPING:
        return None
    own = f"{percentage(theirs)} are of class {signs.predicted}, {percentage(votes)} of class {rival}."
    evidence = [f"Of the nearest training samples {own}"]
    if around.overlap >= OVERLAPPING:
        between = (
            f"The classes lie close: of the training samples around correct validation samples of one, "
            f"{percentage(around.overlap)} are of the other, on average."
        )
        evidence = [*evidence, between] if mixed else [between, f"Around this sample it is not so: {own}"]
    strength: Strength = "strong" if mixed and around.overlap >= OVERLAPPING else "fair" if mixed else "weak"
    remedy = (
        f"Add samples that tell {rival} from {signs.predicted}; where people cannot tell them apart either, merge the "
        "two classes or accept such mistakes."
    )
    return Cause("overlap", strength, remedy, tuple(evidence))


def _part(signs: Signs) -> Cause | None:
    test = signs.repair
    if test is None or not signs.is_mistake or not test.repaired or test.p_value > LEVEL:
        return None
    evidence = (
        f"With {test.replaced} of {test.locations} locations of {test.layer} replaced by those of {test.donor}, the "
        f"network says {test.predicted} ({test.probability:.2f}).",
    )
    remedy = "Look at the marked part of the input: it decides."
    return Cause("part", "fair" if test.probability >= SURE else "weak", remedy, evidence)


def _odds(nats: float) -> str:
    return f"{math.exp(nats):.1f} to 1" if nats < math.log(_CERTAIN) else f"over {_CERTAIN} to 1"


def _strength(p_value: float, strong: float, fair: float) -> Strength:
    return "strong" if p_value <= strong else "fair" if p_value <= fair else "weak"


_RULES: tuple[Callable[[Signs], Cause | None], ...] = (
    _unusual_pose,
    _odd_input,
    _unusual_layer,
    _questionable_label,
    _gap,
    _overlap,
    _part,
)
