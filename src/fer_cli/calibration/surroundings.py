"""The training samples around a sample, class by class, by the features of the local layer.

They say whether two classes overlap there, whether a class has any training sample like this one, and, with the class
probabilities, how a sample of one class looks that is called another. What is usual comes from the validation samples.
Distances are those to the centroids that the training samples chose (`codebooks.training_codes`).

Source: Cover and Hart, "Nearest neighbor pattern classification", IEEE Transactions on Information Theory 1967.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.calibration.p_value import PredictedClasses
from fer_cli.codebooks.codebook import Codebook
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.network.activations import batches

_DISTANCES = 1 << 22
"""How many distances between samples and training samples are held at once."""
VOTERS = 15
"""So many nearest training samples vote."""
NEAREST = 3
"""The distance to a class is that to so many of its nearest, on average."""
WRONG_LABEL = 0.95
"""Share of the correct validation samples whose probability of another class is not above the threshold."""
MISTAKEN = 0.1
"""`least` is this quantile of the probability that misclassified validation samples give to their own class."""
LESS_SURE = 0.25
"""`sure` is this quantile of the probability that correct validation samples give to their own class."""


@dataclass(frozen=True)
class Neighbourhood:
    """Training samples around samples: mean distance to the `NEAREST` of each class, infinite without any; votes."""

    distance: Float[np.ndarray, "sample klass"]
    vote: Float[np.ndarray, "sample klass"]


def neighbourhood(
    known: TrainingCodes,
    codebook: Codebook,
    features: Float[Tensor, "sample filter x y z"],
    labels: Int[np.ndarray, " training"],
    classes: int,
) -> Neighbourhood:
    """The training samples around samples with these features at the local layer; `labels` are theirs."""
    features = features.detach().cpu().float()
    distance = np.full((len(features), classes), np.inf)
    vote = np.zeros((len(features), classes))
    rows_of = [np.flatnonzero(labels == klass) for klass in range(classes)]
    for part in batches(np.arange(len(features)), max(1, _DISTANCES // max(1, len(labels)))):
        away = np.sqrt(known.squares(codebook, features[part]))
        for klass, rows in enumerate(rows_of):
            if len(rows):
                distance[part, klass] = _smallest(away[:, rows], NEAREST).mean(axis=1)
        if not len(labels):
            continue
        last = _smallest(away, VOTERS)[:, -1]
        for row, of_row, most in zip(part, away, last, strict=True):
            near = np.flatnonzero(of_row <= most)
            voters = labels[near[np.argsort(of_row[near], kind="stable")[:VOTERS]]]
            vote[row] = np.bincount(voters, minlength=classes) / len(voters)
    return Neighbourhood(distance, vote)


def _smallest(rows: Float[np.ndarray, "row number"], count: int) -> Float[np.ndarray, "row _"]:
    """The smallest numbers of each row, ascending."""
    count = min(count, rows.shape[1])
    return np.sort(np.partition(rows, count - 1, axis=1)[:, :count], axis=1)


@dataclass(frozen=True)
class Surroundings:
    """What is usual: the neighbourhoods of the validation samples, their labels, predictions and class probabilities.

    The probabilities are means over views where samples are varied.
    """

    known: TrainingCodes
    labels: Int[np.ndarray, " training"]
    validation: Neighbourhood
    label: Int[np.ndarray, " validation"]
    predicted: Int[np.ndarray, " validation"]
    probability: Float[np.ndarray, "validation klass"]

    def around(self, codebook: Codebook, features: Float[Tensor, "sample filter x y z"]) -> Neighbourhood:
        """The training samples around other samples."""
        return neighbourhood(self.known, codebook, features, self.labels, self.classes)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.probability.shape[1]

    def far_from(self, klass: int, distance: float) -> float:
        """p-value of so long a distance to the training samples of a class, among validation samples of that class."""
        own = self._own_distances
        usable = np.flatnonzero(np.isfinite(own))
        if not np.isfinite(distance):
            return 1 / (len(usable) + 1)
        reference = PredictedClasses(self.label, self.classes).only(usable)
        [p_value] = reference.p_values(
            np.log(np.array([distance]) + _TINY), np.array([klass]), np.log(own[usable] + _TINY)
        )
        return float(p_value)

    def overlap(self, one: int, other: int) -> float:
        """Mean share of the votes that correct validation samples of one class give the other, the larger of both ways.

        A misclassified one may have a wrong label.
        """
        return float(max(self._votes_between[one, other], self._votes_between[other, one]))

    @cached_property
    def unlikely(self) -> float:
        """Probability that correct validation samples give to a class that is not theirs; 95 % give less.

        A sample that gives its own label less looks as one of another class does.
        """
        correct = self.label == self.predicted
        others = np.arange(self.classes)[None] != self.label[correct, None]
        given = self.probability[correct][others]
        return float(np.quantile(given, WRONG_LABEL)) if len(given) else 0.0

    @cached_property
    def least(self) -> float:
        """Probability that misclassified validation samples give to their own class; nine in ten give as much or more.

        0 with fewer than ten of them.
        """
        wrong = np.flatnonzero(self.label != self.predicted)
        given = self.probability[wrong, self.label[wrong]]
        return float(np.quantile(given, MISTAKEN, method="lower")) if len(given) >= 1 / MISTAKEN else 0.0

    @cached_property
    def sure(self) -> float:
        """Probability that three in four correct validation samples give to their class or more; 1 without any."""
        correct = self.label == self.predicted
        given = self.probability[correct, self.label[correct]]
        return float(np.quantile(given, LESS_SURE, method="lower")) if len(given) else 1.0

    @cached_property
    def _own_distances(self) -> Float[np.ndarray, " validation"]:
        own: Float[np.ndarray, " validation"] = self.validation.distance[np.arange(len(self.label)), self.label]
        return own

    @cached_property
    def _votes_between(self) -> Float[np.ndarray, "klass klass"]:
        votes, correct = np.zeros((self.classes, self.classes)), self.label == self.predicted
        np.add.at(votes, self.label[correct], self.validation.vote[correct])
        counts = np.bincount(self.label[correct], minlength=self.classes)[:, None]
        between: Float[np.ndarray, "klass klass"] = votes / np.maximum(counts, 1)
        return between


_TINY = float(np.finfo(np.float32).tiny)
