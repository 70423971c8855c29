"""Any frozen classifier as a backbone: somebody's `nn.Module`, tapped by forward hooks.

`attach_backbone` looks a module over and makes an `Attached` of it. The module is not copied and not changed: see
`undisturbed`. Features are float32 at the module's own precision; autocast
is switched off, since patched and captured features must be computed alike.
"""

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.data.places import Location
from fer_cli.data.volumes import InputSpec, Volumes
from fer_cli.errors import FerError, UsageError
from fer_cli.network.attached.hooks import Tap, as_map, record_calls, run_tapped, unwrapped
from fer_cli.network.attached.nan_fields import Fields, receptive_fields
from fer_cli.network.attached.readout import Activation, Readout, find_readout
from fer_cli.network.attached.source import Source
from fer_cli.network.attached.survey import DROPOUTS, Candidate, Survey
from fer_cli.network.attached.undisturbed import called, home, undisturbed
from fer_cli.network.backbone import NO_PATCH, OUTPUT, Backbone, Features, Level, NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import FeedbackNetwork, steps_from_shapes


@dataclass(frozen=True)
class Wiring:
    """What is known of a module beside its weights, as an artifact stores it; `fields` are the receptive fields."""

    spec: NetworkSpec
    readout: Readout
    fields: Mapping[str, Fields]


