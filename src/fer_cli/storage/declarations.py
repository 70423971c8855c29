"""How an artifact's format is declared: its datasets with axes, type and meaning, its version, its parents.

Nothing here touches a file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Json = dict[str, Any]
"""A JSON object: the configuration of an artifact, an answer of a command, a row of a table."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset, or a family of them where the name has a `{placeholder}`.

    `axes` names every axis in order; axes of one name have one length within a file. `None` means
    any shape. `dtype` is NumPy's name for the type, or `text` for UTF-8 strings. What is not `identifying`, such
    as wall times, has no part in the artifact's id but its name and shape. What is `derived` follows from the other
    datasets and was declared after files had been written: it has no part in the id at all, so that the same content
    keeps the id that it had before. `narrower` are types in which the same numbers may be stored.
    """

    name: str
    axes: tuple[str, ...] | None
    dtype: str
    meaning: str
    required: bool = True
    compressed: bool = False
    identifying: bool = True
    derived: bool = False
    narrower: tuple[str, ...] = ()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the dataset names of this family."""
        return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self.name)))

    @property
    def is_family(self) -> bool:
        """Whether the name holds a placeholder."""
        return "{" in self.name


@dataclass(frozen=True)
class Format:
    """One kind of artifact: its name and version, the stage that makes it, its parents' roles, and its datasets.

    `older` lists earlier versions that can still be read, `older_datasets` what only their files hold.
    """

    name: str
    version: int
    command: str
    parents: tuple[str, ...]
    datasets: tuple[DatasetSpec, ...]
    optional_parents: tuple[str, ...] = ()
    older: tuple[int, ...] = ()
    older_datasets: tuple[DatasetSpec, ...] = ()

    def takes_parents(self, roles: Iterable[str]) -> bool:
        """Whether parents of these roles are all it needs and no more than it can have."""
        return set(self.parents) <= set(roles) <= {*self.parents, *self.optional_parents}

    def identifies(self, name: str) -> bool:
        """Whether a dataset has a part in the artifact's id."""
        spec = self.spec(name)
        return spec is None or not spec.derived

    def spec(self, name: str) -> DatasetSpec | None:
        """The declaration that covers the dataset `name`, or None."""
        declared = (*self.datasets, *self.older_datasets)
        return next((spec for spec in declared if spec.pattern.fullmatch(name)), None)
