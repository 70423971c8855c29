"""Where a mistake comes from, in one answer: a layer, the input, or no place that can be named.

Two findings are weighed. The departure says that the computation at a layer is unusual, given the layers below it; it
has a p-value and goes first. Otherwise the evidence of the feedforward clusters decides, by where it turns to the wrong
class (`blame`): where it favours that class from the lowest layer on, the network computes as usual, and the input
itself looks like the wrong class.
"""

from dataclasses import dataclass
from typing import Literal

from fer_cli.calibration.departure import Departure

LAYER, INPUT, NONE = "layer", "input", "none"
ANOMALY, TURN = "anomaly", "turn"
OUTCOMES = (LAYER, INPUT, NONE)


@dataclass(frozen=True)
class Answer:
    """One of `OUTCOMES`; `layer` and `why` belong to the first.

    `why` is `anomaly` where the computation is unusual at the layer, `turn` where it is usual and the evidence turns
    there. `p_value` is that of the departure, None where the codebook is too old to tell.
    """

    outcome: Literal["layer", "input", "none"]
    layer: str | None = None
    why: Literal["anomaly", "turn"] | None = None
    p_value: float | None = None


def find_answer(departure: Departure | None, turn: str | None, *, lowest: str) -> Answer:
    """The answer for a sample of which `turn` is the layer where evidence turns to the wrong class.

    `turn` is None where there is no wrong class: of a correct sample, or one of unknown class. `lowest` is the
    network's lowest layer.
    """
    p_value = None if departure is None else departure.p_value
    if departure is not None and departure.is_significant:
        return Answer("layer", departure.layer, "anomaly", p_value)
    if turn is None:
        return Answer("none", p_value=p_value)
    if turn == lowest:
        return Answer("input", p_value=p_value)
    return Answer("layer", turn, "turn", p_value)
