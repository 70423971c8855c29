"""The user's callable that builds a network: `PATH.py:callable` or `package.module:callable`, with its arguments.

Importing it runs the user's code. Only `fer attach` and `fer allow` do that because a user named it; everything that
starts from an artifact asks `permission` first, and runs no other files than those allowed.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fer_cli.errors import FerError, InputError, UsageError, one_line
from fer_cli.network.attached.own_code import OwnLoader, Root, file_digest, importing, own_files
from fer_cli.network.attached.survey import near

_NAMESPACE = "fer_attached_"


@dataclass(frozen=True)
class Source:
    """A callable by name, with the keyword arguments it is called with.

    `where` is the resolved path of a file, or the dotted name of an importable module; `name` the callable in it.
    `allowed` is the own code that may run, by file; None where the user named the callable.
    """

    where: str
    name: str
    kwargs: Mapping[str, Any]
    allowed: Mapping[Path, str] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, given: str, kwargs: str | None = None) -> "Source":
        """What a user gave for MODEL and `--kwargs` (a JSON object). Raises UsageError where that is neither form."""
        where, colon, name = given.rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise UsageError(
                f"{given!r} names no callable. Give PATH.py:callable or package.module:callable, such as "
                "nets.py:build, a program FILE.pt2, or the folder of a MONAI bundle."
            )
        if where.endswith(".py"):
            path = Path(where).expanduser()
            try:
                where = str(path.resolve(strict=True))
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(f"{given[:300]}: there is no such file.") from error
            if not path.is_file():
                raise InputError(f"{where} is no file.")
        elif not all(part.isidentifier() for part in where.split(".")):
            raise UsageError(f"{where!r} is neither a .py file nor the name of a module.")
        return cls(where, name, json_object(kwargs))

    @property
    def is_file(self) -> bool:
        """Whether the callable is in a file, not in an installed module."""
        return self.where.endswith(".py")

    @property
    def exists(self) -> bool:
        """Whether a file that holds the callable is here; true of an installed module."""
        return not self.is_file or Path(self.where).is_file()

    @property
    def weights(self) -> Path | None:
        """The file of weights that lies with the code, if there is one."""
        return None

    @property
    def label(self) -> str:
        """How a user names it where the folder is not known."""
        return f"PATH/{Path(self.where).name}:{self.name}" if self.is_file else str(self)

    @property
    def call(self) -> str:
        """The callable with its arguments, as it is called."""
        return f"{self}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})"

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    def resolve(self) -> Any:
        """Import the module and give the callable. Runs the user's code.

        Raises UsageError for a name that is not there or of Python itself, InputError for code that cannot be imported.
        """
        if not self.is_file and self.where.partition(".")[0] in sys.stdlib_module_names:
            raise UsageError(f"{self} is of Python itself, which has no networks.")
        module = self._imported()
        found: Any = getattr(module, self.name, None)
        if found is None:
            callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise UsageError(f"{self.where} has no {self.name!r}.{near(self.name, callables)}")
        if not callable(found):
            raise UsageError(f"{self} is a {type(found).__name__}, not a callable that returns a network.")
        return found

    def callable(self) -> Callable[..., Any]:
        """`resolve`, to be called at any time: it may import its own code then."""
        found = self.resolve()

        def call(*given: Any) -> Any:
            with self.importing():
                return found(*given)

        return call

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
            with self.importing():
                built = found(**self.kwargs)
        except FerError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{self} raised {type(error).__name__}: {one_line(str(error))[:300]}") from error
        if not isinstance(built, nn.Module):
            raise UsageError(f"{self} returned a {type(built).__name__}, not a torch.nn.Module.")
        return built

    def files(self) -> dict[Path, str]:
        """SHA-256 of the code by file: the callable's own, and what it imported that is not of an installed package.

        The callable must have been built, or resolved where it is not to be built: imports may be anywhere in it.
        """
        own = Path(self.where)
        if self.is_file:
            return dict(sorted(({own: file_digest(own)} | own_files(self._root)).items()))
        defined = sys.modules[getattr(self.resolve(), "__module__", self.where)]
        file = getattr(defined, "__file__", None)
        first = {} if file is None else {Path(file).absolute(): file_digest(Path(file))}
        return dict(sorted((first | own_files(self._root)).items()))

    def digest(self) -> str:
        """SHA-256 of `files`, wherever they lie. The callable must have been resolved."""
        base = self._root if isinstance(self._root, Path) else None
        named = {
            path.relative_to(base).as_posix() if base and base in path.parents else path.name: sha
            for path, sha in self.files().items()
        }
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    @property
    def _root(self) -> Root:
        return Path(self.where).parent if self.is_file else self.where.partition(".")[0]

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
                with self.importing():
                    return importlib.import_module(self.where)
            loader = OwnLoader(self._module_name, self.where, self._root, self.allowed)
            spec = importlib.util.spec_from_file_location(self._module_name, self.where, loader=loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[self._module_name] = module  # dataclasses and pickles look their module up
            with self.importing():
                loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(self._module_name, None)
            if isinstance(error, FerError) or not isinstance(error, (Exception, SystemExit)):
                raise
            missing = isinstance(error, ModuleNotFoundError) and not self.is_file
            said = one_line(str(error))[:300]
            hint = " Install it in the environment of fer, or give a .py file." if missing else ""
            raise InputError(f"{self.where} cannot be imported: {type(error).__name__}: {said}.{hint}") from error
        return module

    def importing(self) -> AbstractContextManager[None]:
        """A block in which the callable's own code may be imported; see `own_code.importing`."""
        return importing(self._root, self.allowed)


def json_object(kwargs: str | None) -> dict[str, Any]:
    """The object of `--kwargs`; empty without. Raises UsageError where it is none."""
    try:
        arguments = json.loads(kwargs) if kwargs else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--kwargs is no JSON: {error}. Give an object such as '{{\"classes\": 3}}'.") from error
    if not isinstance(arguments, dict):
        raise UsageError(f"--kwargs is a JSON {type(arguments).__name__}; an object of names and values is needed.")
    return arguments


def _signature(found: Any) -> str:
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return "(…)"
