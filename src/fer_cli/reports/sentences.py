"""The words of a diagnosis: the answer, the nearest training samples, the repair test, the suspicion.

Each as sentences for a page, or short, as a line for a terminal.
"""

from fer_cli.calibration.confidence import VIEWS
from fer_cli.data.turning import TURNS
from fer_cli.diagnosis.answer import ANOMALY, INPUT, NONE
from fer_cli.diagnosis.cause import NONE as NO_CAUSE
from fer_cli.diagnosis.cause import Cause
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.repair import RANDOM_DRAWS, RepairTest
from fer_cli.diagnosis.verdict import hedge_of
from fer_cli.diagnosis.wording import with_article
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.backbone import OUTPUT
from fer_cli.pictures.slices import middle_of
from fer_cli.reports.tables import printable, signed


def where_heading(diagnosis: Diagnosis) -> str:
    """What the answer is to: only a mistake goes wrong somewhere, and what is unusual need not have made it."""
    usual = diagnosis.answer.why != ANOMALY
    return "Where it goes wrong" if diagnosis.correct is False and usual else "Where it is unusual"


def answer_sentence(diagnosis: Diagnosis) -> str:
    """What the answer rests on; it names no layer."""
    answer, predicted, label = diagnosis.answer, diagnosis.predicted, diagnosis.label
    if answer.why == ANOMALY:
        names = [layer.name for layer in diagnosis.layers]
        turn = diagnosis.blame.layer
        turned = turn is not None and names.index(turn) < names.index(str(answer.layer))
        before = f" The clusters favour {predicted} already below." if turned else ""
        return f"The computation departs from the usual, most likely here (p = {answer.p_value:.3f}).{before}"
    usual = " Run 'fer calibrate' to learn whether a layer's computation is unusual."
    if answer.p_value is not None:
        usual = f" Each layer computes as usual, given those below it (p = {answer.p_value:.2f})."
    if answer.outcome == NONE:
        return f"{'The prediction is correct' if diagnosis.correct else 'The true class is not known'}.{usual}"
    evidence = {layer.name: layer.paths[FEEDFORWARD].evidence for layer in diagnosis.layers[:-1]}
    hedge = hedge_of(answer, evidence, predicted, str(label), diagnosis.blame.margin)
    if answer.layer == OUTPUT:
        return f"The evidence favours {label} to the last{hedge}; the output says {predicted}.{_doubt(hedge)}{usual}"
    begins = "the lowest layer" if answer.outcome == INPUT else "here"
    return f"Of the two classes the evidence favours {predicted} from {begins} on{hedge}.{_doubt(hedge)}{usual}"


def _doubt(hedge: str) -> str:
    """What the words that hedge an answer mean."""
    disagreeing = " Not every layer agrees (evidence by layer, below)." if "on the whole" in hedge else ""
    return disagreeing + (" Another layer is nearly as likely to be the place." if "narrowly" in hedge else "")


def short_cause(cause: Cause) -> str:
    """What the likely cause is called, and how strong its evidence is."""
    return cause.words if cause.name == NO_CAUSE else f"{cause.words} ({cause.strength})"


def short_answer(diagnosis: Diagnosis) -> str:
    """The same in a line, with the first place: a voxel of the input, or a location of the layer."""
    answer, where = diagnosis.answer, _short_places(diagnosis)
    if answer.why == ANOMALY:
        return f"{printable(str(answer.layer))}{where}: computation unusual, p {answer.p_value:.3f}"
    usual = "run 'fer calibrate' to test the computation"
    if answer.p_value is not None:
        usual = f"computation usual, p {answer.p_value:.3f}"
    if answer.outcome == NONE:
        return usual if answer.p_value is None else f"nowhere: {usual}"
    if answer.outcome == INPUT:
        return f"input{where}: {usual}"
    return f"{printable(str(answer.layer))}{where}: evidence turns; {usual}"