class Attached(Backbone):
    """A module and its wiring; `source` is what built it, None for a module in memory."""

    def __init__(self, module: nn.Module, wiring: Wiring, source: Source | None = None) -> None:
        self.module = unwrapped(module)
        self.wiring = wiring
        self._source = source
        self._taps = {level.name: Tap.parse(level.name) for level in wiring.spec.levels}
        for level, tap in self._taps.items():
            try:
                self.module.get_submodule(tap.module)
            except AttributeError as error:
                raise UsageError(f"the network has no module {tap.module!r}, which level {level} taps.") from error
        self._survey: Survey | None = None
        with torch.no_grad(), self._undisturbed(compared=True):
            called(self.module, self._blank(2))

    @property
    def spec(self) -> NetworkSpec:
        """Levels, input and classes."""
        return self.wiring.spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return home(self.module)[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the state, the class of the module and the levels."""
        names = [type(self.module).__qualname__, *self._taps, repr(self.wiring.readout.to_json())]
        digest = hashlib.sha256("\0".join(names).encode())
        for name, tensor in self.module.state_dict().items():
            if isinstance(tensor, Tensor) and not name.endswith("num_batches_tracked"):
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        return digest.hexdigest()

    @property
    def precision(self) -> torch.dtype:
        """Precision of the weights."""
        return home(self.module)[1]

    def answer(self) -> Float[np.ndarray, "2 klass"]:
        """Logits of two volumes of noise, always the same: what the network is known again by."""
        with torch.no_grad():
            return self.logits(self._blank(2)).cpu().numpy()

    def features(
        self, volumes: Volumes, levels: Sequence[str] | None = None, *, patch: Mapping[str, Tensor] = NO_PATCH
    ) -> Features:
        """See `Backbone.features`."""
        wanted = self.spec.layer_names if levels is None else tuple(levels)
        for level in wanted:
            self.spec.index(level)
        found, logits = self._run(volumes, wanted, patch)
        if OUTPUT in wanted:
            found[OUTPUT] = functional.softmax(logits, dim=1)[:, :, None, None, None]
        return found

    def logits(self, volumes: Volumes, *, patch: Mapping[str, Tensor] = NO_PATCH) -> Float[Tensor, "sample klass"]:
        """See `Backbone.logits`. A patched level that is no cut keeps what goes around it."""
        return self._run(volumes, (), patch)[1]

    def _run(
        self, volumes: Volumes, wanted: Sequence[str], patch: Mapping[str, Tensor]
    ) -> tuple[Features, Float[Tensor, "sample klass"]]:
        if OUTPUT in patch:
            raise ValueError(f"{OUTPUT} is no level that can be patched")
        for level, feature in patch.items():
            shape = (len(volumes), *self.spec.level_shape(level))
            if tuple(feature.shape) != shape:
                raise ValueError(f"{level} holds features of shape {shape}, not {tuple(feature.shape)}")
        taps = {self._taps[level]: level for level in self.spec.layer_names[:-1] if level in wanted}
        replaced = {self._taps[level]: feature for level, feature in patch.items()}
        device, dtype = home(self.module)
        with self._undisturbed():
            run = run_tapped(self.module, volumes.to(device, dtype), frozenset(taps), replaced)
        logits = self.wiring.readout.logits(run.returned)
        if len(logits) != len(volumes):
            raise FerError(f"the network gives {len(logits)} answers for {len(volumes)} volumes.")
        found = {}
        for tap, level in taps.items():
            if tap not in run.features:
                raise FerError(f"the network did not call {tap.name} in this pass; its levels have to run every time.")
            feature, shape = run.features[tap], (len(volumes), *self.spec.level_shape(level))
            if feature.ndim != 3 and feature.numel() != math.prod(shape):
                raise FerError(f"{level} has shape {tuple(feature.shape)} in this pass, not always {shape}.")
            found[level] = as_map(feature, self.spec.map_shape(level))
        return found, logits

    def receptive_fields(self, level: str) -> Int[np.ndarray, "x y z 3 2"]:
        """See `Backbone.receptive_fields`; measured when the network was attached."""
        self.spec.index(level)
        if level == OUTPUT:
            return _whole((1, 1, 1), self.spec.input.shape)
        return self.wiring.fields[level]

    def weights_of(self, level: str) -> list[nn.Parameter]:
        """See `Backbone.weights_of`; of modules called between the two levels, in order of completion."""
        at = self.spec.index(level)
        taps = [*self._taps.values(), None]
        return self._looked_over().parameters_between(taps[at - 1] if at else None, taps[at])

    def linear_head(self) -> tuple[Tensor, Tensor] | None:
        """See `Backbone.linear_head`."""
        if self.wiring.readout.activation != "logits" or self.wiring.readout.decision != 0.5:
            return None
        head = self._looked_over().linear_head(list(self._taps.values())[-1])
        if head is None:
            return None
        weight = head.weight.detach().float()
        bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach().float()
        if len(weight) == 1:  # one logit z stands for (0, z)
            weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
        order = self.wiring.readout.order
        return (weight, bias) if order is None else (weight[list(order)], bias[list(order)])

    @property
    def below_dropout(self) -> str | None:
        """The highest level computed before the first dropout; None without dropout, or where no level is."""
        survey = self._looked_over()
        order = {call.tap: at for at, call in enumerate(survey.calls)}
        dropouts = survey.dropouts()
        below = [level for level, tap in self._taps.items() if dropouts and order[tap] < dropouts[0]]
        return below[-1] if below else None

    @contextmanager
    def dropout(self, rate: float, generator: torch.Generator) -> Iterator[None]:
        """See `Backbone.dropout`."""

        def drop(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
            value = inputs[0]
            kept = torch.rand(value.shape, generator=generator) >= rate
            return value * kept.to(value) / (1 - rate)

        dropouts = [part for part in self.module.modules() if isinstance(part, DROPOUTS)]
        hooks = [part.register_forward_hook(drop) for part in dropouts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def untrained(self) -> "Attached":
        """The same network with fresh weights: built again where that gives other ones, else reset module by module."""
        fresh = None
        if self._source is not None:
            made = unwrapped(self._source.build()).to(*home(self.module))
            same = [torch.equal(a, b) for a, b in zip(made.parameters(), self.module.parameters(), strict=True)]
            fresh = None if all(same) else made
        if fresh is None:
            fresh = copy.deepcopy(self.module)
            _reset(fresh)
        return Attached(fresh, self.wiring, self._source)

    def _undisturbed(self, *, compared: bool = False) -> AbstractContextManager[None]:
        importing = nullcontext if self._source is None else self._source.importing
        return undisturbed(self.module, compared=compared, importing=importing)

    def _blank(self, count: int) -> Volumes:
        """Volumes of noise, the same every time: what the network is looked over with."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(count, *self.spec.input.volume, generator=generator)
        volumes = (drawn < 0.2).float() if self.spec.input.kind == "occupancy" else drawn
        return volumes.to(*home(self.module))

    def _looked_over(self) -> Survey:
        if self._survey is None:
            with self._undisturbed():
                self._survey = Survey(self.module, self._blank(2), self.wiring.readout)
        return self._survey


def attach_backbone(
    module: nn.Module,
    volumes: Volumes,
    input: InputSpec,
    classes: Sequence[str],
    *,
    levels: Sequence[str] | None = None,
    output: str | None = None,
    activation: Activation | None = None,
    decision: float = 0.5,
    outputs: Sequence[str] | None = None,
    source: Source | None = None,
) -> tuple[Attached, tuple[Candidate, ...]]:
    """Look a classifier over and tap it: its backbone, and the candidates that were looked at.

    `volumes` are at least two typical samples as the classifier reads them. `levels` names the levels; None takes
    `Survey.default`. `outputs` are the classes in the order of the model's outputs, where that is another one. `source`
    is what built the module, and builds it again for the sanity checks.

    Raises UsageError for a model that refuses the volumes, is no classifier of these classes, or answers differently
    for one input, and for unknown or unsuitable levels; FerError for features that are not finite.
    """
    module = unwrapped(module)
    volumes = _distinct(volumes).to(*home(module))
    importing = nullcontext if source is None else source.importing
    with undisturbed(module, compared=True, importing=importing), torch.no_grad():
        returned, again = called(module, volumes), called(module, volumes)
    readout = find_readout(
        returned, output=output, activation=activation, decision=decision, classes=classes, outputs=outputs
    )
    with undisturbed(module, importing=importing):
        _require_finite(module, volumes, readout.select(returned))
        _require_repeatable(readout.select(returned), readout.select(again))
        _require_single(module, volumes, readout)
        survey = Survey(module, volumes[:2], readout)
        chosen = survey.named(levels) if levels is not None else survey.default()
        top = min(candidate.depth for candidate in survey.candidates)
        tested = tuple(survey.tested(c) if c in chosen or c.depth == top else c for c in survey.candidates)
    spec = NetworkSpec(tuple(_level(candidate) for candidate in chosen), input, tuple(classes))
    unmeasured = {level.name: _whole(level.shape, input.shape) for level in spec.levels}
    backbone = Attached(module, Wiring(spec, readout, unmeasured), source)
    names = spec.layer_names[:-1]
    with torch.no_grad():
        features = backbone.features(volumes, names)
    with torch.backends.cudnn.flags(enabled=False):  # its Winograd and FFT kernels would spread NaN
        measured = receptive_fields(lambda batch: backbone.features(batch, names), volumes[:4].float())
    levels_found = tuple(
        replace(level, signed=bool((features[level.name] < 0).any()), field=measured[level.name][1])
        for level in spec.levels
    )
    fields = {level: boxes for level, (boxes, _) in measured.items()}
    wiring = Wiring(replace(spec, levels=levels_found), readout, fields)
    return Attached(module, wiring, source), tested


def explain_attached(backbone: Attached, scales: Mapping[str, float] | None = None) -> ExplainedNetwork:
    """An attached classifier with a fresh feedback network, made from the shapes and scales of its levels."""
    feedback = FeedbackNetwork(steps_from_shapes(backbone.spec), scales).to(backbone.device)
    return ExplainedNetwork(backbone, feedback, lambda: explain_attached(backbone.untrained(), scales))


def _level(candidate: Candidate) -> Level:
    return Level(
        candidate.name, candidate.filters, candidate.shape, candidate.tap.call, bool(candidate.is_cut), candidate.signed
    )


def _whole(shape: Location, sides: Location) -> Fields:
    """Boxes of the whole input for every location."""
    fields = np.zeros((*shape, 3, 2), np.int64)
    fields[..., 1] = sides
    return fields


def _distinct(volumes: Volumes) -> Volumes:
    """The volumes with the second one unlike the first. Raises UsageError where all are alike."""
    other = next((at for at in range(1, len(volumes)) if not torch.equal(volumes[at], volumes[0])), None)
    if other is None:
        raise UsageError("all the samples looked at are the same volume; at least two different ones are needed.")
    order = [0, other, *(at for at in range(1, len(volumes)) if at != other)]
    return volumes[order]


def _require_repeatable(one: Tensor, other: Tensor) -> None:
    """Raise UsageError for a model that answers two passes of the same volumes differently."""
    largest = float((one.float() - other.float()).abs().max())
    if not largest <= 1e-4 * max(1.0, float(one.float().abs().max())):
        raise UsageError(
            f"the model answers the same volumes differently in evaluation mode (by up to {largest:.3g}). Look for "
            "random operations that do not look at self.training, such as functional.dropout(x)."
        )


@torch.no_grad()
def _require_single(module: nn.Module, volumes: Volumes, readout: Readout) -> None:
    """Raise UsageError for a model whose answer for a volume depends on the other volumes of its batch."""
    together = readout.logits(called(module, volumes))
    alone = readout.logits(called(module, volumes[:1]))
    if alone.shape != (1, *together.shape[1:]):
        raise UsageError(
            f"the model gives {len(alone)} answers for one volume alone. Look for squeeze() without an axis, "
            "which drops that of the batch too."
        )
    largest = float((alone[0] - together[0]).abs().max())
    if not largest <= 1e-2 * max(1.0, float(together.abs().max())):
        raise UsageError(
            f"the model's answer for a volume depends on the others in its batch (logits differ by {largest:.3g}). "
            "Look for BatchNorm with track_running_stats=False, or for means over the axis of the batch."
        )


def _require_finite(module: nn.Module, volumes: Volumes, output: Tensor) -> None:
    """Raise FerError that names the first module whose output is not finite, where the answer is not."""
    if bool(output.isfinite().all()):
        return
    calls, _ = record_calls(module, volumes[:2])
    wrong = next((c.tap.name for c in calls if c.tensor is not None and not bool(c.tensor.isfinite().all())), "output")
    half = " Give the model in single precision: model.float()." if home(module)[1] != torch.float32 else ""
    raise FerError(
        f"the features of {wrong} are not finite for volumes as they are stored. Are they scaled as the network was "
        f"trained on?{half}"
    )


def _reset(module: nn.Module) -> None:
    """Fresh weights: by `reset_parameters` of each submodule; else noise of the spread that they have."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        with torch.no_grad():
            for parameter in part.parameters(recurse=False):
                if parameter.ndim > 1 and parameter.numel() > 1:
                    parameter.normal_(0, float(parameter.std()))
