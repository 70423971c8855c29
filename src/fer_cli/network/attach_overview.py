"""What `fer attach` finds out about a classifier before it trains: fit to the labels, levels, expected time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment

from fer_cli.data.dataset import VolumeSet
from fer_cli.network.activations import batches, predict
from fer_cli.network.attached.nan_fields import Fields
from fer_cli.network.attached.survey import Candidate
from fer_cli.network.backbone import NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.phases import FeedbackPhase, TrainingData, TrainingSettings

_MISLED = 0.15
"""Accuracy that another order of the classes has to add before it is said."""
_TIMED_STEPS = 3


@dataclass(frozen=True)
class Fit:
    """How a classifier answers labelled training samples.

    `confusion` has axes (label, predicted). `better_order` are the classes in an order of the outputs that fits the
    labels far better, None if there is none; `better_accuracy` the accuracy that it gives.
    """

    accuracy: float
    confusion: Int[np.ndarray, "klass klass"]
    better_order: tuple[str, ...] | None
    better_accuracy: float


@dataclass(frozen=True)
class Overview:
    """What `fer attach` found before it trains: candidates, chosen levels, how the classifier fits the labels.

    `epochs` are those of the training, `seconds` is its expected time, and `level_seconds` what of it goes to the step
    from each level to the one below. By default, `unnameable` activations are passed over, and `above` are the levels
    with the last cut too, where that is not among them.
    """

    spec: NetworkSpec
    fields: Mapping[str, Fields]
    candidates: tuple[Candidate, ...]
    readout: str
    fit: Fit
    training_samples: int
    validation_samples: int
    epochs: int
    seconds: float
    level_seconds: Mapping[str, float]
    resumed_feedback: bool
    unnameable: tuple[str, ...] = ()
    above: tuple[str, ...] | None = None


def fit_of(network: ExplainedNetwork, voxels: VolumeSet, indices: Int[np.ndarray, " chosen"]) -> Fit:
    """How the classifier answers these labelled samples, and the order of its outputs that would fit them best."""
    classes = voxels.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for part in batches(indices):
        predicted = predict(network, voxels.tensor(part)).argmax(1)
        np.add.at(confusion, (voxels.labels[part], predicted), 1)
    accuracy = float(np.trace(confusion) / max(1, confusion.sum()))
    labels, outputs = linear_sum_assignment(-confusion)
    best = float(confusion[labels, outputs].sum() / max(1, confusion.sum()))
    order = None
    if best >= accuracy + _MISLED and best > 1.5 / len(classes):
        place = dict(zip(outputs.tolist(), labels.tolist(), strict=True))
        order = tuple(classes[place[output]] for output in range(len(classes)))
    return Fit(accuracy, confusion, order, best)


def expected_seconds(
    network: ExplainedNetwork, data: TrainingData, settings: TrainingSettings
) -> tuple[float, dict[str, float]]:
    """Time of the whole training, from a few steps that change nothing, and the share of each level's module in it.

    A share is that of the forward pass, which the classifier's own pass is part of.
    """
    phase = FeedbackPhase(data, settings, network, None)
    module = network.feedback.train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    indices = data.training[: settings.batch_size]
    times, forward = [], 0.0
    with module.timed() as by_level:
        for _ in range(_TIMED_STEPS):
            started = time.monotonic()
            loss = torch.stack(list(phase.terms(module, indices, generator).values())).sum()
            forward += time.monotonic() - started
            torch.autograd.backward(loss)
            times.append(time.monotonic() - started)
    module.zero_grad(set_to_none=True)
    module.load_state_dict(state)
    network.feedback.eval()
    steps = max(1, len(data.training) // settings.batch_size) * settings.feedback_epochs
    return min(times) * steps, {name: seconds / forward for name, seconds in by_level.items()}


def warnings(overview: Overview, fitted_on: str) -> list[str]:
    """What a user should know before relying on what was attached, each in one sentence or two."""
    said: list[str] = []
    fit, classes = overview.fit, overview.spec.classes
    if fit.better_order is not None:
        said.append(
            f"the network's classes agree with the labels for {fit.accuracy:.0%} of the training samples, in another "
            f"order for {fit.better_accuracy:.0%}. If that is the order of its outputs, give --classes "
            f"{','.join(fit.better_order)}"
        )
    elif fit.accuracy < 2 / len(classes) and fit.accuracy < 0.6:
        most = int(fit.confusion.sum(0).argmax())
        share = fit.confusion[:, most].sum() / max(1, fit.confusion.sum())
        said.append(
            f"the network's classes agree with the labels for only {fit.accuracy:.0%} of the training samples; it says "
            f"{classes[most]} of {share:.0%}. Are the volumes scaled and oriented as the network was trained on?"
        )
    if any(not level.is_cut for level in overview.spec.levels):
        names = ", ".join(level.name for level in overview.spec.levels if not level.is_cut)
        said.append(f"{names}: no cut; the logits also depend on what goes around it, and a patch keeps that")
    for found_by, why in (
        ("gradient", "estimates from gradients; the network hides NaN"),
        ("noise", "estimates by noise; the network refuses NaN"),
    ):
        names = ", ".join(level.name for level in overview.spec.levels if level.field == found_by)
        if names:
            said.append(f"{names}: receptive fields are {why}")
    if overview.unnameable:
        names = ", ".join(overview.unnameable[:3]) + (", …" if len(overview.unnameable) > 3 else "")
        said.append(f"passed over, for no level can be called so: {names}")
    if overview.above is not None:
        said.append(
            f"{overview.above[-1]} is the last activation that decides the logits, but no level by default: --levels "
            f"{','.join(overview.above)} adds it"
        )
    if fitted_on != "train":
        said.append(
            f"the codebooks will be fitted on the split {fitted_on}: exemplars and evidence are of samples that the "
            "network did not learn from, and evaluation on them would be optimistic"
        )
    return said
