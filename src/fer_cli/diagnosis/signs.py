"""Reads from a run the evidence about one sample that the rules of `cause` need."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.departure import Departure
from fer_cli.calibration.surroundings import Neighbourhood, Surroundings
from fer_cli.codebooks.reading import Reading
from fer_cli.data.statistics import input_statistics
from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis.cause import SURE, Around, PoseFound, Signs
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.network.poses import probabilities_by_pose

USUAL = 0.05
"""p-value of the distance to a class from which on a sample lies as near to it as usual."""
_LIKELY = 0.5
"""Probability that a pose has to reach at least: above it no other class is as probable."""
_AS_GOOD = 0.05
"""A pose of fewer turns is taken if its probability is less by at most so much."""


def read_signs(
    run: RunArtifacts,
    reading: Reading,
    volumes: Volumes,
    label: int | None,
    *,
    viewed: Float[np.ndarray, " klass"],
    suspicion: float,
    departure: Departure | None,
) -> Signs:
    """Signs of one sample, but for those of the repair test and the names of neighbours.

    `viewed` are its mean class probabilities over views. Other poses are tried of a sample that is or may be a mistake.
    """
    classes, surroundings = run.network.spec.classes, run.surroundings
    predicted = int(reading.predicted[0])
    outliers = run.outliers
    signs = Signs(
        predicted=classes[predicted],
        label=None if label is None else classes[label],
        probabilities=dict(zip(classes, viewed.tolist(), strict=True)),
        suspicion=suspicion,
        outlyingness=None
        if outliers is None
        else outliers.measure(input_statistics(volumes, run.network.spec.input.kind))[0],
        departure=departure,
        around=None,
    )
    if surroundings is None or not signs.may_be_mistake:
        return signs
    rival = classes.index(signs.rival)
    feature = reading.features[FEEDFORWARD][surroundings.known.layer]
    found = surroundings.around(run.codebook, feature)
    pose = _best_pose(run, surroundings, volumes, predicted, label, found.distance[0])
    return replace(
        signs,
        around=_around(run, surroundings, found, predicted, rival),
        pose=pose,
        unlikely=surroundings.unlikely,
        least=surroundings.least,
        sure=min(SURE, max(_LIKELY, surroundings.sure)),
    )


def _around(
    run: RunArtifacts,
    surroundings: Surroundings,
    found: Neighbourhood,
    predicted: int,
    rival: int,
) -> Around:
    classes = run.network.spec.classes
    return Around(
        votes=dict(zip(classes, found.vote[0].tolist(), strict=True)),
        p_far=surroundings.far_from(rival, found.distance[0, rival]),
        p_predicted=surroundings.far_from(predicted, found.distance[0, predicted]),
        overlap=surroundings.overlap(predicted, rival),
    )


def _best_pose(
    run: RunArtifacts,
    surroundings: Surroundings,
    volumes: Volumes,
    predicted: int,
    label: int | None,
    distances: Float[np.ndarray, " klass"],
) -> PoseFound | None:
    """The pose in which the true class, or without a label any class but the predicted one, is most probable.

    `distances` are those to each class's training samples in the pose that the sample has.
    """
    every, probabilities = probabilities_by_pose(run.network, volumes)
    turned = probabilities[1:].copy()
    turned[:, [klass for klass in range(turned.shape[1]) if klass == predicted or label not in (None, klass)]] = -1.0
    if not len(turned) or turned.max() < 0:
        return None
    best = int((turned.max(axis=1) >= turned.max() - _AS_GOOD).argmax())
    klass, pose = int(turned[best].argmax()), every[1 + best]
    layer = surroundings.known.layer
    feature = encode(run.network, pose.apply(volumes), [layer])[layer]
    distance = surroundings.around(run.codebook, feature).distance[0, klass]
    return PoseFound(
        pose.words,
        run.network.spec.classes[klass],
        float(turned[best, klass]),
        is_usual=surroundings.far_from(klass, distance) > USUAL,
        is_nearer=bool(distance < distances[klass]),
    )
