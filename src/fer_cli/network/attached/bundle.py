"""A MONAI bundle as a network: a folder whose configuration says how to build it, and the weights that lie in it.

A configuration is code: `_target_` names any callable and `$…` is evaluated. It is trusted like a .py file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fer_cli.errors import FerError, InputError, UsageError, one_line
from fer_cli.network.attached.own_code import Root, file_digest, note, own_files
from fer_cli.network.attached.source import Source, json_object

_CONFIGS = ("inference", "evaluate", "train")
_SUFFIXES = (".json", ".yaml", ".yml")
_IDS = ("network_def", "network")
_WEIGHTS = ("models/model.pt", "models/model.safetensors")


class Bundle(Source):
    """A bundle's folder: `where` is its resolved path, `name` the id of the network in its configuration.

    `kwargs` replace values of the configuration by id, such as `network_def#out_channels`.
    """

    @classmethod
    def parse(cls, given: str, kwargs: str | None = None) -> "Bundle":
        """What a user gave for MODEL: FOLDER, or FOLDER:id. Raises UsageError for an id that is not configured."""
        folder, name = Path(given).expanduser(), ""
        if not folder.is_dir():
            before, _, name = given.rpartition(":")
            folder = Path(before).expanduser()
        folder = folder.resolve()
        found = cls(str(folder), name, json_object(kwargs))
        return cls(found.where, found._id(), found.kwargs)

    @property
    def label(self) -> str:
        """See `Source.label`."""
        return f"PATH/{Path(self.where).name}:{self.name}"

    @property
    def exists(self) -> bool:
        """See `Source.exists`."""
        return Path(self.where).is_dir()

    @property
    def weights(self) -> Path | None:
        """See `Source.weights`."""
        return next((path for each in _WEIGHTS if (path := Path(self.where) / each).is_file()), None)

    def resolve(self) -> Any:
        """See `Source.resolve`."""
        return self.build

    def build(self) -> nn.Module:
        """The network as configured, without the bundle's weights. Evaluates the configuration.

        Raises InputError without MONAI or a readable configuration, UsageError where that builds no network.
        """
        path = self._config()
        digest = file_digest(path)
        note(self._root, path, digest, self.allowed)
        parser = self._parser(path)
        if file_digest(path) != digest:
            raise InputError(f"{path} changed while it was read.")
        for name, value in self.kwargs.items():
            parser[name] = value
        try:
            with self.importing():
                built = parser.get_parsed_content(self.name)
        except FerError:
            raise
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {one_line(str(error))[:300]}"
            raise UsageError(f"{path}: {self.name} raised {said}") from error
        if not isinstance(built, nn.Module):
            raise UsageError(f"{path}: {self.name} is a {type(built).__name__}, not a torch.nn.Module.")
        return built

    def files(self) -> dict[Path, str]:
        """See `Source.files`: the configuration, and what it imported from the bundle."""
        return dict(sorted(({(path := self._config()): file_digest(path)} | own_files(self._root)).items()))

    def _config(self) -> Path:
        """The configuration that is read: that for inference if there is one."""
        folder = Path(self.where) / "configs"
        for name in _CONFIGS:
            for suffix in _SUFFIXES:
                if (path := folder / f"{name}{suffix}").is_file():
                    return path
        raise InputError(f"{folder} has none of {', '.join(f'{name}.json' for name in _CONFIGS)} (or .yaml).")

    def _id(self) -> str:
        """The id that was given, else the usual one."""
        parser = self._parser(path := self._config())
        wanted = (self.name,) if self.name else _IDS
        found = next((each for each in wanted if each in parser), None)
        if found is None:
            raise UsageError(f"{path} has no {' or '.join(wanted)}. Say which of its ids is the network: FOLDER:id.")
        return found

    @staticmethod
    def _parser(path: Path) -> Any:
        try:
            from monai.bundle.config_parser import ConfigParser
        except ImportError as error:
            raise InputError(f"{path} needs the package monai. Run 'pip install monai'.") from error
        parser = ConfigParser()
        try:
            parser.read_config(str(path))
        except Exception as error:  # of any of its parsers
            raise InputError(f"{path} cannot be read: {one_line(str(error))[:300]}") from error
        for name, value in _texts(parser.get()):
            if value.startswith("%") and "::" in value:
                raise UsageError(f"{path}: {name} is taken from another file, {value}. Write it into this one.")
        return parser

    @property
    def _root(self) -> Root:
        return Path(self.where)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a configuration, each with its id."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(part, f"{name}#{key}" if name else str(key))