def short_pose(diagnosis: Diagnosis) -> str | None:
    """The pose in which a sample is recognised, and the option that reads its file so; None if there is none."""
    pose = diagnosis.recognised_pose
    if pose is None:
        return None
    up = next((axis for axis, turn in TURNS.items() if turn == pose.turns), None)
    hint = f": try --up {up}" if up and diagnosis.turned_from == "z" else ""
    return f"turned {pose.turns} it is {with_article(pose.klass)} ({pose.probability:.2f}){hint}"


def _short_places(diagnosis: Diagnosis) -> str:
    """The first place, and how many more there are; nothing where it is the whole input."""
    places = diagnosis.places
    if diagnosis.sees_everything or not places.locations:
        return ""
    whole = diagnosis.answer.outcome == INPUT
    first = ",".join(map(str, middle_of(places.boxes[0]) if whole else places.locations[0]))
    more = len(places.locations) - 1
    return f" at {'voxel ' if whole else ''}{first}{f' (+{more})' if more else ''}"


def repair_sentence(test: RepairTest, predicted: str) -> str:
    """What a repair test of a sample that was `predicted` did, and what came of it."""
    chosen = "the true class" if test.chosen_by == "label" else "the class that the clusters imply"
    still = "still " if test.predicted == predicted else ""
    return (
        f"{_outcome(test, predicted)}. With the features of {test.donor} ({test.wanted}, {chosen}) at {test.replaced} "
        f"of the {test.locations} locations of {test.layer}, those that push most towards the class predicted, the "
        f"network {still}says {test.predicted}, at probability {test.probability:.2f}. "
        f"The log odds of {test.wanted} change by {signed(test.gain)} nats: {_against_random(test)}."
    )


def short_repair(test: RepairTest, predicted: str) -> str:
    """The same in a line; the donor is named where it repaired the prediction."""
    where = f"{test.replaced} of {test.locations} of {test.layer}"
    if test.repaired:
        says = f"{printable(predicted)} → {printable(test.predicted)}"
        return f"{says} with {where} from {printable(test.donor)}; p {test.p_value:.3f}"
    failed = printable(_outcome(test, predicted))
    return f"{failed[:1].lower()}{failed[1:]}, with {where}; p {test.p_value:.3f}"


def _outcome(test: RepairTest, predicted: str) -> str:
    """Whether the prediction was repaired; if not, what the network says in its place."""
    if test.repaired:  # the class that the clusters imply need not be the true one
        return f"{'Repaired' if test.chosen_by == 'label' else 'Changed'}: {predicted} → {test.predicted}"
    said = f"still {predicted}" if test.predicted == predicted else f"{predicted} → {test.predicted}"
    if test.chosen_by != "label":
        return f"Not changed to {test.wanted}: {said}"
    return f"Failed: {said}, not {test.wanted}"


def _against_random(test: RepairTest) -> str:
    """The p-value of a repair test; below the lowest there is no better one."""
    if test.p_value <= 1 / (1 + RANDOM_DRAWS):
        return f"more than by any of {RANDOM_DRAWS} random choices of as many locations (p = {test.p_value:.3f})"
    return f"p = {test.p_value:.3f} against {RANDOM_DRAWS} random choices of as many locations"


def short_nearest(diagnosis: Diagnosis) -> str:
    """The nearest training sample of the predicted class, and of the true one of a mistake."""
    near = diagnosis.nearest
    of = [near.predicted[:1], near.true[:1] if diagnosis.correct is False else ()]
    return " · ".join(printable(name) for names in of for name in names) or "–"


def suspicion_basis(diagnosis: Diagnosis) -> str:
    """What suspicion goes by; the two kinds differ in scale."""
    suspicion = diagnosis.suspicion
    if suspicion.by == VIEWS:
        return f"It is 1 minus the mean probability of {diagnosis.predicted} over the views."
    return f"The rank of {suspicion.by} among validation samples: the calibration holds no views ('fer calibrate')."
