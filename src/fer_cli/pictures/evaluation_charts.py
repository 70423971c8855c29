"""The evaluation page's charts, as plotly figures in plain JSON values: ROC, risk and coverage, AUROC with intervals.

Colours of text and grid are the page's own, by its style sheet, so that they follow light, dark and print.
"""

from collections.abc import Mapping, Sequence

from fer_cli.evaluation.results import Curves, Detector
from fer_cli.pictures.charts import AXIS, LINES, Figure, plain_text, shared_layout

_LEGEND = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
_KINDS = {"ours": (LINES[0][0], "circle"), "baseline": (LINES[1][0], "square"), "trivial": ("#8a8f96", "diamond")}


def roc_chart(curves: Mapping[str, Curves]) -> Figure:
    """Share of correct samples accepted over share of wrong ones accepted, of each score; the diagonal is chance."""
    lines = _curves({name: curve["roc"] for name, curve in curves.items()}, "false_positive_rate", "true_positive_rate")
    diagonal = {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "line": {"width": 1, "dash": "dot"}}
    layout = _line_layout("wrong samples accepted", "correct samples accepted", {"range": [0, 1.01]})
    return {"data": lines, "layout": shared_layout({**layout, "shapes": [diagonal]})}


def risk_chart(curves: Mapping[str, Curves]) -> Figure:
    """Error rate among the accepted samples over the share of samples accepted, of each score."""
    lines = _curves({name: curve["risk_coverage"] for name, curve in curves.items()}, "coverage", "risk")
    layout = _line_layout("samples accepted (coverage)", "error rate among them (risk)", {"rangemode": "tozero"})
    return {"data": lines, "layout": shared_layout(layout)}


def auroc_chart(detection: Mapping[str, Detector]) -> Figure:
    """AUROC of each score with its interval, the best at the top; by kind."""
    ordered = sorted(detection, key=lambda name: detection[name]["auroc"] or 0.0)
    dots = []
    for kind, (colour, symbol) in _KINDS.items():
        rows = {name: detection[name] for name in ordered if detection[name]["kind"] == kind}
        values = [row["auroc"] or 0.0 for row in rows.values()]
        ends = [row["auroc_ci"] or (value, value) for row, value in zip(rows.values(), values, strict=True)]
        dots.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [round(value, 4) for value in values],
                "y": [plain_text(name) for name in rows],
                "marker": {"color": colour, "size": 8, "symbol": symbol},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [round(high - value, 4) for value, (_, high) in zip(values, ends, strict=True)],
                    "arrayminus": [round(value - low, 4) for value, (low, _) in zip(values, ends, strict=True)],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 3,
                },
                "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
            }
        )
    layout = {
        "height": 90 + 18 * len(ordered),
        "margin": {"l": 8, "r": 8, "t": 8, "b": 40},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "xaxis": {**AXIS, "title": {"text": "AUROC, 95 % interval", "standoff": 6}},
        "yaxis": {
            **AXIS,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plain_text(name) for name in ordered],
            "tickfont": {"size": 10},
            "dtick": 1,
            "range": [-0.8, len(ordered) - 0.2],
        },
    }
    return {"data": dots, "layout": shared_layout(layout)}


def _line_layout(across: str, up: str, span: Figure) -> Figure:
    """A chart over shares from 0 to 1; `span` is that of the other axis."""
    return {
        "height": 400,
        "margin": {"l": 50, "r": 8, "t": 8, "b": 40},
        "legend": _LEGEND,
        "xaxis": {**AXIS, "range": [0, 1], "title": {"text": across, "standoff": 6}},
        "yaxis": {**AXIS, **span, "title": {"text": up}},
    }


def _curves(curves: Mapping[str, Mapping[str, Sequence[float]]], along: str, up: str) -> list[Figure]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plain_text(name),
            "x": [round(value, 4) for value in curve[along]],
            "y": [round(value, 4) for value in curve[up]],
            "line": {"color": colour, "width": 2.2, "dash": dash},
            "hovertemplate": "%{x:.2f}, %{y:.3f}<extra>" + plain_text(name) + "</extra>",
        }
        for (name, curve), (colour, dash) in zip(curves.items(), LINES, strict=False)
    ]
