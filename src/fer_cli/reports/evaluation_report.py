"""What `fer evaluate` shows on a terminal: accuracy, Table I, failure detection, the paper's claims, sanity checks."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fer_cli.evaluation.results import (
    Accuracy,
    Added,
    Claim,
    Comparison,
    Detector,
    Evaluation,
    FalseAlarms,
    Fidelity,
    Viewed,
)
from fer_cli.evaluation.study_results import AtDose, Planted, Repair, Sanity
from fer_cli.reports.evaluation_summary import causes_table, confusion_report, groups_report, trust_report
from fer_cli.reports.report import FIDELITY, claims_by_head, detectors, error_table, fidelity_scores, said_of
from fer_cli.reports.tables import number_or_dash, open_table, printable

_MANY = 30
"""So many samples of a class make a share of them worth telling."""
_KINDS = {"ours": "ours", "baseline": "baselines", "trivial": "trivial baselines"}
_BY_LAYER = {
    "evidence_feedforward": "feedforward",
    "evidence_feedback": "feedback",
    "agreement": "agreement",
    "typicality": "typicality",
}
"""Scores that there are of every layer, with the head of their column."""
_CHANGES = {
    "blame_correlation": "blame",
    "feedforward_score_correlation": "score",
    "feedforward_auroc": "AUROC",
    "feedback_score_correlation": "score",
    "feedback_auroc": "AUROC",
}


def evaluation_report(evaluation: Evaluation) -> RenderableType:
    """An evaluation, part by part; what could not be computed is said."""
    detection = detectors(evaluation["detection"])
    layers = [name.removeprefix("evidence_feedforward_") for name in detection if "evidence_feedforward_" in name]
    of_layers = {name for name in detection if any(name.endswith(f"_{layer}") for layer in layers)}
    kept = {name for name in of_layers if name.startswith("trust_score_")}
    parts: list[RenderableType] = [
        *groups_report(evaluation),
        _accuracy(evaluation),
        *confusion_report(evaluation),
        Text(),
        *trust_report(evaluation["trust"]),
        *_fidelity(evaluation["reconstruction"]),
        _title("reconstruction error: summed squares, mean over samples"),
        error_table(evaluation["table1"]),
        _title("the same as Euclidean norms, the unit of the paper's Table I (ratio 1.87 on misclassified samples)"),
        error_table(evaluation["errors_norm"]),
    ]
    few = min(evaluation["n_errors"], evaluation["n"] - evaluation["n_errors"])
    if few and all(row["auroc_ci"] is None for row in detection.values()):
        what = "misclassified" if few == evaluation["n_errors"] else "correctly classified"
        parts.append(Text(f"\nOnly {few} {what}: too few to rank scores, and no intervals are given.", style="bold"))
    for kind, head in _KINDS.items():
        rows = {n: row for n, row in detection.items() if row["kind"] == kind and (n not in of_layers or n in kept)}
        if rows:
            parts += [_title(f"detectors of misclassification, {head}, the best first"), _score_table(rows)]
    if layers:
        parts += [_title("clusters of each layer as such a score: AUROC"), _layer_table(detection, layers)]
    if lacking := evaluation["not_applicable"]:
        parts.append(Text(f"not applicable: {'; '.join(lacking)}"))
    if evaluation["undefined"]:
        parts.append(Text(f"\n{evaluation['undefined']}"))
    if evaluation["comparisons"]:
        parts += [_title("differences, with 95 % intervals"), _comparison_table(evaluation["comparisons"])]
    distinct = evaluation["without_duplicates"]
    if distinct["comparisons"] and 0 < distinct["n"] < evaluation["n"]:
        title = _title("without shapes that training has: differences, with 95 % intervals")
        parts += [title, _comparison_table(distinct["comparisons"])]
    if evaluation["added_to_softmax"]:
        parts += [
            _title("added to maximum softmax: a logistic stack of both, cross-fitted on this split"),
            _added_table(evaluation["added_to_softmax"]),
        ]
    if evaluation["false_alarms"]:
        parts += [_title("samples called unusual, p ≤ 0.05"), _alarm_table(evaluation["false_alarms"])]
    parts += [_title("what the paper claims"), *_claims(evaluation["claims"])]
    for check in evaluation["sanity"] or ():
        parts += [_title(f"sanity, on {check['n']} samples: {check['n_errors']} misclassified"), *_sanity(check)]
    if evaluation["repair"]:
        parts += _repair(evaluation["repair"])
    if evaluation["planted"]:
        parts += _planted(evaluation["planted"])
    if evaluation["causes"] is not None and evaluation["cause_scores"] is not None:
        parts += [
            _title("planted causes: is the cause named?"),
            *causes_table(evaluation["causes"], evaluation["cause_scores"]),
        ]
    return Group(*parts)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="italic")


def _alarm_table(alarms: Mapping[str, FalseAlarms]) -> Table:
    """Shares of correct samples by score, with the range that a nominal 5 % allows, and those of misclassified ones."""
    table = open_table("by", "of correct", "expected", "most in a class", "of misclassified")
    for score, found in alarms.items():
        shares = {
            name: share for name, (share, n) in found["by_class"].items() if share is not None and n and n >= _MANY
        }
        most = max(shares, key=lambda name: shares[name]) if shares else None
        low, high = found["expected"] or (None, None)
        table.add_row(
            score,
            number_or_dash(found["rate"], 3),
            "–" if low is None or high is None else f"{low:.2f} to {high:.2f}",
            "–" if most is None else Text(f"{shares[most]:.2f} {printable(most)}"),
            number_or_dash(found["misclassified"][0], 2),
        )
    return table


def _accuracy(evaluation: Evaluation) -> Text:
    known = {name: value for name, value in evaluation["per_class_accuracy"].items() if value is not None}
    lowest = sorted(known, key=lambda name: known[name])[:2]
    runs = f" in {len(evaluation['runs'])} runs" if len(evaluation["runs"]) > 1 else ""
    distinct = evaluation["without_duplicates"]
    others: dict[str, Accuracy | Viewed] = {}
    if distinct["n"] < evaluation["n"]:
        others[f"without the {evaluation['n'] - distinct['n']} shapes that training has"] = distinct
    if votes := evaluation["votes"]:
        others[f"by a vote of {votes['views']} views"] = votes
    if viewed := evaluation["views"]:
        others[f"by the mean over {viewed['n']} views{_spread(viewed['draws'])}"] = viewed
    recognition = evaluation["recognition"]
    first: list[str | tuple[str, str]] = []
    if recognition["unequal"]:
        first = [
            "AUC ",
            (number_or_dash(recognition["auc"], 3), "bold"),
            "; mean of classes ",
            (number_or_dash(evaluation["class_accuracy"], 3), "bold"),
        ]
        if at := recognition["at_threshold"]:
            first.append(
                f", {at['class_accuracy']:.3f} at the threshold {at['threshold']:.2f} of the validation samples"
            )
        first.append(f"; always the most frequent class: accuracy {recognition['majority']:.3f}\n")
    mean, classes = evaluation["class_accuracy"], len(evaluation["per_class_accuracy"])
    if mean is not None and mean <= 1.1 / classes:
        hardly = f"The classifier hardly tells the classes apart: their mean accuracy is {mean:.2f}, guessing has "
        first.append((f"{hardly}{1 / classes:.2f}.\n", "bold"))
    return Text.assemble(
        f"{printable(str(evaluation['split']))}: {evaluation['n']} samples{runs}, "
        f"{evaluation['n_errors']} misclassified\n",
        *first,
        "accuracy ",
        (number_or_dash(evaluation["accuracy"], 4), "bold"),
        f"; mean of classes {number_or_dash(evaluation['class_accuracy'], 4)}, lowest ",
        ", ".join(f"{printable(name)} {known[name]:.2f}" for name in lowest) or "–",
        *(
            f"\n{how}: accuracy {number_or_dash(row['accuracy'], 4)}; "
            f"mean of classes {number_or_dash(row['class_accuracy'], 4)}"
            for how, row in others.items()
        ),
    )


def _spread(draws: Sequence[float] | None) -> str:
    """The range of accuracies over draws of views, if there were several."""
    return f" ({min(draws):.4f} to {max(draws):.4f} over {len(draws)} draws)" if draws else ""


def _fidelity(reconstruction: Fidelity) -> Iterator[RenderableType]:
    """A table for each score, a column a layer."""
    for key in fidelity_scores(reconstruction):
        yield _title(f"{FIDELITY[key]} of the reconstruction from each level")
        table = open_table("gates", *(printable(layer) for layer in reconstruction))
        for gates in ("shut", "open"):
            table.add_row(gates, *(number_or_dash(by_gates[gates][key], 3) for by_gates in reconstruction.values()))
        yield table


def _score_table(detection: Mapping[str, Detector]) -> Table:
    table = open_table("score", "AUROC", "95 % interval", "AUGRC", "FPR95", "cov5")
    for name in sorted(detection, key=lambda name: -(detection[name]["auroc"] or 0.0)):
        row = detection[name]
        figures = [
            number_or_dash(value, digits)
            for value, digits in ((row["augrc"], 4), (row["fpr95"], 2), (row["coverage_at_5"], 2))
        ]
        table.add_row(Text(printable(name)), number_or_dash(row["auroc"], 3), _interval(row["auroc_ci"], 3), *figures)
    return table


def _layer_table(detection: Mapping[str, Detector], layers: Sequence[str]) -> Table:
    table = open_table("layer", *_BY_LAYER.values())
    for layer in layers:
        rows = (detection.get(f"{score}_{layer}") for score in _BY_LAYER)
        table.add_row(Text(printable(layer)), *(number_or_dash(row and row["auroc"], 3) for row in rows))
    return table


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    table = open_table("score", "less", "AUROC", "95 % interval", "AUGRC × 1000")
    for column in table.columns[:2]:  # two names and their figures can be wider than a terminal
        column.no_wrap, column.overflow = False, "fold"
    for row in comparisons:
        auroc, augrc = row["auroc"], row["augrc"]
        theirs = f"{row['theirs']}*" if "this very split" in row["why"] else row["theirs"]
        table.add_row(
            Text(row["ours"]),
            theirs,
            f"{auroc['difference']:+.4f}",
            _interval(auroc["ci"], 4),
            f"{1000 * augrc['difference']:+.2f}",
        )
    table.caption = "* the best baseline on this very split, chosen there"
    table.caption_justify = "left"
    return table


def _added_table(added: Sequence[Added]) -> Table:
    table = open_table("score", "AUROC", "95 % interval", "AUGRC × 1000")
    for row in added:
        auroc = row["auroc"]
        table.add_row(
            row["score"],
            f"{auroc['difference']:+.4f}",
            _interval(auroc["ci"], 4),
            f"{1000 * row['augrc']['difference']:+.2f}",
        )
    return table


def _claims(claims: Sequence[Claim]) -> list[RenderableType]:
    """Each claim, and under it what it was measured by; the layers of the paper's figures apart from the others."""
    parts: list[RenderableType] = []
    for head, rows in claims_by_head(claims).items():
        table = open_table("", "value", "95 % interval", "bound", "verdict")
        table.columns[0].min_width = 8
        for row in rows:
            figures = (number_or_dash(row["value"], 2), _interval(row["ci"], 2), row["bound"])
            table.add_row(printable(row["layer"] or ""), *figures, said_of(row))
        parts += [Text(f"{head}: {rows[0]['measure']}"), table]
    return parts


