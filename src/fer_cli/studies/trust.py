"""The trust card of a run: questions about its explanations, each with a figure, an interval and a word.

A question holds where its whole interval is on the good side of the bound, fails where it is on the other, and is
undecided otherwise; what was not measured is said to be so, with the option that measures it. Nothing is computed
here that the evaluation does not hold.
"""

from collections.abc import Callable, Mapping

from fer_cli.diagnosis.cause import CAUSES
from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.study_results import CauseScore, Interval, Question

HOLDS, UNDECIDED, FAILS, NOT_MEASURED = "holds", "undecided", "fails", "not measured"
FOUND = 0.6
"""Share of planted layers, and of planted causes, that has to be found."""
ALIKE = 0.5
"""Agreement with an untrained network, as a rank correlation, that has to stay below this."""
TOLERANCE = (0.03, 0.07)
"""False alarms at the nominal 5 %."""
OF_A_CLASS, ENOUGH = 0.15, 30
"""The most false alarms that a class may have, where it has so many correct samples."""


def judge(value: float | None, interval: Interval | None, bound: float, *, above: bool = True) -> str:
    """The word for a value that should be above a bound, or below it."""
    if value is None or interval is None:
        return UNDECIDED
    low, high = interval if above else (-interval[1], -interval[0])
    bound = bound if above else -bound
    return HOLDS if low > bound else FAILS if high < bound else UNDECIDED


def trust_card(evaluation: Evaluation, *, local_layer: str) -> list[Question]:
    """The questions, those of the network's explanations first, in the order in which a reader needs them."""
    rules: tuple[Callable[[Evaluation, str], list[Question]], ...] = (
        _untrained,
        _planted,
        _repairs,
        _alarm,
        _p_values,
    )
    return [question for rule in rules for question in rule(evaluation, local_layer)]


def _untrained(evaluation: Evaluation, local_layer: str) -> list[Question]:
    found = []
    asked = f"Does an untrained encoder blame other locations of {local_layer}?"
    if not evaluation["sanity"]:
        found.append(_unmeasured(asked, "--sanity"))
    else:
        check = evaluation["sanity"][0]
        value, ends = check["checks"]["random_encoder"][local_layer]["blame_correlation"], check["blame_interval"]
        follows = "The blamed places depend on the input alone, not on what was learned."
        found.append(_question(asked, value, ends, judge(value, ends, ALIKE, above=False), follows))
    for row in evaluation["comparisons"]:
        if row["theirs"] == "random_decoder":
            change = row["auroc"]
            word = judge(change["difference"], change["ci"], 0.0)
            asked = "Does the paper's criterion need the trained decoder (difference of AUROC)?"
            follows = "The reconstruction error of the class code tells nothing that a random decoder does not."
            found.append(_question(asked, change["difference"], change["ci"], word, follows))
    return found


def _planted(evaluation: Evaluation, local_layer: str) -> list[Question]:
    found, planted, causes = [], evaluation["planted"], evaluation["cause_scores"]
    for kind, words in (("feature", "faults in a layer's features"), ("weight", "noise in a layer's weights")):
        asked = f"Does the answer name the layer of planted {words}?"
        if planted is None or kind not in planted["answer"]:
            found.append(_unmeasured(asked, "--planted"))
            continue
        share, count = planted["answer"][kind]["all"]
        ends = share_interval(round(share * count), int(count))
        found.append(_question(asked, share, ends, judge(share, ends, FOUND), "Do not rely on the layer named."))
    asked = "Is the cause of planted mistakes named?"
    if causes is None:
        return [*found, _unmeasured(asked, "--causes")]
    rows = [score for name, score in causes["planted"].items() if name != "none"]
    right = sum(round((row["right"] or 0.0) * row["n"]) for row in rows)
    total = sum(row["n"] for row in rows)
    if not total:
        return found
    ends = share_interval(right, total)
    follows = "Take the likely cause as a hint."
    found.append(_question(asked, right / total, ends, judge(right / total, ends, FOUND), follows))
    return found + _causes_not_found(causes["planted"])


