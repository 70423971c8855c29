"""Weights as plain arrays by name, and the network that a `model.h5` holds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fer_cli.data.dataset import VoxelSet
from fer_cli.errors import UsageError
from fer_cli.network.attached.classifier import explain_attached
from fer_cli.network.attached.model_file import is_attached, load_attached, read_origin, read_scales
from fer_cli.network.attached.model_file import read_spec as read_attached_spec
from fer_cli.network.attached.permission import permitted
from fer_cli.network.backbone import NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import FeedbackNetwork, steps_from_shapes
from fer_cli.network.fer_cnn import FERCNN, NetworkConfig, explain_classifier
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.artifact_writer import ArtifactWriter


def state_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Weights and batch-norm statistics by name, float32."""
    return {name: as_array(tensor) for name, tensor in _state(network).items()}


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values in their order by axes, whatever the memory layout; a copy only where that differs."""
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array


def write_state(writer: ArtifactWriter, part: str, module: nn.Module) -> None:
    """Write a network's parameters and buffers as datasets `part/name`.

    One after the other: a copy of all of them may be gigabytes.
    """
    for name, tensor in _state(module).items():
        writer.write(f"{part}/{name}", as_array(tensor))


def load_state_arrays(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Load arrays of `state_arrays`. Raises ValueError that names missing, extra or misshapen ones."""
    _require_shapes(network, {name: array.shape for name, array in arrays.items()})
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)


def _require_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless these are the network's parameters and statistics."""
    state = _state(network)
    if wrong := set(state) ^ set(shapes):
        raise ValueError(f"parameter {min(wrong)!r} is {'missing' if min(wrong) in state else 'unknown'}")
    for name, tensor in state.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"parameter {name!r} has shape {shapes[name]}, but {tuple(tensor.shape)} is needed")


class _Uninitialised(TorchFunctionMode):
    """Leaves weights of modules made in the block as memory is, where all of them are about to be replaced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def read_spec(artifact: Artifact) -> NetworkSpec:
    """Levels, input and classes of the network of a `model.h5`. Raises ArtifactError where it is damaged."""
    with artifact.interpreted():
        if is_attached(artifact.config):
            return read_attached_spec(artifact)
        return NetworkConfig.from_json(artifact.config["network"]).spec


def load_network(
    artifact: Artifact, *, device: torch.device | str = "cpu", module: nn.Module | None = None
) -> ExplainedNetwork:
    """The trained network of a `model.h5`, in evaluation mode.

    `module` is the classifier of an attached network, for a caller that has it in memory.

    Raises ArtifactError where the file is damaged, and what `load_attached` raises.
    """
    if not is_attached(artifact.config):
        if module is not None:
            raise UsageError(f"{artifact.path} holds its own classifier; network=… is for attached ones.")
        return load_classifier(artifact)[1].to(device)
    with artifact.interpreted():
        names = {name.partition("/")[2]: name for name in artifact.names("feedback/")}
        with torch.device("meta"):
            planned = FeedbackNetwork(steps_from_shapes(read_attached_spec(artifact)))
        _require_shapes(planned, {key: artifact.shape(name) for key, name in names.items()})
        scales = read_scales(artifact)
    network = explain_attached(load_attached(artifact, device=device, module=module), scales)
    with artifact.interpreted():
        load_state_arrays(network.feedback, {key: artifact.read(name) for key, name in names.items()})
    network.feedback.requires_grad_(False)
    return network.eval()


def transform_of(model: Artifact) -> Callable[[], Callable[[Path], Any]] | None:
    """What gives the callable that an attached network's user turns files into volumes by; None if there is none.

    It imports that code, where it is allowed.
    """
    if not is_attached(model.config):
        return None
    with model.interpreted():
        wanted, path = read_origin(model).transform, model.path
    return None if wanted is None else lambda: permitted(wanted, path).callable()


def stale_weights(model: Artifact) -> Path | None:
    """The file that an attached network's weights came from, if it holds others now."""
    if not is_attached(model.config):
        return None
    with model.interpreted():
        return read_origin(model).stale_weights()


def split_as_trained(voxels: VoxelSet, model: Artifact) -> VoxelSet:
    """The samples with the splits that an attached model was fitted by; as they are for other models."""
    if not is_attached(model.config):
        return voxels
    return voxels.as_attached(str(model.config["training"]["fitted_on"]), model.read("validation/index"))


def load_classifier(artifact: Artifact) -> tuple[FERCNN, ExplainedNetwork]:
    """The classifier of a `model.h5`, and the network that it is part of; on the CPU, in evaluation mode.

    Raises ArtifactError where it is damaged.
    """
    with artifact.interpreted(), _Uninitialised():
        config = NetworkConfig.from_json(artifact.config["network"])
        alone = artifact.config.get("training", {}).get("feedback_epochs") == 0
        # A network of no size first: what the configuration promises must not cost memory before it is compared.
        with torch.device("meta"):
            _, _, planned = _make(config, alone=alone)
        stored = {part: {name.partition("/")[2]: name for name in artifact.names(f"{part}/")} for part in planned}
        for part, names in stored.items():
            _require_shapes(planned[part], {key: artifact.shape(name) for key, name in names.items()})
        classifier, network, parts = _make(config, alone=alone)
        for part, names in stored.items():
            load_state_arrays(parts[part], {key: artifact.read(name) for key, name in names.items()})
    network.eval().requires_grad_(False)
    return classifier, network


def _make(config: NetworkConfig, *, alone: bool) -> tuple[FERCNN, ExplainedNetwork, dict[str, nn.Module]]:
    """A classifier, the network that explains it, and their modules by the name of the group in `model.h5`."""
    classifier = FERCNN(config)
    network = explain_classifier(classifier, alone=alone)
    return classifier, network, {"encoder": classifier} | ({} if alone else {"feedback": network.feedback})
