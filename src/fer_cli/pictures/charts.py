"""The report's charts, as plotly figures in plain JSON values: evidence by depth, errors among validation samples.

Colours of text and grid are the page's own, by its style sheet, so that they follow light, dark and print.

Source: Figs 3, 4 and 6, Table I.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from fer_cli.diagnosis.wording import percentage

# Apart for colour-blind readers, and three to one against the page's light and its dark background.
PREDICTED, RIVAL = "#d55e00", "#2a86c8"
CORRECT, MISCLASSIFIED = "#009e73", "#cc6f9f"
LINES = (
    ("#d55e00", "solid"),
    ("#2a86c8", "dash"),
    ("#009e73", "dot"),
    ("#cc6f9f", "dashdot"),
    ("#b98a00", "longdash"),
    ("#8a8f96", "longdashdot"),
)
"""Colours and strokes of several lines; apart in either."""
_FONT = {"family": 'system-ui, "Segoe UI", Roboto, sans-serif', "size": 12}
Figure = dict[str, object]
"""A plotly figure, or a part of one, as plain JSON values."""
AXIS = {"fixedrange": True, "zeroline": False, "automargin": True}


def depth_chart(
    layers: Sequence[str],
    predicted: Sequence[float],
    rival: Sequence[float],
    *,
    names: tuple[str, str],
    span: tuple[float, float],
    named: str | None,
    because: str = "turns",
) -> Figure:
    """Calibrated evidence for the predicted class and its rival, layer by layer; `because` is written at layer `named`.

    `span` are the least and the most of both paths, so that their charts have one scale.
    """
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain_text(name),
            "x": list(layers),
            "y": [round(float(value), 4) for value in values],
            "line": {"color": colour, "width": 2.5, "dash": dash},
            "marker": {"color": colour, "size": 8, "symbol": symbol},
            "hovertemplate": "%{x}: %{y:.2f}<extra>" + plain_text(name) + "</extra>",
        }
        for name, values, colour, dash, symbol in (
            (names[0], predicted, PREDICTED, "solid", "circle"),
            (names[1], rival, RIVAL, "dash", "square"),
        )
    ]
    margin = 0.08 * (span[1] - span[0] or 1.0)
    layout: Figure = {
        "height": 290,
        "margin": {"l": 44, "r": 8, "t": 22, "b": 30},
        "legend": {"orientation": "h", "x": 0, "y": 1.08, "yanchor": "bottom"},
        "xaxis": {**AXIS, "type": "category", "showgrid": False, "tickangle": 0, "tickfont": {"size": 10}},
        "yaxis": {**AXIS, "range": [span[0] - margin, span[1] + margin], "zeroline": True, "nticks": 6},
    }
    if named is not None and named in layers:
        place = list(layers).index(named)
        layout["shapes"] = [
            {
                "type": "rect",
                "layer": "below",
                "xref": "x",
                "yref": "paper",
                "x0": place - 0.42,
                "x1": place + 0.42,
                "y0": 0,
                "y1": 1,
                "fillcolor": "rgba(128,128,128,0.22)",
                "line": {"width": 0},
            }
        ]
        layout["annotations"] = [
            {"text": because, "x": place, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        ]
    return {"data": lines, "layout": shared_layout(layout)}


def error_chart(
    error: float, correct: Float[np.ndarray, " correct"], misclassified: Float[np.ndarray, " misclassified"]
) -> Figure:
    """One error of this sample as a line among those of the validation samples, by outcome."""
    boxes = [
        {
            "type": "box",
            "orientation": "h",
            "name": name,
            "x": [float(f"{value:.4g}") for value in values],
            "boxpoints": "all",
            "jitter": 0.7,
            "pointpos": 0,
            "marker": {"color": colour, "size": 3, "opacity": 0.45},
            "line": {"color": colour, "width": 1.5},
            "fillcolor": "rgba(0,0,0,0)",
            "hoverinfo": "x",
        }
        for name, values, colour in (
            ("wrong", misclassified, MISCLASSIFIED),
            ("correct", correct, CORRECT),
        )
    ]
    highest = max([error, *(float(value) for group in (misclassified, correct) for value in group)])
    layout = {
        "height": 170,
        "margin": {"l": 54, "r": 10, "t": 20, "b": 28},
        "showlegend": False,
        "xaxis": {**AXIS, "nticks": 5, "rangemode": "tozero"},
        "yaxis": {**AXIS, "type": "category"},
        "shapes": [{"type": "line", "x0": error, "x1": error, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 2}}],
        "annotations": [
            {
                "text": "this sample",
                "x": error,
                "xanchor": "right" if error > highest / 2 else "left",
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
        ],
    }
    return {"data": boxes, "layout": shared_layout(layout)}


def rank_sentence(error: float, groups: Mapping[str, Float[np.ndarray, " sample"]]) -> str:
    """Of how many validation samples of each outcome the error is the larger one; empty where there are none."""
    said = [
        f"{percentage(float(np.mean(values < error)))} of the {len(values)} {name}"
        for name, values in groups.items()
        if len(values)
    ]
    return f"Larger than that of {' and of '.join(said)} validation samples." if said else ""


def plain_text(name: str) -> str:
    """A name as plotly's pseudo-HTML, which knows a few elements and entities."""
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("%{", "% {")):
        name = name.replace(letter, entity)
    return name


def shared_layout(layout: Figure) -> Figure:
    """`layout` with what all charts of a page have: no ground of their own, no dragging."""
    clear = "rgba(0,0,0,0)"
    return {
        "font": _FONT,
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "dragmode": False,
        "hovermode": "closest",
        "autosize": True,
        **layout,
    }
