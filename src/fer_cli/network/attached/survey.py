"""Which activations of somebody's classifier can be levels, and which are the default ones.

One dry forward pass lists every module call whose output has 5 axes (sample, filter, x, y, z), 2 (sample, filter), or
3 (sample, token, filter) where the tokens are the cells of a map, with at most eight others before them. A candidate is
a *cut* if the logits depend on the input through it alone: with its activation of volumes A patched into the pass of
volumes B, the logits are those of A, bit for bit.
"""

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fer_cli.data.places import Location
from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.world import SharedDropout
from fer_cli.network.attached.hooks import Tap, as_map, record_calls, run_tapped
from fer_cli.network.attached.readout import Activation, Readout
from fer_cli.network.attached.undisturbed import called
from fer_cli.network.backbone import is_level_name

MOST_LEVELS = 8
MOST_OTHER_TOKENS = 8
"""Tokens before those of the map, such as a class token."""
MOST_LOCATIONS = 4096
"""Locations of a level with codebooks of its own for each location; larger maps are left out by default."""

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    SharedDropout,
)


@dataclass(frozen=True)
class Candidate:
    """A module call that can be a level. `is_cut` is None where it was not tested."""

    tap: Tap
    kind: str
    filters: int
    shape: Location
    signed: bool
    is_cut: bool | None = None
    tokens: int = 0
    """How many tokens it has, those that are of no map among them; 0 where it is no sequence of tokens."""

    @property
    def name(self) -> str:
        """The level's name."""
        return self.tap.name

    @property
    def locations(self) -> int:
        """Cells of the feature map."""
        return math.prod(self.shape)

    @property
    def is_nameable(self) -> bool:
        """Whether a level can be called so, and its name tells module and call."""
        return is_level_name(self.name) and Tap.parse(self.name) == self.tap

    @property
    def depth(self) -> int:
        """How many modules the module lies in."""
        return self.tap.module.count(".")


