"""Weights as plain arrays by name, and the network that a `model.h5` holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fer_cli.network.backbone import NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.fer_cnn import FERCNN, NetworkConfig, explain_classifier
from fer_cli.storage.artifact import Artifact


def state_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Weights and batch-norm statistics by name, float32."""
    return {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def load_state_arrays(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays made by `state_arrays` back. Raises ValueError naming what is missing, extra or misshapen."""
    _require_shapes(network, {name: array.shape for name, array in arrays.items()})
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)


def _require_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless these are the network's parameters and statistics."""
    state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    if wrong := set(state) ^ set(shapes):
        raise ValueError(f"parameter {min(wrong)!r} is {'missing' if min(wrong) in state else 'unknown'}")
    for name, tensor in state.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"parameter {name!r} has shape {shapes[name]}, but {tuple(tensor.shape)} is needed")


class _Uninitialised(TorchFunctionMode):
    """Leaves weights of modules made in the block as memory is, where all of them are about to be replaced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def read_spec(artifact: Artifact) -> NetworkSpec:
    """Levels, input and classes of the network of a `model.h5`. Raises ArtifactError where it is damaged."""
    with artifact.interpreted():
        return NetworkConfig.from_json(artifact.config["network"]).spec


def load_network(artifact: Artifact, *, device: torch.device | str = "cpu") -> ExplainedNetwork:
    """The trained network of a `model.h5`, in evaluation mode. Raises ArtifactError where it is damaged."""
    return load_classifier(artifact)[1].to(device)


def load_classifier(artifact: Artifact) -> tuple[FERCNN, ExplainedNetwork]:
    """The classifier of a `model.h5`, and the network that it is part of; on the CPU, in evaluation mode.

    Raises ArtifactError where it is damaged.
    """
    with artifact.interpreted(), _Uninitialised():
        config = NetworkConfig.from_json(artifact.config["network"])
        # A network of no size first: what the configuration promises must not cost memory before it is compared.
        with torch.device("meta"):
            _, _, planned = _make(config)
        stored = {part: {name.partition("/")[2]: name for name in artifact.names(f"{part}/")} for part in planned}
        for part, names in stored.items():
            _require_shapes(planned[part], {key: artifact.shape(name) for key, name in names.items()})
        classifier, network, parts = _make(config)
        for part, names in stored.items():
            load_state_arrays(parts[part], {key: artifact.read(name) for key, name in names.items()})
    network.eval().requires_grad_(False)
    return classifier, network


def _make(config: NetworkConfig) -> tuple[FERCNN, ExplainedNetwork, dict[str, nn.Module]]:
    """A classifier, the network that explains it, and their modules by the name of the group in `model.h5`."""
    classifier = FERCNN(config)
    network = explain_classifier(classifier)
    return classifier, network, {"encoder": classifier, "feedback": network.feedback}
