"""Where the files of a source lie → classes and splits, decided from the whole listing and not file by file.

A level is a position among the folders of a path: 0 is outermost, −1 is the source itself. A level whose folders are
all called `train`, `val` or `test` is that of the split; the class stands above or below it. Without a split, the level
whose names differ is that of the class, unless each of its folders holds one shape (ShapeNetCore's
`<synset>/<id>/models/`). A folder of a resolution (3DShapeNets' `<class>/30/<split>/`) does not count. An archive in a
folder counts as a folder (`chair.zip` as `chair`). What cannot be decided is refused with the possible layouts.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fer_cli.data.entries import SPLIT_WORDS, Entry, Split
from fer_cli.errors import InputError, UsageError

_RESOLUTIONS = range(8, 513)
_MOST_LEVELS = 64
_NAMED = 4

Folders = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The levels of the class and of the split; None where there is none."""

    class_level: int | None
    split_level: int | None

    def __str__(self) -> str:
        words = {
            level: word for word, level in (("class", self.class_level), ("split", self.split_level)) if level != -1
        }
        levels = [level for level in words if level is not None]
        return "/".join(words.get(level, "*") for level in range(max(levels) + 1)) if levels else "none"

    def of(self, folders: Folders, root: str) -> tuple[str | None, str | None]:
        """The names of the class's and of the split's folder, of a shape in these folders."""
        found = (
            None if level is None else root if level < 0 else folders[level] if level < len(folders) else None
            for level in (self.class_level, self.split_level)
        )
        class_name, split = found
        return class_name, split


def parse_layout(text: str) -> Layout:
    """The layout that a user gives, such as `split/class` or `class/*/split`. Raises UsageError for any other text."""
    words = text.strip().strip("/").split("/")
    if words == ["none"]:
        return Layout(None, None)
    levels = {word: level for level, word in enumerate(words) if word != "*"}
    known = levels.keys() <= {"class", "split"} and levels and len(levels) == len(words) - words.count("*")
    if not known or len(words) > _MOST_LEVELS:
        raise UsageError(
            f"--layout {text!r} is no layout; give the folders from the outermost on, such as class/split, "
            "split/class, class, */class/split, or none."
        )
    return Layout(levels.get("class", -1), levels.get("split"))


def place(entries: Sequence[Entry], root: str, given: Layout | None = None) -> tuple[list[Entry], Layout]:
    """The same entries with the class and split that their folders name, and the layout; `root` is the source's name.

    An entry without a split keeps the class that its folder names, if there is one.

    Raises InputError where the folders can be read in more than one way, and no layout is `given`.
    """
    rows = _rows_of(entries)
    stems = [entry.path.replace("\\", "/").rpartition("/")[2].partition(".")[0] for entry in entries]
    layout = given or _Listing(rows, stems, root).layout()
    placed = []
    for entry, folders in zip(entries, rows, strict=True):
        class_name, word = layout.of(folders, _readable(root))
        split: Split = SPLIT_WORDS.get(word.lower(), "unlabelled") if word else "unlabelled"
        if class_name is None or (
            split == "unlabelled" and layout.split_level is not None and layout.class_level == -1
        ):
            class_name, split = None, "unlabelled"
        placed.append(replace(entry, class_name=class_name, split=split))
    return placed, layout


def formats_of_one_shape(entries: Sequence[Entry], layout: Layout) -> list[tuple[Entry, ...]]:
    """Entries that are one shape in several formats: files of one name in a folder that is the shape's own."""
    deepest = max(layout.class_level or 0, layout.split_level or 0)
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry, folders in zip(entries, _without_wrapping(entries), strict=True):
        folder, _, file = entry.path.replace("\\", "/").rpartition("/")
        if not entry.files and len(folders) > deepest + 1:
            groups[folder, file.partition(".")[0]].append(entry)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def folders_of(path: str) -> Folders:
    """The folders of a path, in text that can be stored: a file's name need not be UTF-8."""
    return tuple(part for part in _readable(path).replace("\\", "/").split("/")[:-1] if part not in ("", "."))


def _rows_of(entries: Sequence[Entry]) -> list[Folders]:
    """The folders that may name class and split, of each entry."""
    return _without_resolutions(_without_wrapping(entries))


def _without_wrapping(entries: Sequence[Entry]) -> list[Folders]:
    """The folders of each entry, archives called as folders: `chair.zip` as `chair`.

    Where an archive holds one folder of its own name (`chair.zip/chair/`), the two are one.
    """
    rows = [folders_of(entry.path) for entry in entries]
    inside: dict[Folders, set[str]] = defaultdict(set)
    for row in rows:
        for level, name in enumerate(row):
            if _is_archive(name):
                inside[row[: level + 1]].add(row[level + 1] if len(row) > level + 1 else "")
    wrapped = {archive for archive, names in inside.items() if names == {_stem(archive[-1])}}
    return [
        tuple(
            _stem(name) if _is_archive(name) else name for level, name in enumerate(row) if row[:level] not in wrapped
        )
        for row in rows
    ]


def _is_archive(name: str) -> bool:
    return name.lower().endswith(".zip") and len(name) > len(".zip")


def _stem(archive: str) -> str:
    return archive[: -len(".zip")]


def _readable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _is_split(name: str) -> bool:
    return name.lower() in SPLIT_WORDS


