"""The page that leads to the reports of several samples: a table that can be sorted, filtered and saved.

Source: what Figs 5 and 7 do for a few hand-picked failures, for all of them.
"""

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_cli.diagnosis.answer import INPUT, Answer
from fer_cli.diagnosis.cause import CAUSES
from fer_cli.reports.explained import PAGE, Explained, place_of
from fer_cli.reports.page import POLICY, SHARED_POLICY, environment
from fer_cli.reports.site import link, link_reports
from fer_cli.storage.disk import write_whole

TABLE = "samples.csv"
_FILTERS = {
    "True class": "label",
    "Predicted": "predicted",
    "Cause": "cause",
    "Goes wrong at": "place",
    "Category": "category",
}
"""Columns that a gallery can be filtered by."""
_COLUMNS = (
    *("sample", "true", "predicted", "probability", "cause", "strength", "remedy", "place", "category"),
    *("suspicion", "p_value", "report"),
)


def write_gallery(
    explained: Iterable[Explained],
    layers: Sequence[str],
    folder: Path,
    title: str,
    *,
    single_file: bool = False,
    evaluation: Path | None = None,
) -> Path:
    """Write `index.html` into `folder`: a table of the samples, each with its pictures and a link to its report.

    The table can be sorted and filtered; `samples.csv` beside it holds the same rows. The most suspicious come first,
    and the reports get links to one another in this order. `layers` gives the order of places: the input, and then the
    layers. A `single_file` holds its pictures. `evaluation` is the page to link to.

    Raises ResourceError where it cannot be written.
    """
    ranked = sorted(explained, key=lambda each: -each.suspicion.score)
    confused = Counter((each.json["label"], each.json["predicted"]) for each in ranked if each.json["correct"] is False)
    page = folder / PAGE
    reported = [each for each in ranked if "report" in each.files]
    rows = [
        {
            **each.json,
            "link": link(each.files["report"], page),
            "pictures": [
                (words, _picture(each.files["report"].with_name(name), page, single_file=single_file))
                for name, words in (("input.png", "input"), ("class-code.png", "what was recognised"))
            ],
            "place": place_of(vars(each.answer)),
            "depth": _depth(each.answer, layers),
        }
        for each in reported
    ]
    write_whole(folder / TABLE, _csv(rows))
    template = environment().get_template("gallery.html.j2")
    filled = template.render(
        title=title,
        rows=rows,
        confused=confused.most_common(5),
        causes=CAUSES,
        filters={head: _choices(rows, key) for head, key in _FILTERS.items()},
        table=TABLE,
        evaluation=None if evaluation is None else link(evaluation, page),
        policy=POLICY if single_file else SHARED_POLICY,
    )
    write_whole(page, filled)
    if not single_file:
        link_reports([(str(each.json["sample"]), each.files["report"]) for each in reported], page, evaluation)
    return page


def _picture(png: Path, page: Path, *, single_file: bool) -> str:
    """The source of a picture in the gallery."""
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode() if single_file else link(png, page)


def _choices(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, str]:
    """What a column can be filtered by: each value and its words, in the order of the words."""
    found = {str(_value(row, key)): str(_value(row, key)) for row in rows}
    if key == "cause":
        found = {name: CAUSES[name] for name in found}
    if key == "category":
        found = {str(row["category"]): str(row["category_name"]) for row in rows}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _value(row: Mapping[str, Any], key: str) -> str:
    value = row["cause"]["name"] if key == "cause" else row[key]
    return "–" if value is None else str(value)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of a gallery for a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        predicted, suspicion, cause = row["predicted"], row["suspicion"], row["cause"]
        writer.writerow(
            (
                *(row["sample"], row["label"], predicted, row["probabilities"][predicted]),
                *(cause["name"], cause["strength"], cause["remedy"], row["place"], row["category"]),
                *(suspicion["score"], suspicion["p_value"], row["link"]),
            )
        )
    return text.getvalue()


def _depth(answer: Answer, layers: Sequence[str]) -> int:
    """Place of an answer in the order of computation: −1 of the input, behind all layers where it names none."""
    if answer.outcome == INPUT:
        return -1
    return len(layers) if answer.layer is None else list(layers).index(answer.layer)
