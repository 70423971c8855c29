"""Confidence scores from how a sample's features lie among those of training samples: published baselines.

Every score is high where the prediction looks trustworthy. Each is written from its definition (`docs/adr/0014`).
`features` have axes (sample, number), `training` (training sample, number); distances are Euclidean. The training
features may be spooled: they are read a block at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import logsumexp

from fer_cli.codebooks.lookup import nearest_rows
from fer_cli.storage.spooled import SpooledRows

Features = Float[np.ndarray, "sample number"]
Training = Float[np.ndarray, "training number"] | SpooledRows
Labels = Int[np.ndarray, " training"]
Predicted = Int[np.ndarray, " sample"]
Scores = Float[np.ndarray, " sample"]

NEIGHBOURS = (1, 5, 10, 25, 50, 75)
"""Numbers of neighbours that are tried."""
_CPU = torch.device("cpu")
_RIDGE = 1e-6
_NUMBERS = 1 << 22
"""Numbers of training features that are read at once."""


def mahalanobis(features: Features, training: Training, labels: Labels) -> Scores:
    """Less the squared Mahalanobis distance to the nearest class mean, the covariance shared by the classes.

    Source: Lee et al., NeurIPS 2018, on one layer and without perturbing the input.
    """
    return -_mahalanobis_distances(features, training, labels).min(axis=1)


def relative_mahalanobis(features: Features, training: Training, labels: Labels) -> Scores:
    """The same, each distance less that to the mean of all classes under the covariance of all samples.

    Source: Ren et al., "A Simple Fix to Mahalanobis Distance", 2021.
    """
    everything = np.zeros_like(labels)
    common = _mahalanobis_distances(features, training, everything)
    return -(_mahalanobis_distances(features, training, labels) - common).min(axis=1)


def neighbour_distances(
    features: Features, training: Training, most: int, device: torch.device = _CPU
) -> Float[np.ndarray, "sample neighbour"]:
    """Distances to the nearest training features, all of length one, ascending."""
    squared, _ = _nearest(features, training, most, device)
    return np.sqrt(np.maximum(squared, 0.0, dtype=np.float64))


def neighbour_distance(distances: Float[np.ndarray, "sample neighbour"], k: int) -> Scores:
    """Less the distance to the k-th nearest training feature. Source: Sun et al., ICML 2022."""
    return -distances[:, min(k, distances.shape[1]) - 1]


def neighbour_labels(
    features: Features, training: Training, labels: Labels, most: int, device: torch.device = _CPU
) -> Int[np.ndarray, "sample neighbour"]:
    """Classes of the nearest training features by cosine, the nearest first."""
    return labels[_nearest(features, training, most, device)[1]]


def nonconformity(
    neighbours: Sequence[Int[np.ndarray, "sample neighbour"]], k: int, classes: int
) -> Int[np.ndarray, "sample klass"]:
    """How many of the k nearest training features of all layers are not of a class.

    Source: Papernot and McDaniel, "Deep k-Nearest Neighbors", 2018, equation 1.
    """
    counts = [(labels[:, :k, None] != np.arange(classes)).sum(axis=1) for labels in neighbours]
    return np.sum(counts, axis=0)


def credibility(
    nonconforming: Int[np.ndarray, "sample klass"], predicted: Predicted, reference: Int[np.ndarray, " validation"]
) -> Scores:
    """Share of the held-out samples whose nonconformity with their true class is at least that with the prediction.

    Source: Papernot and McDaniel, equation 2, for the network's class.
    """
    own = nonconforming[np.arange(len(predicted)), predicted]
    return 1 - np.searchsorted(np.sort(reference), own, side="left") / len(reference)


def virtual_logit(
    features: Features,
    logits: Float[np.ndarray, "sample klass"],
    training: Training,
    training_logits: Float[np.ndarray, "training klass"],
    weight: Float[np.ndarray, "klass number"],
    bias: Float[np.ndarray, " klass"],
) -> Scores:
    """Energy of the logits less the scaled length of what the features' principal subspace leaves of a feature.

    `weight` and `bias` are those of the output layer. The subspace has half as many dimensions as the features.
    Source: Wang et al., "ViM", CVPR 2022.
    """
    origin = -np.linalg.pinv(weight.astype(np.float64)) @ bias
    scatter = sum((block - origin).T @ (block - origin) for _, block in _blocks(training))
    _, vectors = np.linalg.eigh(scatter)
    left_out = vectors[:, : features.shape[1] - features.shape[1] // 2]  # eigenvalues ascend
    lengths = [np.linalg.norm((block - origin) @ left_out, axis=1) for _, block in _blocks(training)]
    typical = np.concatenate(lengths).mean()
    scale = training_logits.max(axis=1).mean() / max(typical, np.finfo(np.float64).tiny)
    residual = np.linalg.norm((features - origin) @ left_out, axis=1)
    return logsumexp(logits.astype(np.float64), axis=1) - scale * residual


def trust_score(distances: Float[np.ndarray, "sample klass"], predicted: Predicted) -> Scores:
    """Distance to the nearest training sample of another class, over that to the nearest of the predicted one.

    `distances` are to the nearest training sample of each class. Source: Jiang et al., "To Trust Or Not To Trust A
    Classifier", NeurIPS 2018, without leaving out samples in thin regions.
    """
    rows = np.arange(len(predicted))
    others = distances.astype(np.float64)
    others[rows, predicted] = np.inf
    return others.min(axis=1) / np.maximum(distances[rows, predicted], np.finfo(np.float32).tiny)


def class_distances(
    features: Features, training: Training, labels: Labels, classes: int, device: torch.device = _CPU
) -> Float[np.ndarray, "sample klass"]:
    """Distance to the nearest training feature of each class, infinite for a class without one."""
    table = np.full((len(features), classes), np.inf)
    for part, block in _blocks(training):
        for label in np.unique(labels[part]):
            squared, _ = nearest_rows(features, block[labels[part] == label], 1, device)
            table[:, label] = np.minimum(table[:, label], np.sqrt(np.maximum(squared[:, 0], 0.0)))
    return table


def unit(vectors: Float[np.ndarray, "row number"]) -> Float[np.ndarray, "row number"]:
    """Rows brought to a Euclidean length of one; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _mahalanobis_distances(features: Features, training: Training, labels: Labels) -> Float[np.ndarray, "sample klass"]:
    """Squared distances to the mean of each class that has a sample."""
    known, row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(known), features.shape[1]))
    for part, block in _blocks(training):
        for place in np.unique(row[part]):
            sums[place] += block[row[part] == place].sum(axis=0, dtype=np.float64)
    means = sums / counts[:, None]
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for part, block in _blocks(training):
        centred = block - means[row[part]]
        covariance += centred.T @ centred
    covariance /= len(training)
    # Filters that never vary have no variance to divide by.
    covariance += np.eye(len(covariance)) * (_RIDGE * max(np.trace(covariance) / len(covariance), 1e-12))
    precision = np.linalg.inv(covariance)
    offsets = features[:, None] - means
    return np.einsum("scn,nm,scm->sc", offsets, precision, offsets, optimize=True)


def _blocks(training: Training) -> Iterator[tuple[slice, Float[np.ndarray, "block number"]]]:
    """Consecutive rows of the training features, with their place among all."""
    rows = max(1, _NUMBERS // training.shape[1])
    for start in range(0, len(training), rows):
        part = slice(start, start + rows)
        yield part, training[part]


def _nearest(
    features: Features, training: Training, most: int, device: torch.device
) -> tuple[Float[np.ndarray, "sample neighbour"], Int[np.ndarray, "sample neighbour"]]:
    """Squared distances and indices of the nearest training features, all of length one, ascending."""
    wanted = unit(features)
    nearest: np.ndarray = np.zeros((len(wanted), 0), np.float32)
    indices: np.ndarray = np.zeros((len(wanted), 0), np.int64)
    for part, block in _blocks(training):
        squared, found = nearest_rows(wanted, unit(block), min(most, len(block)), device)
        nearest = np.concatenate([nearest, squared], axis=1)
        indices = np.concatenate([indices, found + part.start], axis=1)
        order = np.argsort(nearest, axis=1, kind="stable")[:, :most]
        nearest, indices = (np.take_along_axis(each, order, axis=1) for each in (nearest, indices))
    return nearest, indices