class Survey:
    """The candidates of a classifier in order of computation, tested for being cuts when first asked.

    `volumes` are at least two different samples. The module must be in evaluation mode.
    """

    def __init__(self, module: nn.Module, volumes: Volumes, readout: Readout) -> None:
        self.module = module
        self._volumes, self._others = volumes, volumes.roll(1, 0)
        self._readout = readout
        self._logits = readout.logits
        self.calls, returned = record_calls(module, volumes)
        with torch.no_grad():
            self._outputs = readout.select(returned).reshape(len(volumes), -1).shape[1]
            self.own = readout.logits(returned).detach().clone()
            self._theirs = readout.logits(called(module, self._others))
        self._activation = {call.tap: call.tensor for call in self.calls if call.tensor is not None}
        whole = [call.tensor.shape[2:] for call in self.calls if call.tensor is not None and call.tensor.ndim == 5]
        self._maps = dict.fromkeys((shape[0], shape[1], shape[2]) for shape in whole)
        self._cuts: dict[Tap, bool] = {}
        self._carriers: dict[Tap, bool] = {}
        self.candidates = tuple(self._listed())

    def _listed(self) -> Iterable[Candidate]:
        """Candidates in order of computation; of several that hold the same values, the one in the fewest modules.

        A container gives what its last module gives, and a flattened map, or dropout, what comes in.
        """
        best: dict[bytes, tuple[tuple[bool, int, int], Candidate]] = {}
        for order, call in enumerate(self.calls):
            tensor = call.tensor
            if tensor is None or not tensor.is_floating_point():
                continue
            if len(tensor) != len(self._volumes) or not tensor[0].numel() or self._is_output(tensor):
                continue
            shape = self._map_of(tensor)
            if shape is None:
                continue
            tokens, filters = tensor.shape[1:] if tensor.ndim == 3 else (0, tensor.shape[1])
            found = Candidate(
                call.tap, type(call.module).__name__, filters, shape, bool((tensor < 0).any()), tokens=tokens
            )
            content = _digest(tensor) if bool((tensor != tensor[0, 0].flatten()[0]).any()) else str(order).encode()
            rank = (tensor.ndim == 2, found.depth, order)
            if content not in best or rank < best[content][0]:
                best[content] = (rank, found)
        order_of = {call.tap: order for order, call in enumerate(self.calls)}
        return sorted((candidate for _, candidate in best.values()), key=lambda found: order_of[found.tap])

    def _map_of(self, tensor: Tensor) -> Location | None:
        """The map that an activation fills; None where it is neither map, vector nor tokens of a map.

        Tokens are of a map that the network computes, else of patches with equal sides.
        """
        if tensor.ndim == 5:
            return (tensor.shape[2], tensor.shape[3], tensor.shape[4])
        if tensor.ndim == 2:
            return (1, 1, 1)
        if tensor.ndim != 3:
            return None
        sides = self._volumes.shape[2:]
        patches = (
            tuple(side // p for side in sides) for p in range(1, min(sides) + 1) if not any(s % p for s in sides)
        )
        for shape in (*self._maps, *patches):
            if 0 <= tensor.shape[1] - math.prod(shape) <= MOST_OTHER_TOKENS and math.prod(shape) > 1:
                return (shape[0], shape[1], shape[2])
        return None

    def _is_output(self, tensor: Tensor) -> bool:
        """Whether this is the model's answer itself, before or after its last activation."""
        return any(self._answers(tensor, activation) for activation in {"logits", self._readout.activation})

    def _answers(self, tensor: Tensor, activation: Activation) -> bool:
        """Whether an output of this activation has the model's class probabilities."""
        values = tensor.flatten(1).shape[1]
        if values != self._outputs:
            return False
        found = replace(self._readout, output=None, activation=activation).logits(tensor)
        ours, own = (logits - logits.mean(1, keepdim=True) for logits in (found, self.own))
        return found.shape == own.shape and torch.allclose(ours, own, rtol=1e-3, atol=1e-4 * float(own.abs().max()))

    def is_cut(self, tap: Tap) -> bool:
        """Whether the logits depend on the input through this activation alone."""
        if tap not in self._cuts:
            activation = self._activation[tap]
            shape = self._map_of(activation)
            assert shape is not None
            patched = self._patched(tap, as_map(activation, shape))
            # Where both passes give equal logits, putting one's activation into the other shows nothing.
            differ = (self.own != self._theirs).any(1)
            self._cuts[tap] = bool(differ.any()) and torch.equal(patched, self.own)
            if activation.ndim == 3 and not self._cuts[tap] and not torch.equal(patched, self._theirs):
                self._carriers[tap] = torch.equal(self._patched(tap, activation), self.own)
        return self._cuts[tap]

    def is_stage(self, candidate: Candidate) -> bool:
        """Whether it is a cut, or would be one with the tokens that are not of its map, and its map alone matters."""
        return self.is_cut(candidate.tap) or self._carriers.get(candidate.tap, False)

    def _patched(self, tap: Tap, feature: Tensor) -> Tensor:
        """The logits of the other volumes with this activation put in."""
        with torch.no_grad():
            return self._logits(run_tapped(self.module, self._others, frozenset(), {tap: feature}).returned)

    def tested(self, candidate: Candidate) -> Candidate:
        """The candidate with `is_cut` known."""
        return replace(candidate, is_cut=self.is_cut(candidate.tap))

    def named(self, names: Sequence[str]) -> list[Candidate]:
        """The candidates of these names, in order of computation. Raises UsageError for an unknown name."""
        known = {candidate.name: candidate for candidate in self.candidates}
        for name in names:
            if name not in known:
                raise UsageError(f"the model has no activation {name!r} that can be a level.{near(name, known)}")
        return [self.tested(candidate) for candidate in self.candidates if candidate.name in names]

    def default(self) -> list[Candidate]:
        """At most eight cuts, in order of computation.

        Of every map size of at most 4096 locations the first cut, and the last where it has another number of filters,
        and the last vector below the logits. Modules in fewer others come first. Beyond eight, the last cuts are left
        out, those of the largest maps first, then the largest maps. Of tokens, which all have one map, the first, the
        middle and the last that are cuts, or would be with their class token.

        Raises UsageError where there is no cut.
        """
        firsts: list[Candidate] = []
        lasts: list[Candidate] = []
        nameable = [c for c in self.candidates if c.is_nameable and not c.tokens]
        lasts += self._token_stages()
        sizes = dict.fromkeys(c.shape for c in nameable if c.locations <= MOST_LOCATIONS)
        for shape in sizes:
            of_size = [candidate for candidate in nameable if candidate.shape == shape]
            for depth in sorted({candidate.depth for candidate in of_size}):
                level = [candidate for candidate in of_size if candidate.depth == depth]
                first = next((candidate for candidate in level if self.is_cut(candidate.tap)), None)
                if first is None:
                    continue
                firsts.append(first)
                last = next((c for c in reversed(level) if c.filters != first.filters and self.is_cut(c.tap)), None)
                if last is not None and level.index(last) > level.index(first):
                    lasts.append(last)
                break
        if not firsts and not lasts:
            raise UsageError(
                f"none of the model's {len(self.candidates)} activations is a cut, which all that "
                "decides the logits passes. Name levels with --levels; their patches keep what goes around them."
            )
        lasts.sort(key=lambda candidate: candidate.locations)
        chosen = [*sorted(firsts, key=lambda candidate: candidate.locations), *lasts][:MOST_LEVELS]
        return [self.tested(candidate) for candidate in self.candidates if candidate in chosen]

    def _token_stages(self) -> list[Candidate]:
        """The first, middle and last of the sequences of tokens that are stages, of modules in fewest others."""
        tokens = [c for c in self.candidates if c.is_nameable and c.tokens and c.locations <= MOST_LOCATIONS]
        for depth in sorted({candidate.depth for candidate in tokens}):
            stages = [c for c in tokens if c.depth == depth and self.is_stage(c)]
            if len(stages) > 1:
                return [stages[at] for at in sorted({0, (len(stages) - 1) // 2, len(stages) - 1})]
        return []

    def parameters_between(self, below: Tap | None, tap: Tap | None) -> list[nn.Parameter]:
        """Parameters of modules called after `below` (from the input: None) and up to `tap` (the output: None)."""
        order = [call.tap for call in self.calls]
        start = 0 if below is None else order.index(below) + 1
        end = len(order) if tap is None else order.index(tap) + 1
        parameters: dict[int, nn.Parameter] = {}
        earlier = {id(p) for call in self.calls[:start] for p in call.module.parameters(recurse=False)}
        for call in self.calls[start:end]:
            own = call.module.parameters(recurse=False)
            parameters |= {id(parameter): parameter for parameter in own if id(parameter) not in earlier}
        return list(parameters.values())

    def dropouts(self) -> list[int]:
        """Positions in `calls` of the dropout modules."""
        return [at for at, call in enumerate(self.calls) if isinstance(call.module, DROPOUTS)]

    def linear_head(self, last: Tap) -> nn.Linear | None:
        """The Linear that makes the logits, or the one logit, from the last level's flattened feature; None if none."""
        feature = self._activation[last].flatten(1)
        for call in reversed(self.calls):
            if isinstance(call.module, nn.Linear) and call.read is not None and call.tensor is not None:
                same = call.read.shape == feature.shape and torch.equal(call.read, feature)
                return call.module if same and self._answers(call.tensor, "logits") else None
        return None


def _digest(tensor: Tensor) -> bytes:
    values = tensor.detach().flatten(1).float().cpu().contiguous()
    return hashlib.sha256(repr(tuple(values.shape)).encode() + values.numpy().tobytes()).digest()


def near(name: str, known: Iterable[str]) -> str:
    """A sentence with names like this one, with a space before it; empty if there is none."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" Near: {', '.join(found)}." if found else ""
