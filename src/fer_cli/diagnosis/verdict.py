"""The verdict on one sample: two sentences. They name at most one layer, that of the answer."""

import math
from collections.abc import Mapping

from fer_cli.diagnosis.answer import ANOMALY, INPUT, NONE, Answer
from fer_cli.diagnosis.wording import with_article
from fer_cli.network.backbone import OUTPUT

NARROW = math.log(3)
"""Nats: odds of three to one."""
Evidence = Mapping[str, Mapping[str, float]]
"""Feedforward evidence by layer below the output, from the lowest up, and by class."""


def verdict(predicted: str, probability: float, label: str | None, *, kind: str, where: str, suspicion: str) -> str:
    """The sentences, from the predicted and the true class and three parts that are given in words.

    `kind` ends the first sentence, with its punctuation: the likely cause, as `because` says it, or the kind of case
    after a colon. `where` says where it goes wrong, `suspicion` how unusual the sample is.
    """
    sure = f"{predicted} (probability {probability:.2f})"
    lead = f"Classified as {sure}"
    if label is None:
        lead += ", its true class not known"
    elif label != predicted:
        lead = f"{with_article(label)} taken for {with_article(sure)}"
    return f"{lead[:1].upper()}{lead[1:]}{kind}. {where}; {suspicion}."


def where_words(
    answer: Answer,
    evidence: Evidence,
    predicted: str,
    label: str | None,
    *,
    like: str | None = None,
    margin: float | None = None,
) -> str:
    """The answer as the beginning of a sentence.

    `like` is a training sample of the predicted class, much like this one, `margin` the blame's.
    """
    if answer.why == ANOMALY:
        return f"The computation departs from the usual, most likely at {answer.layer} (p = {answer.p_value:.3f})"
    if answer.outcome == NONE:
        agreeing = sum(max(of, key=lambda name: of[name]) == predicted for of in evidence.values())
        return f"The clusters of {agreeing} of {len(evidence)} layers speak for {predicted}"
    hedge = hedge_of(answer, evidence, predicted, str(label), margin)
    if answer.outcome == INPUT:
        sample = f", such as the training sample {like}" if like else ""
        return f"The input itself looks like {with_article(predicted)}{hedge}{sample}"
    if answer.layer == OUTPUT:
        return f"The evidence favours {label} to the last{hedge}, and yet the network says {predicted}"
    return f"Between the two the evidence turns from {label} to {predicted} at {answer.layer}{hedge}"


def hedge_of(answer: Answer, evidence: Evidence, predicted: str, label: str, margin: float | None) -> str:
    """What is added to an answer that follows the evidence, where some layer says otherwise or another one is near.

    "on the whole": a layer below the turn favours the class predicted, or one from it on the true class. "narrowly":
    the evidence is less than `NARROW` nats ahead of a turn at the next best layer.
    """
    layers = list(evidence)
    turn = 0 if answer.outcome == INPUT else layers.index(answer.layer) if answer.layer in layers else len(layers)
    leads = [evidence[name][predicted] - evidence[name][label] for name in layers]
    wholly = all(lead <= 0 for lead in leads[:turn]) and all(lead >= 0 for lead in leads[turn:])
    narrow = margin is not None and margin < NARROW
    return f"{'' if wholly else ', on the whole'}{', narrowly' if narrow else ''}"
