"""A quicker start of PyTorch, for commands that end after seconds.

`torch._meta_registrations` teaches over a thousand operations to tensors without storage, of the device `meta`.
Tracing, `torch.compile` and `torch.export` need it, a computation does not. PyTorch imports it at its start, and with
it `torch._prims`, `torch._refs` and `torch._decomp`: over a quarter of the time of `import torch`. Here it waits until
something needs it. See docs/adr/0040.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_META, _PRIMS, _COMPILER = "torch._meta_registrations", "torch._prims", "torch._dynamo"
_NEEDED = "torch._prims.rng_prims"
"""The one module behind it that a computation needs: it gives `torch.Generator` its metaclass."""
_TRIED = ("2.13.",)
"""Versions of PyTorch for which the above is known to hold; others start as they are."""


def defer_meta_kernels() -> None:
    """Let PyTorch, if it is imported after this, start without that module.

    It is executed at `require_meta_kernels`, when something of it is asked for, and when PyTorch's compiler is
    imported. Before that many operations on `meta` tensors raise NotImplementedError.
    """
    with suppress(metadata.PackageNotFoundError):  # a build of the user's own may tell no version
        if "torch" not in sys.modules and metadata.version("torch").startswith(_TRIED):
            sys.meta_path.insert(0, _Finder())


def require_meta_kernels() -> None:
    """Execute the module, if it was deferred."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    for name in (_PRIMS, _META):
        module = sys.modules.get(name)
        if isinstance(module, _Deferred):
            module.execute()


class _Deferred(ModuleType):
    """A module that is executed when it is asked for a name that it lacks."""

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


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _COMPILER:
            require_meta_kernels()
        if fullname not in (_META, _PRIMS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec
