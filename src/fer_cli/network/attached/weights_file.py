"""State dicts of a user's checkpoint: read without running code from it, and fitted to the module's names.

Files of `safetensors`, files of `torch.save` read with `weights_only=True`, and folders as Hugging Face has them: one
such file of the usual name, or several that an index lists.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_cli.errors import FerError, InputError, UsageError, one_line
from fer_cli.network.attached.own_code import file_digest

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "ema")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_DEEPEST = 8
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "backbone.", "classifier.")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Raises InputError for a file that is missing, damaged, holds other objects than tensors, or is a TorchScript or ONNX
    model, and for a folder without weights of a usual name.
    """
    if path.is_dir():
        return {name: tensor for part in weights_files(path) for name, tensor in read_state(part).items()}
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if path.suffix.lower() == ".onnx":
        raise InputError(
            f"{path} is an ONNX model, which has no modules to tap. Give the PyTorch module that it was exported from."
        )
    if head.startswith(b"\x89HDF"):
        raise InputError(f"{path} is an HDF5 file; --weights takes a state dict by torch.save or safetensors.")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if _is_torchscript(path):
        raise InputError(
            f"{path} is a TorchScript archive, whose modules take no hooks. Save the state dict of the original: "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FerError:
        raise
    except Exception as error:
        signs = ("weights_only", "Unsupported", "WeightsUnpickler")
        if head.startswith((b"PK", b"\x80")) and any(sign in str(error) for sign in signs):
            raise InputError(
                f"{path} holds more than tensors, and reading that could run code: fer does not. Convert it where you "
                f"trust it: torch.save(torch.load({str(path)!r}, weights_only=False)['state_dict'], 'weights.pt')."
            ) from error
        raise InputError(f"{path} is damaged, or no file of torch.save: {one_line(str(error))[:200]}") from error
    return _tensors(content, path)


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> str | None:
    """Load a state dict into a module; answer the prefix that had to be dropped from its names, None if none.

    Raises UsageError that counts and names the keys that are missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    prefix = _fitting_prefix(set(wanted), set(state))
    fitted = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in fitted and not name.endswith("num_batches_tracked")]
    unknown = [name for name in fitted if name not in wanted]
    unknown += [name for name in state if not name.startswith(prefix)]
    shapes = [n for n in wanted if n in fitted and _shape(wanted[n]) != _shape(fitted[n])]
    types = [n for n in wanted if n in fitted and wanted[n].is_floating_point() and not fitted[n].is_floating_point()]
    if missing or unknown or shapes or types:
        said = []
        if missing:
            said.append(f"{_count(missing)} missing ({_few(missing)})")
        if unknown:
            said.append(f"{_count(unknown)} unknown ({_few(unknown)})")
        if shapes:
            name = shapes[0]
            said.append(
                f"{_count(shapes)} of another shape ({name}: {_shape(fitted[name])} in the file, "
                f"{_shape(wanted[name])} in the network)"
            )
        if types:
            said.append(f"{_count(types)} of another type ({types[0]}: {fitted[types[0]].dtype} in the file)")
        raise UsageError(
            f"{path} does not fit the network, which has {len(wanted)} keys: {'; '.join(said)}. Give the callable, "
            "--kwargs or weights that belong together."
        )
    try:
        module.load_state_dict(fitted, strict=False)
    except Exception as error:  # of the network's own loading, too
        raise UsageError(f"{path} does not fit the network: {one_line(str(error))[:300]}") from error
    return prefix or None


def weights_digest(path: Path) -> str:
    """SHA-256 over the files of weights; of one file, that of its content."""
    digests = [file_digest(part) for part in weights_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def weights_files(path: Path) -> list[Path]:
    """The file, or of a folder its files of weights. Raises InputError for a folder without any of a usual name."""
    if not path.is_dir():
        return [path]
    folder = path
    for name in _IN_FOLDER:
        if (whole := folder / name).is_file():
            return [whole]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            parts = [folder / part for part in names if part == Path(part).name]
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is damaged, or no index of weights.") from error
        if not parts or len(parts) < len(names):
            raise InputError(f"{index} names no files of its own folder.")
        return parts
    raise InputError(f"{folder} has no {' or '.join(_IN_FOLDER)}; name the file of weights.")


def _fitting_prefix(wanted: set[str], given: set[str]) -> str:
    """The prefix without which most keys are wanted ones; an empty one where that is as good."""
    tried = ["", *_PREFIXES, *(a + b for a in _PREFIXES for b in _PREFIXES)]
    common = {name.partition(".")[0] + "." for name in given if "." in name}
    tried += sorted(common - set(tried))
    return max(tried, key=lambda prefix: len(wanted & {n.removeprefix(prefix) for n in given if n.startswith(prefix)}))


def _tensors(content: Any, path: Path, depth: int = 0) -> dict[str, Tensor]:
    """The state dict of a checkpoint: the checkpoint itself, or under a usual key."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        for key in _NESTED:
            if isinstance(content.get(key), Mapping) and depth < _DEEPEST:
                return _tensors(content[key], path, depth + 1)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict.")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no tensors, but {_few([str(name) for name in content])}.")
    for name, tensor in state.items():
        if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise InputError(f"{path} holds {name!r} as no plain tensor, but sparse, quantised, nested or empty.")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors. Run 'pip install safetensors'.") from error
    try:
        state: dict[str, Tensor] = load_file(path)
    except Exception as error:  # its own type of error is not public
        raise InputError(f"{path} is damaged, or no safetensors file: {one_line(str(error))[:200]}") from error
    return state


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _count(names: list[str]) -> str:
    return f"{len(names)} key{'s' if len(names) > 1 else ''}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
