"""An attached classifier in a model.h5: wiring, state and receptive fields; the callable only by name and content.

A model.h5 is whole but for the user's own code. Reading it imports that code only where `permission` has it allowed, or
takes a module that the caller has in memory; either must then answer as the attached one did.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_cli.data.volumes import InputSpec
from fer_cli.errors import ArtifactError, InputError, LineageError, UsageError
from fer_cli.network.attached.classifier import Attached, Wiring
from fer_cli.network.attached.hooks import unwrapped
from fer_cli.network.attached.permission import Recorded, permitted
from fer_cli.network.attached.readout import Readout
from fer_cli.network.attached.weights_file import weights_digest, weights_files
from fer_cli.network.backbone import Level, NetworkSpec, is_utf8
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.schema import MODEL

KIND = "attached"
_FAMILIES = {"encoder": np.float32, "encoder64": np.float64, "encoder_int": np.int64}
"""Groups of the state by type; half precision is kept as float32, which holds it exactly."""
_CHECK_TOLERANCE = 1e-3
_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


@dataclass(frozen=True)
class Origin:
    """Where a classifier came from: its callable, None where it was in memory, and the file of its weights.

    `transform` is the callable that turns a file into the volume that the classifier reads.
    """

    recorded: Recorded | None = None
    weights: Path | None = None
    weights_digest: str = ""
    transform: Recorded | None = None

    def read_files(self) -> list[Path]:
        """The files that it was read from: weights and code."""
        used = [recorded.source for recorded in (self.recorded, self.transform) if recorded is not None]
        weights = [] if self.weights is None else weights_files(self.weights)
        return [*weights, *(file for source in used for file in source.files())]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "source": None if self.recorded is None else self.recorded.to_json(),
            "weights": None if self.weights is None else str(self.weights),
            "weights_digest": self.weights_digest,
            "transform": None if self.transform is None else self.transform.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Origin":
        """From JSON values. Raises KeyError or TypeError where they do not fit."""
        source, weights, transform = value["source"], value["weights"], value["transform"]
        return cls(
            None if source is None else Recorded.from_json(source),
            None if weights is None else Path(weights),
            str(value["weights_digest"]),
            None if transform is None else Recorded.from_json(transform),
        )

    def stale_weights(self) -> Path | None:
        """The file or folder of weights, if it exists and has changed since the network was attached."""
        if self.weights is None or not self.weights.exists():
            return None
        with suppress(InputError):
            return self.weights if weights_digest(self.weights) != self.weights_digest else None
        return self.weights


def is_attached(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a model.h5 is that of an attached classifier."""
    network = config.get("network")
    return isinstance(network, Mapping) and network.get("kind") == KIND


def network_config(backbone: Attached, origin: Origin, scales: Mapping[str, float]) -> dict[str, object]:
    """The part `network` of a model.h5's configuration."""
    spec = backbone.spec
    return {
        "kind": KIND,
        "levels": [{**vars(level), "shape": list(level.shape)} for level in spec.levels],
        "input": spec.input.to_json(),
        "classes": list(spec.classes),
        "readout": backbone.wiring.readout.to_json(),
        "precision": str(backbone.precision).removeprefix("torch."),
        "fingerprint": backbone.fingerprint,
        "scales": dict(scales),
        **origin.to_json(),
    }


def write_attached(writer: ArtifactWriter, backbone: Attached) -> None:
    """Write state, receptive fields and the answer that the network is checked by."""
    for name, tensor in _state(backbone.module).items():
        array = _as_array(tensor)
        family = next(key for key, kind in _FAMILIES.items() if array.dtype == kind)
        writer.write(f"{family}/{name}", array)
    for level, field in backbone.wiring.fields.items():
        writer.write(f"field/{level}", field)
    writer.write("check/logits", backbone.answer())


def read_spec(artifact: Artifact) -> NetworkSpec:
    """Levels, input and classes of an attached model.h5.

    Raises KeyError, TypeError or ValueError where they do not fit.
    """
    network = artifact.config["network"]
    levels = tuple(
        Level(
            str(level["name"]),
            int(level["filters"]),
            (int(level["shape"][0]), int(level["shape"][1]), int(level["shape"][2])),
            int(level["call"]),
            bool(level["is_cut"]),
            bool(level["signed"]),
            level["field"],
        )
        for level in network["levels"]
    )
    return NetworkSpec(levels, InputSpec.from_json(network["input"]), tuple(map(str, network["classes"])))


