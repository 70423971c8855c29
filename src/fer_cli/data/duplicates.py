"""Samples whose grids are identical, voxel for voxel: which they are, how many, and which of them to leave out.

Identical means in the grid that is stored; shapes that only look alike, or become alike when pooled, are not meant.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class DuplicateCounts:
    """How many samples repeat another.

    `within_train` and `within_test` count samples identical to an earlier one of the same split, `train_and_test` test
    samples identical to a training sample, `of_unlabelled` unlabelled samples identical to any earlier sample;
    `across_classes` counts the grids that samples of more than one class share.
    """

    within_train: int
    within_test: int
    train_and_test: int
    of_unlabelled: int
    across_classes: int


def find_duplicates(digests: Sequence[Hashable], content: Callable[[int], bytes]) -> Int64[np.ndarray, " sample"]:
    """For every sample the first one with the same content, −1 where it is itself the first.

    `digests` are hashes of the contents; `content` is asked for the content of samples whose hashes agree.
    """
    first = np.full(len(digests), -1, np.int64)
    known: dict[Hashable, list[int]] = defaultdict(list)
    for sample, digest in enumerate(digests):
        candidates = known[digest]
        same = next((other for other in candidates if content(other) == content(sample)), None)
        if same is None:
            candidates.append(sample)
        else:
            first[sample] = same
    return first


def count_duplicates(
    duplicate_of: Int64[np.ndarray, " sample"], splits: Sequence[str], classes: Sequence[Hashable]
) -> DuplicateCounts:
    """Count what `find_duplicates` found; `classes` are the samples' classes or labels."""
    within = {"train": 0, "test": 0}
    across = of_unlabelled = across_classes = 0
    for group in _groups(duplicate_of):
        counts = {split: sum(splits[sample] == split for sample in group) for split in within}
        for split, count in counts.items():
            within[split] += max(0, count - 1)
        across += counts["test"] if counts["train"] else 0
        of_unlabelled += sum(splits[sample] == "unlabelled" for sample in group[1:])
        across_classes += len({classes[sample] for sample in group if splits[sample] in within}) > 1
    return DuplicateCounts(within["train"], within["test"], across, of_unlabelled, across_classes)


def redundant_samples(duplicate_of: Int64[np.ndarray, " sample"], splits: Sequence[str]) -> dict[int, int]:
    """Training samples to leave out, each with the sample that stays for it.

    A training sample goes if a test sample is identical, and else if an earlier training sample is. Test and
    unlabelled samples stay.
    """
    redundant = {}
    for group in _groups(duplicate_of):
        keeper = next((sample for sample in group if splits[sample] == "test"), None)
        for sample in group:
            if splits[sample] != "train":
                continue
            if keeper is None:
                keeper = sample
            else:
                redundant[sample] = keeper
    return redundant


def _groups(duplicate_of: Int64[np.ndarray, " sample"]) -> Iterator[list[int]]:
    """Samples that are identical to one another, ascending, wherever there are two."""
    groups: dict[int, list[int]] = {}
    for sample in np.flatnonzero(duplicate_of >= 0).tolist():
        first = int(duplicate_of[sample])
        groups.setdefault(first, [first]).append(sample)
    yield from groups.values()
