"""The user's callable that builds a network: `PATH.py:callable` or `package.module:callable`, with its arguments.

Importing it runs the user's code. Only `fer attach` and `fer allow` do that because a user named it; everything that
starts from an artifact asks `permission` first.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fer_cli.errors import FerError, InputError, UsageError, one_line
from fer_cli.network.attached.survey import near

_NAMESPACE = "fer_attached_"


@dataclass(frozen=True)
class Source:
    """A callable by name, with the keyword arguments it is called with.

    `where` is the resolved path of a file, or the dotted name of an importable module; `name` the callable in it.
    """

    where: str
    name: str
    kwargs: Mapping[str, Any]

    @classmethod
    def parse(cls, given: str, kwargs: str | None = None) -> "Source":
        """What a user gave for MODEL and `--kwargs` (a JSON object). Raises UsageError where that is neither form."""
        where, colon, name = given.rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise UsageError(
                f"{given!r} names no callable. Give PATH.py:callable or package.module:callable, such as nets.py:build."
            )
        if where.endswith(".py"):
            path = Path(where).expanduser()
            if not path.is_file():
                raise InputError(f"{where} does not exist.")
            where = str(path.resolve())
        elif not all(part.isidentifier() for part in where.split(".")):
            raise UsageError(f"{where!r} is neither a .py file nor the name of a module.")
        try:
            arguments = json.loads(kwargs) if kwargs else {}
        except ValueError as error:
            raise UsageError(f"--kwargs is no JSON: {error}. Give an object such as '{{\"classes\": 3}}'.") from error
        if not isinstance(arguments, dict):
            raise UsageError(f"--kwargs is a JSON {type(arguments).__name__}; an object of names and values is needed.")
        return cls(where, name, arguments)

    @property
    def is_file(self) -> bool:
        """Whether the callable is in a file, not in an installed module."""
        return self.where.endswith(".py")

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    def resolve(self) -> Any:
        """Import the module and give the callable. Runs the user's code.

        Raises UsageError for a name that is not there, InputError for code that cannot be imported.
        """
        module = self._imported()
        found: Any = getattr(module, self.name, None)
        if found is None:
            callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise UsageError(f"{self.where} has no {self.name!r}.{near(self.name, callables)}")
        if not callable(found):
            raise UsageError(f"{self} is a {type(found).__name__}, not a callable that returns a network.")
        return found

    def build(self) -> nn.Module:
        """Call it. Raises UsageError where arguments do not fit or no module comes back."""
        found = self.resolve()
        if isinstance(found, nn.Module):
            return found
        try:
            inspect.signature(found).bind(**self.kwargs)
        except TypeError as error:
            raise UsageError(
                f"{self.name}{_signature(found)} cannot be called so: {error}. Give --kwargs '{{\"name\": value}}'."
            ) from error
        except ValueError:  # a callable without a signature
            pass
        try:
            with self._own_folder():
                built = found(**self.kwargs)
        except FerError:
            raise
        except Exception as error:
            raise UsageError(f"{self} raised {type(error).__name__}: {one_line(str(error))[:300]}") from error
        if not isinstance(built, nn.Module):
            raise UsageError(f"{self} returned a {type(built).__name__}, not a torch.nn.Module.")
        return built

    def files(self) -> dict[Path, str]:
        """SHA-256 of the code by file: the callable's own, and what it imported from the folder that it lies in.

        The callable must have been resolved.
        """
        if not self.is_file:
            defined = sys.modules[getattr(self.resolve(), "__module__", self.where)]
            paths = {Path(str(defined.__file__)).resolve()} if getattr(defined, "__file__", None) else set()
        else:
            own = Path(self.where)
            imported = (Path(str(getattr(module, "__file__", None) or "")) for module in list(sys.modules.values()))
            paths = {
                path.resolve()
                for path in imported
                if path.suffix == ".py" and own.parent in path.resolve().parents and "site-packages" not in path.parts
            } | {own}
        return {path: file_digest(path) for path in sorted(paths)}

    def digest(self) -> str:
        """SHA-256 of `files`, wherever they lie. The callable must have been resolved."""
        base = Path(self.where).parent if self.is_file else None
        named = {path.relative_to(base).as_posix() if base else path.name: sha for path, sha in self.files().items()}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    @property
    def _module_name(self) -> str:
        if not self.is_file:
            return self.where
        return _NAMESPACE + hashlib.sha256(self.where.encode()).hexdigest()[:16]

    def _imported(self) -> ModuleType:
        if self._module_name in sys.modules:
            return sys.modules[self._module_name]
        try:
            if not self.is_file:
                return importlib.import_module(self.where)
            spec = importlib.util.spec_from_file_location(self._module_name, self.where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[self._module_name] = module  # dataclasses and pickles look their module up
            with self._own_folder():
                spec.loader.exec_module(module)
        except FerError:
            raise
        except BaseException as error:
            sys.modules.pop(self._module_name, None)
            if not isinstance(error, Exception):
                raise
            missing = isinstance(error, ModuleNotFoundError) and not self.is_file
            said = one_line(str(error))[:300]
            hint = " Install it in the environment of fer, or give a .py file." if missing else ""
            raise InputError(f"{self.where} cannot be imported: {type(error).__name__}: {said}.{hint}") from error
        return module

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Within the block imports find modules of the file's folder, unless another module has the name."""
        folder = str(Path(self.where).parent)
        if not self.is_file:
            yield
            return
        sys.path.append(folder)
        try:
            yield
        finally:
            sys.path.reverse()  # the last of equal ones is ours
            sys.path.remove(folder)
            sys.path.reverse()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; of a file that cannot be read, an empty text."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _signature(found: Any) -> str:
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return "(…)"
