"""Imports of the user's own code: what runs is what was hashed, and nothing that was not allowed.

Own code is every file that is neither of Python, of an installed package, nor of fer. Within `importing` such files are
compiled from the very bytes that are hashed: bytecode beside them is neither read nor written.
"""

import hashlib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import fer_cli
from fer_cli.errors import UsageError
from fer_cli.execution.deferring import require_meta_kernels

Root = Path | str
"""What code belongs to: the folder of a file, or the name of a package."""
_loaded: dict[Root, dict[Path, str]] = {}
"""SHA-256 of each own file that was imported here, as it was then."""
_roots: dict[str, Root] = {}
"""Of each module that was imported so: for which root."""
_INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_FOREIGN = {folder for path in (*_INSTALLED, *fer_cli.__path__) for folder in (Path(path), Path(path).resolve())}


def is_own(path: Path) -> bool:
    """Whether a file is the user's own code. What counts is where it is found, not where a link leads."""
    return not ({"site-packages", "dist-packages"} & set(path.parts) or _FOREIGN & set(path.parents))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; of a file that cannot be read, an empty text."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def own_files(root: Root) -> dict[Path, str]:
    """SHA-256 of own code by file: what was imported within `importing` of this root, and its modules at hand.

    A module that was imported otherwise has the digest that its file has now.
    """
    found = dict(_loaded.get(root, {}))
    for name, module in list(sys.modules.items()):
        path = _file_of(module)
        if path is None or path in found or not is_own(path):
            continue
        if root in path.parents or name.partition(".")[0] == root:
            found[path] = file_digest(path)
    return found


@contextmanager
def importing(root: Root, allowed: Mapping[Path, str] | None) -> Iterator[None]:
    """A block in which imports find modules of a root folder too, and own code runs as hashed.

    Modules that are found elsewhere come first. Those of another root are imported afresh, as names may be the same.
    Where `allowed` is given, own code that is not among it, or has another digest, is not run: UsageError.
    """
    require_meta_kernels()
    for name in [name for name, its in _roots.items() if its != root]:
        sys.modules.pop(name, None)
        del _roots[name]
    finder = _Finder(root, allowed)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with suppress(ValueError):  # own code may have replaced the list
            sys.meta_path.remove(finder)


class OwnLoader(importlib.machinery.SourceFileLoader):
    """Compiles a file from the bytes that it hashes. Raises UsageError for one that was not allowed."""

    def __init__(self, name: str, path: str, root: Root, allowed: Mapping[Path, str] | None) -> None:
        super().__init__(name, path)
        self._root = root
        self._allowed = allowed

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader`; bytecode files are ignored."""
        content = self.get_data(self.path)
        note(self._root, Path(self.path), hashlib.sha256(content).hexdigest(), self._allowed)
        code: CodeType = self.source_to_code(content, self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds what the other finders and the folder have, own code to be loaded as hashed."""

    def __init__(self, root: Root, allowed: Mapping[Path, str] | None) -> None:
        self._root = root
        self._allowed = allowed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        spec = self._spec(fullname, path, target)
        if spec is None or spec.loader is None or not spec.has_location or not spec.origin:
            return spec
        file = Path(spec.origin).absolute()
        if not is_own(file):
            return spec
        if type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = OwnLoader(fullname, str(file), self._root, self._allowed)
            spec.cached = None
            _roots[fullname] = self._root
        else:  # a compiled module, or one in an archive
            file = Path(getattr(spec.loader, "archive", file))
            note(self._root, file, file_digest(file), self._allowed)
        return spec

    def _spec(self, fullname: str, path: Sequence[str] | None, target: Any) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            if not isinstance(finder, _Finder):
                found: importlib.machinery.ModuleSpec | None = finder.find_spec(fullname, path, target)
                if found is not None:
                    return found
        if path is None and isinstance(self._root, Path):
            return importlib.machinery.PathFinder.find_spec(fullname, [str(self._root)], target)
        return None


def note(root: Root, file: Path, digest: str, allowed: Mapping[Path, str] | None) -> None:
    """Record the SHA-256 of a file that is about to run. Raises UsageError where that content was not allowed."""
    if allowed is not None and allowed.get(file) != digest:
        raise UsageError(
            f"{file} is about to run, but is not among the code that was allowed. Read it, then attach again, "
            "or run 'fer allow' again."
        )
    _loaded.setdefault(root, {})[file] = digest


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    path = Path(file) if isinstance(file, str) else Path()
    return path if path.is_absolute() and path.is_file() else None  # torch.ops says that it is of a file _ops.py