def _causes_not_found(planted: Mapping[str, CauseScore]) -> list[Question]:
    """A question for each planted cause that may be found too rarely, which the share over all causes can hide."""
    found = []
    for name, row in planted.items():
        if name != "none" and row["n"] and row["right"] is not None:
            ends = share_interval(round(row["right"] * row["n"]), row["n"])
            word = judge(row["right"], ends, FOUND)
            asked = f"Is the cause found in plantings where {CAUSES[name]}?"
            follows = f"Where {CAUSES[name]}, another cause may be named."
            found += [] if word == HOLDS else [_question(asked, row["right"], ends, word, follows)]
    return found


def _repairs(evaluation: Evaluation, local_layer: str) -> list[Question]:
    rivals = {
        "grad_cam": "Grad-CAM",
        "integrated_gradients": "integrated gradients",
        "expected_gradients": "expected gradients",
        "occlusion": "occlusion",
    }
    repair = evaluation["repair"]
    layers = {} if repair is None else repair["layers"]
    rows = layers[local_layer]["donors"]["label"] if local_layer in layers else {}
    found = []
    for name, words in rivals.items():
        asked = f"Do the blamed locations of {local_layer} repair better than those of {words}?"
        if repair is None:
            found.append(_unmeasured(asked, "--repair"))
        elif (row := rows.get(name)) is not None and (ends := row.get("ours_less_ci")) is not None and None not in ends:
            interval = [float(end) for end in ends if end is not None]
            value = row.get("ours_less")
            follows = f"Look at the places by {words} too."
            found.append(_question(asked, value, interval, judge(value, interval, 0.0), follows))
    return found


def _alarm(evaluation: Evaluation, local_layer: str) -> list[Question]:
    for row in evaluation["comparisons"]:
        if (row["ours"], row["theirs"]) == ("suspicion", "max_softmax"):
            change = row["auroc"]
            asked = "Does suspicion tell mistakes better than maximum softmax (difference of AUROC)?"
            word, follows = judge(change["difference"], change["ci"], 0.0), "Maximum softmax is enough as an alarm."
            return [_question(asked, change["difference"], change["ci"], word, follows)]
    return []


def _p_values(evaluation: Evaluation, local_layer: str) -> list[Question]:
    found, (low, high) = [], TOLERANCE
    for score, row in evaluation["false_alarms"].items():
        if row["rate"] is None:
            continue
        ends = share_interval(round(row["rate"] * row["n"]), row["n"])
        expected = row["expected"] or list(TOLERANCE)
        least, most = min(low, expected[0]), max(high, expected[1])
        within = least <= row["rate"] <= most
        word = HOLDS if within else FAILS if ends[0] > high or ends[1] < low else UNDECIDED
        asked = (
            f"Are {100 * least:.0f} to {100 * most:.0f} % of the correct samples called unusual by {score} at p ≤ 0.05?"
        )
        found.append(_question(asked, row["rate"], ends, word, f"Read p-values of {score} as ranks, not as rates."))
        for name, (rate, count) in row["by_class"].items():
            if rate is not None and count is not None and count >= ENOUGH and rate > OF_A_CLASS:
                ends = share_interval(round(rate * count), int(count))
                asked = f"Are at most {OF_A_CLASS:.0%} of the correct samples of {name} called unusual by {score}?"
                word = judge(rate, ends, OF_A_CLASS, above=False)
                follows = f"Where {name} is predicted, read p-values of {score} as ranks, not as rates."
                found.append(_question(asked, rate, ends, word, follows, name))
    return found


def share_interval(hits: int, count: int) -> Interval:
    """Wilson's 95 % interval of a share."""
    from scipy.stats import binomtest  # two thirds of a second that the sentences of a card do not need

    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def _question(
    asked: str,
    value: float | None,
    interval: Interval | None,
    verdict: str,
    follows: str,
    of_class: str | None = None,
) -> Question:
    ends = None if interval is None else [float(end) for end in interval]
    follows = {HOLDS: "", FAILS: follows, NOT_MEASURED: follows}.get(verdict, f"Perhaps: {follows}")
    return {
        "question": asked,
        "of_class": of_class,
        "value": value,
        "interval": ends,
        "verdict": verdict,
        "follows": follows,
    }


def _unmeasured(asked: str, option: str) -> Question:
    follows = f"Run 'fer evaluate {option}' to learn it."
    return _question(asked, None, None, NOT_MEASURED, follows)
