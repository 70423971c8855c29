"""The verdict on one sample: two sentences, which name one layer at most."""

from collections.abc import Mapping

from fer_cli.diagnosis.answer import ANOMALY, INPUT, NONE, Answer
from fer_cli.network.backbone import OUTPUT

Evidence = Mapping[str, Mapping[str, float]]
"""Feedforward evidence by layer below the output, from the lowest up, and by class."""


def verdict(predicted: str, probability: float, label: str | None, *, category: str, where: str, suspicion: str) -> str:
    """Class, kind of case, where it goes wrong, and how unusual it is; the last three are given in words."""
    sure = f"{predicted} (probability {probability:.2f})"
    lead = f"Classified as {sure}"
    if label is None:
        lead += ", its true class not known"
    elif label != predicted:
        lead = f"{_article(label).capitalize()} {label} taken for {_article(predicted)} {sure}"
    return f"{lead}: {category}. {where}; {suspicion}."


def where_words(answer: Answer, evidence: Evidence, predicted: str, label: str | None, like: str | None) -> str:
    """The answer as the beginning of a sentence; `like` is a training sample of the predicted class, much like it."""
    if answer.why == ANOMALY:
        below = "the lowest layer" if answer.layer == next(iter(evidence)) else "and usual below it"
        return f"The computation is unusual at {answer.layer}, {below} (p = {answer.p_value:.3f})"
    if answer.outcome == INPUT:
        sample = f", such as the training sample {like}" if like else ""
        return f"The input itself looks like {_article(predicted)} {predicted}{sample}"
    if answer.outcome == NONE:
        agreeing = sum(max(of, key=lambda name: of[name]) == predicted for of in evidence.values())
        return f"The feedforward clusters of {agreeing} of {len(evidence)} layers speak for {predicted}"
    if answer.layer == OUTPUT:
        return f"The feedforward clusters favour {label} up to the last layer, so the mistake is made in the output"
    layers = list(evidence)
    above = [evidence[name] for name in layers[layers.index(str(answer.layer)) :]]
    wholly = all(of[predicted] >= of[str(label)] for of in above)
    turn = f"The feedforward clusters turn from {label} to {predicted} at {answer.layer}"
    return turn if wholly else f"{turn}, on the whole"


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in ("a", "e", "i", "o") else "a"