def _without_resolutions(rows: Sequence[Folders]) -> list[Folders]:
    """The same folders without those of a resolution: one number, between class and split or above the files."""
    kept = list(rows)
    for level in range(min(_MOST_LEVELS, max(map(len, kept), default=0)) - 1, -1, -1):
        reach = [row for row in kept if len(row) > level]
        names = {row[level] for row in reach}
        numbers = {name for name in names if name.isascii() and name.isdecimal()}
        if len(numbers) != 1 or not all(map(_is_split, names - numbers)):
            continue
        (number,) = numbers
        stands = all(
            (level == 0 or not _is_split(row[level - 1])) and (len(row) == level + 1 or _is_split(row[level + 1]))
            for row in reach
            if row[level] == number
        )
        if stands and len(number) < 4 and int(number) in _RESOLUTIONS and (level or any(len(row) > 1 for row in reach)):
            kept = [
                row[:level] + row[level + 1 :] if len(row) > level and row[level] == number else row for row in kept
            ]
    return kept


@dataclass(frozen=True)
class _Listing:
    """The folders of every shape, and the shapes' names, of a source called `root`."""

    rows: Sequence[Folders]
    stems: Sequence[str]
    root: str

    def layout(self) -> Layout:
        """The one layout that fits. Raises InputError where several do."""
        depth = min(_MOST_LEVELS, max(map(len, self.rows), default=0))
        clean = [level for level in range(depth) if all(map(_is_split, self._names(level)))]
        mixed = [level for level in range(depth) if level not in clean and any(map(_is_split, self._names(level)))]
        if len(clean) > 1:
            self._refuse([Layout(self._beside(level), level) for level in clean])
        if clean:
            (level,) = clean
            if any(len(row) <= level and any(map(_is_split, row)) for row in self.rows):
                self._refuse([Layout(self._beside(level), level), *self._as_split_or_class(mixed)])
            return Layout(self._beside(level), level)
        for level in mixed:
            words = {SPLIT_WORDS[name.lower()] for name in self._names(level) if _is_split(name)}
            deeper = any(len(row) > level + 1 and _is_split(row[level]) for row in self.rows)
            if len(words) > 1 or (deeper and not self._are_shapes(level + 1)):
                self._refuse(self._as_split_or_class([level]))
        class_level = self._alone()
        return Layout(class_level, -1 if class_level is not None and _is_split(self.root) else None)

    def _names(self, level: int) -> set[str]:
        return {row[level] for row in self.rows if len(row) > level}

    def _as_split_or_class(self, levels: Sequence[int]) -> list[Layout]:
        return [layout for level in levels for layout in (Layout(level, None), Layout(self._beside(level), level))]

    def _beside(self, split: int) -> int:
        """The level of the class where that of the split is known."""
        reach = [row for row in self.rows if len(row) > split and _is_split(row[split])]
        below = {row[split + 1] for row in reach if len(row) > split + 1}
        if not below or self._are_shapes(split + 1):
            return split - 1
        if split == 0:
            return 1
        if any(len(row) == split + 1 for row in reach):
            return split - 1
        if len(below) > 1 and len({row[split - 1] for row in reach}) > 1:
            self._refuse([Layout(split - 1, split), Layout(split + 1, split)])
        return split + 1 if len({row[split - 1] for row in reach}) == 1 else split - 1

    def _alone(self) -> int | None:
        """The level of the class where there is no split: the first whose names differ, and that is no shape's own."""
        candidates, constant = [], None
        for level in range(min(_MOST_LEVELS, max(map(len, self.rows), default=0))):
            if self._are_shapes(level):
                break
            if len(self._names(level)) > 1:
                candidates.append(level)
            elif not candidates:
                constant = level
        shortest = min((len(row) for row in self.rows if row), default=0)
        candidates = candidates[:1] + [level for level in candidates[1:] if shortest > level]
        if len(candidates) > 1:
            self._refuse([Layout(level, None) for level in candidates])
        return candidates[0] if candidates else constant

    def _are_shapes(self, level: int) -> bool:
        """Whether each folder of a level holds one shape, in further folders or called alike in all of them."""
        shapes: dict[Folders, set[tuple[Folders, str]]] = defaultdict(set)
        for row, stem in zip(self.rows, self.stems, strict=True):
            if len(row) > level:
                shapes[row[: level + 1]].add((row[level + 1 :], stem))
        if len(shapes) < 2 or any(len(held) > 1 for held in shapes.values()):
            return False
        held = {shape for of_folder in shapes.values() for shape in of_folder}
        if len(held) == 1:
            return True
        # A name that occurs again says what shapes have in common.
        return len({folder[-1] for folder in shapes}) == len(shapes) and all(folders for folders, _ in held)

    def _refuse(self, readings: Sequence[Layout]) -> None:
        """Raise InputError that names what each layout would make of the folders."""
        said = []
        for layout in dict.fromkeys(readings):
            pairs = [layout.of(row, self.root) for row in self.rows]
            classes = sorted({name for name, _ in pairs if name})
            splits = sorted({name for _, name in pairs if name and _is_split(name)})
            named = [
                f"{kind} {', '.join(names[:_NAMED])}{' …' if len(names) > _NAMED else ''}"
                for kind, names in (("classes", classes), ("splits", splits))
                if names
            ]
            said.append(f"--layout {layout} ({'; '.join(named)})")
        raise InputError(
            f"the folders of {self.root} can be read in more than one way; say which: {', or '.join(said)}."
        )
