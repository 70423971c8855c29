"""Two runs compared, on a terminal and as a page with links to the reports that there are."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from fer_cli.arguments import file_name
from fer_cli.diagnosis.cause import CAUSES
from fer_cli.evaluation.study_results import Comparison, Difference
from fer_cli.reports.page import POLICY, environment
from fer_cli.reports.site import link
from fer_cli.reports.tables import open_table, printable
from fer_cli.storage.disk import write_whole

HEADS = {
    "mended": "Mended: wrong before, right after",
    "broken": "Broken: right before, wrong after",
    "otherwise": "Wrong in both, as another class",
}
_SHOWN = 12
"""Samples of a kind that a terminal lists."""


def comparison_report(found: Comparison) -> RenderableType:
    """Accuracies, and the samples that change, with the likely causes of the mistakes."""
    before, after = found["accuracy"]
    low, high = found["difference_ci"]
    parts: list[RenderableType] = [
        Text(f"{found['split']}: {found['n']} samples in both runs{_only_in(found['only_in'])}"),
        Text(
            f"accuracy {before:.4f} → {after:.4f}, difference {found['difference']:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"p = {found['p_value']:.3f}"
        ),
    ]
    for kind, rows in _kinds(found):
        named = found["causes"].get(kind) or {}
        causes = ", ".join(f"{CAUSES[name]} {count}" for name, count in named.items())
        parts.append(Text(f"\n{HEADS[kind]}: {len(rows)}{f' ({causes})' if causes else ''}", style="bold"))
        if rows:
            parts.append(_table(rows))
    return Lines(*parts)


def _kinds(found: Comparison) -> Iterable[tuple[str, list[Difference]]]:
    yield from (("mended", found["mended"]), ("broken", found["broken"]), ("otherwise", found["otherwise"]))


def _only_in(counts: Sequence[int]) -> str:
    said = [f"{count} only in the {which}" for which, count in zip(("first", "second"), counts, strict=True) if count]
    return f"; {', '.join(said)}" if said else ""


def _table(rows: list[Difference]) -> RenderableType:
    table = open_table("sample", "true", "before", "after", "cause")
    for column in table.columns:
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    for row in rows[:_SHOWN]:
        words = (row["sample"], row["label"], row["before"], row["after"], row["cause"] or "–")
        table.add_row(*(Text(printable(word)) for word in words))
    more = len(rows) - _SHOWN
    return Lines(table, Text(f"and {more} more, on the page and in the JSON")) if more > 0 else table


def write_comparison_page(found: Comparison, page: Path) -> Path:
    """Write the page of a comparison. Raises ResourceError where it cannot be written."""
    text = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            found=found,
            kinds=[(kind, HEADS[kind], rows) for kind, rows in _kinds(found)],
            causes=CAUSES,
            reports=_reports(found, page),
            policy=POLICY,
        )
    )
    write_whole(page, text)
    return page


def _reports(found: Comparison, page: Path) -> dict[str, str]:
    """Links to the reports of the mistakes that only one run makes, by sample: in the folder of that run."""
    links = {}
    for run, rows in zip(found["runs"], (found["mended"], found["broken"]), strict=True):
        for row in rows:
            report = Path(run) / "explain" / file_name(row["sample"]) / "index.html"
            if report.is_file():
                links[row["sample"]] = link(report, page)
    return links
