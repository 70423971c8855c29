"""Makes `import torch` faster, for commands that take only seconds.

More than a quarter of the time of `import torch` is spent in `torch._meta_registrations` and the modules that this
imports (`torch._prims`, `torch._refs`, `torch._decomp`). It registers kernels for tensors on the device `meta`, which
have shapes but no values. Tracing, `torch.compile` and `torch.export` need these kernels, computations do not.
Here the module is executed only when something needs it. See docs/adr/0040.
"""

import inspect
import re
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_META, _PRIMS, _COMPILER = "torch._meta_registrations", "torch._prims", "torch._dynamo"
_NEEDED = "torch._prims.rng_prims"
"""The one part of `torch._prims` that computations need: without it, `torch.Generator()` is an error."""
_TRIED = ("2.13.",)
"""Versions of PyTorch with which this was tested; with others nothing is deferred."""
_OPERATIONS = ("prims", "rngprims")
"""The namespaces of `torch.ops` in which `torch._prims` registers its operations."""
_PLUGINS = "torch.backends"
"""Group of entry points: packages that extend PyTorch, whose code `import torch` runs."""
_ASKED_FOR = ("torch.utils._debug_mode._mode", "torch._native.registry")
"""Modules for which PyTorch looks up the module of a file, by `inspect`, while they are imported.

`inspect` would resolve the paths of all modules that are imported by then, more than a thousand, so it is told these.
"""
_VERSION = re.compile(r"^__version__ = '(.*)'$", re.MULTILINE)

_is_allowed = False


def allow_deferring() -> None:
    """Let `defer_meta_kernels` work in this process, which runs one command and ends.

    Elsewhere, for instance in a notebook, other code may later need the whole of PyTorch.
    """
    global _is_allowed
    _is_allowed = True


def defer_meta_kernels() -> None:
    """Make a later `import torch` faster: it does not execute `torch._meta_registrations`.

    The module is executed later: by `require_meta_kernels`, when code uses a name from it or an operation that it
    registers, or when `torch._dynamo` is imported. Until then many operations on `meta` tensors raise
    NotImplementedError. Does nothing unless the process is one command's (`allow_deferring`), nor where PyTorch is
    imported already, is of a version that was not tested, or has plugins (`_PLUGINS`).
    """
    if not _is_allowed or "torch" in sys.modules or not _version().startswith(_TRIED):
        return
    if not metadata.entry_points(group=_PLUGINS):
        sys.meta_path.insert(0, _Finder())
        for name in _ASKED_FOR:
            inspect.modulesbyfile[str(_folder().joinpath(*name.split(".")[1:]).with_suffix(".py"))] = name


def _folder() -> Path:
    """Where the PyTorch lies that would be imported. Raises ValueError where there is none, or no file of it."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ValueError("no PyTorch")
    return Path(spec.origin).parent


def _version() -> str:
    """Version of the PyTorch that would be imported, from its own file; empty if it does not tell."""
    try:
        found = _VERSION.search((_folder() / "version.py").read_text())
    except (OSError, ValueError):  # in an archive, say
        return ""
    return found[1] if found else ""


def require_meta_kernels() -> None:
    """Execute what was deferred, and defer nothing from now on."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            finder.defers = False  # to remove it would make the import system skip another, if it is looking now
    for name in (_PRIMS, _META):
        module = sys.modules.get(name)
        if isinstance(module, _Deferred):
            module.execute()


class _Deferred(ModuleType):
    """A module that is executed when a name is looked up that it does not have yet."""

    def execute(self) -> None:
        """Make it an ordinary module."""
        loader = self.__loader__
        assert isinstance(loader, _Later)
        object.__setattr__(self, "__class__", ModuleType)
        loader.real.exec_module(self)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system asks for some
            raise AttributeError(name)
        self.execute()
        return getattr(self, name)


def _defer_operations() -> None:
    """Let the first look-up of an operation in `_OPERATIONS` execute what was deferred."""
    from torch import _ops

    class Deferred(_ops._OpNamespace):
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("__"):  # TorchScript asks for some
                object.__setattr__(self, "__class__", _ops._OpNamespace)
                require_meta_kernels()
            return _ops._OpNamespace.__getattr__(self, name)

    for name in _OPERATIONS:
        setattr(_ops.ops, name, Deferred(name))


class _Later(Loader):
    """Makes a module without executing it."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Only what a computation needs."""
        if module.__name__ == _META:
            import_module(_NEEDED)
            _defer_operations()


class _Finder(MetaPathFinder):
    """Defers the two modules, as long as it `defers`."""

    defers = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _COMPILER:
            require_meta_kernels()
        if not self.defers or fullname not in (_META, _PRIMS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec
