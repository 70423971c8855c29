"""The samples of a source before they are read: unique names, order, classes, splits and groups."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from fer_cli.errors import InputError, UsageError

Label = TypeVar("Label", bound=Hashable)
Split = Literal["train", "val", "test", "unlabelled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "unlabelled")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and tables call the splits, in small letters."""


@dataclass(frozen=True)
class Entry:
    """One shape of a source: unique `name`, `path` inside the source, class (None if unknown) and split.

    `group` is what it belongs to, such as its patient, empty if nothing; `columns` are further ones of a table. `files`
    are its slices where it is a series of them, else none.
    """

    name: str
    path: str
    class_name: str | None
    split: Split
    group: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A shape that is left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Shapes of a source in order of class, split (train first) and name; sorted classes; skipped files.

    `layout` says which folders name class and split, where folders do.

    Raises InputError where the splits that the source gives divide a group.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    layout: str = ""

    def __post_init__(self) -> None:
        _require_whole_groups(self.entries)

    def require_whole(self, *, strict: bool) -> None:
        """Raise InputError if it is `strict` and a file is skipped."""
        if strict and self.skipped:
            raise InputError(f"{self.skipped[0].path}: {self.skipped[0].reason}.")


def listing_of(placed: Sequence[Entry], skipped: Sequence[Skipped], per_class: int | None) -> Listing:
    """Entries under unique names and in order, at most `per_class` of each class and split."""
    entries = sorted(_named(placed), key=_order)
    if per_class is not None:
        entries = list(evenly(entries, per_class))
    classes = sorted({entry.class_name for entry in entries if entry.class_name is not None})
    return Listing(tuple(entries), tuple(classes), tuple(sorted(skipped, key=lambda item: item.path)))


def check_limits(per_class: int | None, test_fraction: float | None) -> None:
    """Raise UsageError for a number of shapes, or a test fraction, that leaves nothing."""
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UsageError(f"a test fraction of {test_fraction:g} leaves nothing to train or test; give 0.2, say.")
    if per_class is not None and per_class < 1:
        raise UsageError(f"{per_class} shapes per class leave none; give at least 1.")


def described(samples: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> dict[str, Sequence[str]]:
    """The datasets of what a table says of samples, given the group and the further columns of each; of both if any."""
    groups, columns = [group for group, _ in samples], [dict(columns) for _, columns in samples]
    texts: dict[str, Sequence[str]] = {"group": groups} if any(groups) else {}
    for column in dict.fromkeys(name for of_sample in columns for name in of_sample):
        texts[f"column/{column}"] = [of_sample.get(column, "") for of_sample in columns]
    return texts


def draw_test(entries: Sequence[Entry], fraction: float, seed: int) -> list[Entry]:
    """The same entries, those with a class and no split having one by chance; no split divides a group.

    Of each class that share is for testing, though at least one shape, and one left for training. With groups the
    share is as near as whole groups come to it.
    """
    units: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    by_class: Counter[str] = Counter()
    for entry in entries:
        if entry.split == "unlabelled" and entry.class_name is not None:
            shape = f"{entry.path.rpartition('/')[0]}/{entry.name}"  # whose files may be of several formats
            units[("group", entry.group) if entry.group else (entry.class_name, shape)].append(entry)
            by_class[entry.class_name] += 1
    wanted = {name: min(max(1, round(fraction * count)), count - 1) for name, count in by_class.items()}
    lots = {
        unit: _lot(seed, "group", unit[1]) if unit[0] == "group" else _lot(seed, unit[0], members[0].name)
        for unit, members in units.items()
    }
    ranked = [units[unit] for unit in sorted(units, key=lambda unit: (lots[unit], unit[1]))]
    chosen = whole_groups([Counter(str(entry.class_name) for entry in members) for members in ranked], wanted)
    testing = {entry.path for number in chosen for entry in ranked[number]}
    placed = {entry.path for members in ranked for entry in members}
    return [
        replace(entry, split="test" if entry.path in testing else "train") if entry.path in placed else entry
        for entry in entries
    ]


def whole_groups(groups: Sequence[Counter[Label]], wanted: Mapping[Label, int]) -> list[int]:
    """Of groups in this order, given as samples by class, the numbers of those taken to get so many of each class.

    A group is taken where it brings the classes nearer to the numbers wanted.
    """
    left, taken = dict(wanted), []
    for number, counts in enumerate(groups):
        if sum(min(count, left[label]) - max(0, count - left[label]) for label, count in counts.items()) > 0:
            left = {label: count - counts[label] for label, count in left.items()}
            taken.append(number)
    return taken


def _lot(seed: int, class_name: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{class_name}\0{name}".encode()).digest()


def _named(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The same entries, with longer names wherever two share one."""
    level = [0] * len(entries)
    while True:
        names = [_name(entry, level[i], i) for i, entry in enumerate(entries)]
        counts = Counter(names)
        if len(counts) == len(names):
            return (replace(entry, name=name) for entry, name in zip(entries, names, strict=True))
        level = [level[i] + (counts[name] > 1) for i, name in enumerate(names)]


def _name(entry: Entry, level: int, position: int) -> str:
    """Stem; with its class or folder; with its split too; the whole path; the path and a number."""
    *folders, file = entry.path.replace("\\", "/").split("/")
    folder = entry.class_name or (folders[-1] if folders else "")
    prefixes: tuple[list[str], ...] = ([], [folder], [folder, entry.split])
    if level < len(prefixes):
        return "_".join([*filter(None, prefixes[level]), entry.name])
    return "_".join([*folders, file]) + f"~{position}" * (level - len(prefixes))


def _order(entry: Entry) -> tuple[str, int, str]:
    return entry.class_name or "", SPLITS.index(entry.split), entry.name


def _require_whole_groups(entries: Sequence[Entry]) -> None:
    """Raise InputError where a group, such as a patient, is in two splits: what is tested would have been seen."""
    first: dict[str, Entry] = {}
    divided: dict[str, Entry] = {}
    for entry in entries:
        if not entry.group or entry.split == "unlabelled":
            continue
        if first.setdefault(entry.group, entry).split != entry.split:
            divided.setdefault(entry.group, entry)
    if divided:
        group, other = next(iter(divided.items()))
        one = first[group]
        more = f", and {len(divided) - 1} more groups" if len(divided) > 1 else ""
        raise InputError(
            f"the group {group} is in two splits: {one.path} in {one.split}, {other.path} in {other.split}{more}. No "
            "split may divide a group; correct the splits, or leave them out and give --test-fraction."
        )


def evenly(entries: Sequence[Entry], count: int) -> Iterator[Entry]:
    """At most `count` entries of each class and split, evenly spaced."""
    groups: dict[tuple[str | None, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.class_name, entry.split].append(entry)
    for group in groups.values():
        chosen = min(count, len(group))
        yield from (group[i * len(group) // chosen] for i in range(chosen))