def _repair(repair: Repair) -> list[RenderableType]:
    """Each ranking's normalised score by layer, with the donor of the true class; the rest is in the JSON."""
    layers = repair["layers"]
    rankings = next(iter(layers.values()))["donors"]["label"]
    table = open_table("blame by", *(printable(layer) for layer in layers), "ours ahead at")
    for name, row in rankings.items():
        if "normalised" not in row:
            continue
        rows = {layer: each["donors"]["label"][name] for layer, each in layers.items()}
        ahead = [layer for layer, found in rows.items() if (found.get("ours_less_ci", [None])[0] or 0.0) > 0]
        table.add_row(name, *(number_or_dash(found["normalised"], 2) for found in rows.values()), ", ".join(ahead))
    return [
        _title(
            f"repair of {repair['n_errors']} mistakes: (area − random) / (oracle − random), donor of the true class;\n"
            "ours is ahead where the interval of the difference is above zero"
        ),
        table,
    ]


def _planted(planted: Planted) -> list[RenderableType]:
    table = open_table("fault", "at", "n", "answer", "departure", "95 % interval", "blame")
    for kind, layers in planted["layer"].items():
        for layer, row in layers.items():
            named, _ = planted["answer"][kind][layer]
            shares = [number_or_dash(share, 2) for share in (named, row["departure_hit"], row["hit"])]
            ends = _interval(row["departure_hit_ci"], 2)
            table.add_row(kind, printable(layer), str(row["n"]), *shares[:2], ends, shares[2])
    parts: list[RenderableType] = [
        _title("planted faults: is the layer at fault named, by the answer, and by departure or blame alone?"),
        table,
    ]
    chance = {row["chance"] for layers in planted["layer"].values() for row in layers.values()}
    parts += [Text(f"a guess finds {share:.2f}") for share in chance]
    if planted["weights_by_dose"]:
        parts += [_title("noise on a layer's weights, by dose: does the departure name the layer at p ≤ 0.05?")]
        parts.append(_dose_table(planted["weights_by_dose"]))
    for kind, usual in planted["unplanted"].items():
        share = f"{number_or_dash(usual['significant'], 2)} ({_interval(usual['significant_ci'], 2)})"
        parts.append(Text(f"departures at 5 % of {usual['n']} {kind} samples, nothing planted: {share}"))
    for kind, places in planted["answer"].items():
        if kind not in planted["layer"]:
            said = ", ".join(f"{place} {of:.2f}" for place, (of, _) in places.items())
            parts.append(Text(f"answers for {next(iter(places.values()))[1]} {kind}: {said}"))
    for kind, grafts in planted["grafts"].items():
        turned, tried = sum(g["turned"] for g in grafts.values()), sum(g["tried"] for g in grafts.values())
        parts.append(Text(f"{kind}: {turned} of {tried} turn the prediction"))
    return parts


def _dose_table(doses: Sequence[AtDose]) -> Table:
    table = open_table("dose, σ of the weights", "n", "named", "95 % interval", "named elsewhere", "turned")
    for row in doses:
        figures = (number_or_dash(row["rate"], 2), _interval(row["rate_ci"], 2), number_or_dash(row["chance"], 2))
        table.add_row(f"{row['dose']:g}", str(row["n"]), *figures, f"{row['turned']:.2f}")
    return table


def _sanity(check: Sanity) -> list[RenderableType]:
    table = open_table("", "layer", *_CHANGES.values())
    for name, layers in check["checks"].items():
        for layer, row in layers.items():
            first = layer == next(iter(layers))
            table.add_row(name if first else "", layer, *(number_or_dash(row[key], 2) for key in _CHANGES))
    heads = Text("blame and score: rank correlation with the trained network; first feedforward, then feedback")
    return [heads, table, *(Text(finding) for finding in check["findings"])]


def _interval(ends: Sequence[float | None] | None, digits: int) -> str:
    if ends is None or None in ends:
        return "–"
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
