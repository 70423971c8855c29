"""Which misclassified samples of a split are explained: all, or those of some pairs of classes, a cause, the first few.

The cause and the suspicion of a sample are known once it is read, so that these cost a pass over the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fer_cli.artifacts import RunArtifacts
from fer_cli.data.sample_input import class_index
from fer_cli.diagnosis.cause import CAUSES
from fer_cli.diagnosis.explain import explain, suspicion_of
from fer_cli.errors import UsageError
from fer_cli.network.activations import predict_samples

Count = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Selection:
    """What is wanted of a split's mistakes: `pairs` of classes, as `TRUE,PREDICTED`, a cause, how many.

    Where nothing is given all are wanted. Of more than `limit` the most suspicious are taken.
    """

    split: str = "test"
    pairs: tuple[str, ...] = ()
    cause: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if "," not in pair:
                raise UsageError(f"--pair takes TRUE,PREDICTED, two classes with a comma between them, got {pair!r}.")

    @property
    def words(self) -> str:
        """What the samples are, as a noun in the plural."""
        parts = [f"misclassified samples of the split {self.split}"]
        parts += [" or ".join(" taken for ".join(pair.split(",", 1)) for pair in self.pairs)] if self.pairs else []
        parts += [CAUSES[self.cause]] if self.cause else []
        return ", ".join([*parts, "the most suspicious"] if self.limit else parts)


def misclassified(run: RunArtifacts, split: str) -> list[str]:
    """Names of the samples of a split that the network gets wrong, in their order. Raises UsageError if it is empty."""
    return [name for name, _, _ in _mistakes(run, split)]


def select(run: RunArtifacts, wanted: Selection, *, views: int | None = None, progress: Count) -> list[str]:
    """Names of the mistakes that are wanted: in their order, or of a limited number the most suspicious first.

    `progress` is told of (samples read, samples to be read).

    Raises UsageError for a class that the network does not know, and where the split is empty.
    """
    pairs = {_pair(pair, run.network.spec.classes) for pair in wanted.pairs}
    names = [name for name, *pair in _mistakes(run, wanted.split) if not pairs or tuple(pair) in pairs]
    if wanted.cause is None and (wanted.limit is None or len(names) <= wanted.limit):
        return names
    found: list[tuple[str, float]] = []
    for number, name in enumerate(names):
        progress(number, len(names))
        sample = run.sample(name)
        if wanted.cause is None:
            found.append((name, suspicion_of(run, sample, views).score))
            continue
        diagnosis = explain(run, sample, views=views)
        if diagnosis.cause.name == wanted.cause:
            found.append((name, diagnosis.suspicion.score))
    progress(len(names), len(names))
    if wanted.limit is None:
        return [name for name, _ in found]
    return [name for name, _ in sorted(found, key=lambda each: -each[1])[: wanted.limit]]


def _mistakes(run: RunArtifacts, split: str) -> Iterator[tuple[str, int, int]]:
    """The misclassified samples of a split: name, true class, predicted class."""
    indices, labels = run.voxels.indices(split), run.voxels.labels
    probabilities = predict_samples(run.network, run.voxels, indices)
    for index, predicted in zip(indices, probabilities.argmax(axis=1), strict=True):
        if predicted != labels[index]:
            yield run.voxels.names[index], int(labels[index]), int(predicted)


def _pair(text: str, classes: Sequence[str]) -> tuple[int, int]:
    """The two classes of `TRUE,PREDICTED`; names may hold commas themselves."""
    parts = text.split(",")
    for at in range(1, len(parts)):
        first, second = ",".join(parts[:at]).strip(), ",".join(parts[at:]).strip()
        if first in classes and second in classes:
            return class_index(first, classes), class_index(second, classes)
    first, _, second = text.partition(",")
    return class_index(first.strip(), classes), class_index(second.strip(), classes)