def read_scales(artifact: Artifact) -> dict[str, float]:
    """Scales of the feedback network's levels; none in older models. Raises TypeError or ValueError where damaged."""
    scales = {str(level): float(scale) for level, scale in dict(artifact.config["network"].get("scales", {})).items()}
    if wrong := [level for level, scale in scales.items() if not 0 < scale < math.inf]:
        raise ValueError(f"the scale of {wrong[0]} is {scales[wrong[0]]}")
    return scales


def read_origin(artifact: Artifact) -> Origin:
    """Where the classifier of an attached model.h5 came from. Raises KeyError or TypeError where that does not fit."""
    return Origin.from_json(artifact.config["network"])


def load_attached(artifact: Artifact, *, device: torch.device | str, module: nn.Module | None = None) -> Attached:
    """The classifier of a model.h5: built by its callable where that is allowed here, or `module`, in memory.

    Raises UsageError where the code is not allowed or not there, LineageError where `module` has other weights,
    ArtifactError where the file is damaged or the code builds another network.
    """
    with artifact.interpreted():
        spec, origin = read_spec(artifact), read_origin(artifact)
        readout = Readout.from_json(artifact.config["network"]["readout"])
        fields = {level.name: artifact.read(f"field/{level.name}") for level in spec.levels}
        for level in spec.levels:
            if fields[level.name].shape != (*level.shape, 3, 2):
                raise ValueError(f"the receptive fields of {level.name} have shape {fields[level.name].shape}")
        precision = getattr(torch, str(artifact.config["network"]["precision"]))
        if not isinstance(precision, torch.dtype):
            raise ValueError(f"the precision {artifact.config['network']['precision']!r} is no type of numbers")
    wiring = Wiring(spec, readout, fields)
    if module is not None:
        backbone = Attached(module, wiring)
        if backbone.fingerprint != artifact.config["network"]["fingerprint"]:
            raise LineageError(
                f"{artifact.path} was attached to a network of other weights or another class than the one given. "
                "Attach again, or give the network as it was."
            )
        return backbone
    if origin.recorded is None:
        raise UsageError(
            f"{artifact.path} was attached from Python to a network in memory, whose code it does not know. Open the "
            f"run there: fer_cli.load_run({str(artifact.path.parent)!r}, network=model)."
        )
    source = permitted(origin.recorded, artifact.path)
    built = unwrapped(source.build()).to(precision)
    _restore(artifact, built)
    built = built.to(device).eval().requires_grad_(False)
    backbone = Attached(built, wiring, source)
    _require_same_answer(artifact, backbone, source.where)
    return backbone


def _restore(artifact: Artifact, module: nn.Module) -> None:
    """Put the stored state into a module. Raises ArtifactError where it does not fit."""
    stored = {name.partition("/")[2]: name for family in _FAMILIES for name in artifact.names(f"{family}/")}
    own = _state(module)
    strange = sorted(set(own) ^ set(stored))
    misshapen = [n for n in own if n in stored and tuple(own[n].shape) != artifact.shape(stored[n])]
    if strange or misshapen:
        raise ArtifactError(
            f"the callable of {artifact.path} builds another network than the one attached: "
            f"{(strange or misshapen)[0]} {'is not in both' if strange else 'has another shape'}. Attach again."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(artifact.read(stored[name])))


def _require_same_answer(artifact: Artifact, backbone: Attached, where: str) -> None:
    expected, found = artifact.read("check/logits"), backbone.answer()
    scale = max(1.0, float(np.abs(expected).max()))
    if expected.shape != found.shape or not np.allclose(found, expected, atol=_CHECK_TOLERANCE * scale):
        raise ArtifactError(
            f"the network that {where} builds answers otherwise than the one that {artifact.path} was attached to "
            f"(logits differ by {float(np.abs(found - expected).max()):.3g}). Attach again."
        )


def require_storable(module: nn.Module) -> None:
    """Raise UsageError for a network whose state a model.h5 cannot hold, by name and type."""
    for name, tensor in _state(module).items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _TYPES:
            kind = "without content" if tensor.is_meta else f"of {tensor.dtype}, {tensor.layout}"
            raise UsageError(f"the network's state {name!r} is a tensor {kind}, which model.h5 cannot hold.")
        if not MODEL.spec(f"encoder/{name}") or name in (".", "..") or not is_utf8(name):
            raise UsageError(
                f"the network's state is called {name!r} in part, which model.h5 cannot hold. Names have no '/'."
            )


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, the persistent ones. Raises UsageError for a state that is no tensor."""
    state = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise UsageError(f"the network's state {name!r} is a {type(value).__name__}, which model.h5 cannot hold.")
        state[name] = value
    return state


def _as_array(tensor: Tensor) -> np.ndarray:
    value = tensor.detach().cpu().contiguous()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    array: np.ndarray = value.numpy()
    return array if array.dtype.kind == "f" else array.astype(np.int64)
