"""What of an evaluation comes first for a terminal: groups of mistakes, confusion, the trust card, planted causes."""

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.study_results import Causes, Group, Question
from fer_cli.reports.tables import number_or_dash, open_table, printable

_MOST_GROUPS = 6
_MOST_CONFUSED = 6
_STYLES = {"holds": "green", "fails": "bold red", "undecided": "yellow"}


def groups_report(groups: Sequence[Group]) -> list[RenderableType]:
    """The largest groups, each with its remedy and its most typical sample."""
    if not groups:
        return []
    parts: list[RenderableType] = [Text("mistakes in groups, the largest first", style="italic")]
    for group in groups[:_MOST_GROUPS]:
        parts.append(Text(printable(f"{group['title']} ({group['share']:.0%})"), style="bold"))
        parts.append(Text(printable(f"  {group['remedy']}")))
        parts.append(Text(printable(f"  fer explain {group['samples'][0]}")))
    rest = groups[_MOST_GROUPS:]
    if rest:
        count = sum(group["size"] for group in rest)
        parts.append(Text(f"and {len(rest)} smaller groups with {count} mistakes, on the page and in the JSON"))
    return [*parts, Text()]


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
    """The trust card, a question in a line or two."""
    yield Text("may this run's reports be trusted?", style="italic")
    for question in trust:
        ends = question["interval"]
        between = "" if ends is None else f" ({ends[0]:.2f} to {ends[1]:.2f})"
        value = "" if question["value"] is None else f" {question['value']:.2f}{between}."
        words = f"{question['question']}{value} {question['follows']}".strip()
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(f"{question['verdict']:<12}", style=_STYLES.get(question["verdict"], "")), Text(words))
        yield row


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
