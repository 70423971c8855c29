"""What of an evaluation comes first for a terminal: groups of mistakes, confusion, the trust card, planted causes."""

import re
import shlex
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.study_results import Causes, Group, Question
from fer_cli.reports.tables import number_or_dash, open_table, printable
from fer_cli.studies.trust import NOT_MEASURED

_MOST_GROUPS = 6
_MOST_CONFUSED = 6
_MOST_NAMES = 10
"""So many samples are named one by one where another group has the same classes and cause."""
_STYLES = {"holds": "green", "fails": "bold red", "undecided": "yellow"}


def groups_report(evaluation: Evaluation) -> list[RenderableType]:
    """The largest groups, each with its remedy and the command that explains its mistakes."""
    groups = evaluation["groups"]
    if not groups:
        return []
    parts: list[RenderableType] = [Text("mistakes in groups, the largest first", style="italic")]
    for group in groups[:_MOST_GROUPS]:
        parts.append(Text(printable(f"{group['title']} ({group['share']:.0%})"), style="bold"))
        parts.append(Padding(Text(printable(group["remedy"])), (0, 0, 0, 2)))
        parts.append(Padding(Text(printable(_explain(evaluation, group, groups))), (0, 0, 0, 2)))
    rest = groups[_MOST_GROUPS:]
    if rest:
        parts.append(Text(f"and {_counted(rest)}, on the page and in the JSON"))
    return [*parts, Text()]


def _counted(groups: list[Group]) -> str:
    """How many groups these are; a group of one is a mistake in no group."""
    several = [group["size"] for group in groups if group["size"] > 1]
    alone = len(groups) - len(several)
    words = [
        f"{len(several)} smaller {'group' if len(several) == 1 else 'groups'} with {sum(several)} mistakes",
        f"{alone} {'mistake' if alone == 1 else 'mistakes'} in no group",
    ]
    return " and ".join(word for word, count in zip(words, (len(several), alone), strict=True) if count)


def _explain(evaluation: Evaluation, group: Group, groups: Sequence[Group]) -> str:
    """The command that explains a group, as a shell takes it, by sample names if another of `groups` is of its kind."""
    kind = (group["true"], group["predicted"], group["cause"])
    twins = sum((other["true"], other["predicted"], other["cause"]) == kind for other in groups) > 1
    wanted = list(group["samples"])
    if group["size"] > (_MOST_NAMES if twins else 1):
        wanted = ["--errors", "--pair", f"{group['true']},{group['predicted']}", "--cause", group["cause"]]
        wanted += [] if evaluation["split"] == "test" else ["--split", evaluation["split"]]
    return shlex.join(["fer", "explain", *wanted, "--run", evaluation["runs"][0]["run"]])


def confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """True class, predicted class and number of the mistakes between them, the most frequent first."""
    classes = list(evaluation["per_class_accuracy"])
    cells = [
        (classes[row], classes[column], count)
        for row, counts in enumerate(evaluation["confusion"])
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(cells, key=lambda cell: -cell[2])


def confusion_report(evaluation: Evaluation) -> Iterable[RenderableType]:
    """The classes that are most often mixed up."""
    if pairs := confused_pairs(evaluation)[:_MOST_CONFUSED]:
        said = ", ".join(f"{true} → {predicted} {count}" for true, predicted, count in pairs)
        yield Text(printable(f"most often confused: {said}"))


def trust_report(trust: Sequence[Question]) -> Iterable[RenderableType]:
    """The trust card, a question in a line or two; those that were not measured in one, with what measures them."""
    yield Text("may this run's reports be trusted?", style="italic")
    rows = [(question["verdict"], _said(question)) for question in trust if question["verdict"] != NOT_MEASURED]
    missing = [question for question in trust if question["verdict"] == NOT_MEASURED]
    if missing:
        options = dict.fromkeys(re.findall(r"--[a-z]+", " ".join(question["follows"] for question in missing)))
        count = f"{len(missing)} question{'s' if len(missing) > 1 else ''}"
        rows.append((NOT_MEASURED, f"{count}, on the page; 'fer evaluate {' '.join(options)}' measures them."))
    for verdict, words in rows:
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(f"{verdict:<12}", style=_STYLES.get(verdict, "")), Text(words))
        yield row


def _said(question: Question) -> str:
    ends = question["interval"]
    between = "" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})"
    value = "" if question["value"] is None else f" {question['value']:.2f}{between}."
    return f"{question['question']}{value} {question['follows']}".strip()


def causes_table(named: dict[str, dict[str, int]], causes: Causes) -> Iterable[RenderableType]:
    """Which causes were named where one was planted."""
    table = open_table("planted cause", "n", "named", "95 % interval", "named otherwise")
    for planted, score in causes["planted"].items():
        ends = score["ci"]
        others = sorted(((name, n) for name, n in named[planted].items() if name != planted), key=lambda item: -item[1])
        table.add_row(
            "none: correct samples" if planted == "none" else planted,
            str(score["n"]),
            number_or_dash(score["right"], 2),
            "–" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}",
            ", ".join(f"{name} {n}" for name, n in others[:3]),
        )
    yield table
    labels = causes["labels"]
    if labels["precision"]["n"]:
        yield Text(
            f"{labels['changed']} labels of the split changed: {labels['suspects']} called questionable, precision "
            f"{number_or_dash(labels['precision']['right'], 2)}, recall {number_or_dash(labels['recall']['right'], 2)}"
        )
