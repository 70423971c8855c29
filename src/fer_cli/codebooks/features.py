"""Features of a network over many samples, location by location, in bounded memory.

k-means reads all samples at one location; the network returns all locations of one batch. `plan_passes` groups slabs of
locations by size, `Extraction` runs one path of the network over the samples for each group, and a `FeatureStore`
transposes batches into locations: in memory, and in a scratch file what does not fit.
Locations are flattened in C order of (x, y, z).
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.data.dataset import VolumeSet
from fer_cli.errors import FerError, UsageError
from fer_cli.network.activations import BATCH, FEEDBACK, batches, encode, feed_back
from fer_cli.network.backbone import OUTPUT, Features, NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.storage.disk import writing

CPU = torch.device("cpu")
_DTYPES = {16: torch.float16, 32: torch.float32}


@dataclass(frozen=True)
class Slab:
    """Features of `samples` at the locations `start` to `stop` (exclusive) of a layer in a path, `bits` a number."""

    path: str
    layer: str
    start: int
    stop: int
    samples: int
    filters: int
    bits: int

    @property
    def location_bytes(self) -> int:
        """What one location takes."""
        return self.samples * self.filters * self.bits // 8

    @property
    def bytes(self) -> int:
        """What all its locations take."""
        return (self.stop - self.start) * self.location_bytes


def whole_layer(spec: NetworkSpec, path: str, layer: str, *, samples: int, bits: int) -> Slab:
    """All locations of a layer."""
    return Slab(path, layer, 0, spec.locations(layer), samples, spec.level_shape(layer)[0], bits)


def plan_passes(layers: Iterable[Slab], capacity: int) -> list[list[Slab]]:
    """The locations of `layers`, in their order, cut into groups of slabs that take at most `capacity` bytes each.

    A location that takes more makes a group of its own.
    """
    passes: list[list[Slab]] = []
    free = 0
    for layer in layers:
        start = layer.start
        while start < layer.stop:
            if free < layer.location_bytes:
                passes.append([])
                free = capacity
            stop = min(layer.stop, start + max(1, free // layer.location_bytes))
            slab = Slab(layer.path, layer.layer, start, stop, layer.samples, layer.filters, layer.bits)
            passes[-1].append(slab)
            free -= slab.bytes
            start = stop
    return passes


def device_capacity(device: torch.device, memory: int) -> int:
    """Bytes of features that one pass may hold on a device: a third of a GPU's memory, whatever is free of it.

    So that the passes, and with them the last bits, are the same on every card of a kind. `memory` on other devices.
    """
    return torch.cuda.mem_get_info(device)[1] // 3 if device.type == "cuda" else memory


def check_memory(layers: Iterable[Slab], memory: int) -> None:
    """Raise UsageError if one location of some layer does not fit `memory` bytes, in single precision."""
    for layer in layers:
        each = layer.samples * layer.filters * 4
        if each > memory:
            raise UsageError(
                f"one location of {layer.layer} needs {each / 1e6:.3g} MB for {layer.samples} samples, more than "
                f"--memory allows ({memory / 1e6:.3g} MB)."
            )


class FeatureStore:
    """Features of some slabs, put in batch by batch and read location by location; a context manager.

    Beyond the range of half precision, 16 bits hold an infinity, which `fitting` brings to the end of that range.

    On a GPU all of it stays there. On the host, where it exceeds `memory` bytes, the first samples go to a file in the
    folder `scratch` that has no name: it is gone when this process is, however it ends. The last ones stay in memory,
    one batch at least.

    Raises ResourceError if the scratch file cannot be written.
    """

    def __init__(self, slabs: Sequence[Slab], *, memory: int, scratch: Path, device: torch.device = CPU) -> None:
        self._slabs = tuple(slabs)
        self._scratch = scratch
        total = sum(slab.bytes for slab in slabs)
        share = min(1.0, memory / max(1, total)) if device.type == "cpu" else 1.0
        self._buffers: dict[Slab, Tensor] = {}
        self._to_spill: dict[Slab, int] = {}
        for slab in slabs:
            rows = min(slab.samples, max(BATCH, int(slab.samples * share)))
            self._to_spill[slab] = slab.samples - rows
            self._buffers[slab] = torch.empty(
                slab.stop - slab.start, rows, slab.filters, dtype=_DTYPES[slab.bits], device=device
            )
        self._held = dict.fromkeys(slabs, 0)
        self._spilled = dict.fromkeys(slabs, 0)
        ends = np.cumsum([0, *(slab.bytes // slab.samples * self._to_spill[slab] for slab in slabs)]).tolist()
        self._offsets = dict(zip(slabs, ends, strict=False))
        self._file: FileIO | None = None
        with ExitStack() as at_failure:
            if ends[-1]:
                with writing(scratch):
                    opened = tempfile.TemporaryFile(dir=scratch, prefix=".fer-scratch-", buffering=0)  # noqa: SIM115
                    self._file = at_failure.enter_context(opened)
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(self._file.fileno(), 0, ends[-1])
            self._at_end = at_failure.pop_all()

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffers.clear()
        self._at_end.close()

    def put(self, slab: Slab, feature: Float[Tensor, "sample filter x y z"]) -> None:
        """Add the next samples' features of the whole layer."""
        rows = feature.flatten(2).permute(2, 0, 1)[slab.start : slab.stop]
        done = 0
        while done < rows.shape[1]:
            buffer, held, left = self._buffers[slab], self._held[slab], self._to_spill[slab] - self._spilled[slab]
            full = min(left, buffer.shape[1]) if left else buffer.shape[1]
            count = min(rows.shape[1] - done, full - held)
            buffer[:, held : held + count].copy_(rows[:, done : done + count])
            self._held[slab] += count
            done += count
            if left and self._held[slab] == full:
                self._spill(slab)

    def read(self, slab: Slab, start: int, stop: int) -> Float[np.ndarray, "location sample filter"]:
        """All samples at the locations `start` to `stop` of the slab, counted from its own first one."""
        held = self._buffers[slab][start:stop].numpy()
        if self._file is None or not self._to_spill[slab]:
            return held
        found = np.empty((stop - start, slab.samples, slab.filters), held.dtype)
        spilled = self._to_spill[slab]
        found[:, spilled:] = held[:, : slab.samples - spilled]
        for location, rows in enumerate(found[:, :spilled], start):
            self._file.seek(self._place(slab, location, 0))
            left = rows.data.cast("B")
            while left:
                read = self._file.readinto(left)
                assert read, "the scratch file ends early"
                left = left[read:]
        return found

    def held(self, slab: Slab) -> Float[Tensor, "location sample filter"]:
        """All samples at the locations of a slab, on the device that keeps them."""
        return self._buffers[slab]

    def drop(self, slab: Slab) -> None:
        """Let go of a slab's memory."""
        self._buffers.pop(slab, None)

    def _spill(self, slab: Slab) -> None:
        assert self._file is not None
        buffer = self._buffers[slab][:, : self._held[slab]].numpy()
        with writing(self._scratch):
            for location, rows in enumerate(buffer):
                self._file.seek(self._place(slab, location, self._spilled[slab]))
                left = rows.data.cast("B")
                while left:
                    left = left[self._file.write(left) :]
        self._spilled[slab] += self._held[slab]
        self._held[slab] = 0

    def _place(self, slab: Slab, location: int, sample: int) -> int:
        """Where the file holds the features of a sample at a location of a slab."""
        row = slab.location_bytes // slab.samples
        return self._offsets[slab] + (location * self._to_spill[slab] + sample) * row


@dataclass
class Extraction:
    """The network over some samples, always in the same batches, so that features are the same to the last bit.

    The class probabilities that the encoder ends in are kept, so that the feedback path can do without it later.
    """

    network: ExplainedNetwork
    voxels: VolumeSet
    samples: Int[np.ndarray, " sample"]
    _probabilities: list[Tensor] = field(default_factory=list)

    def run(
        self,
        path: str,
        store: FeatureStore,
        slabs: Sequence[Slab],
        *,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Put the features of slabs of one path into the store. Raises FerError for features that are no numbers."""
        known = list(self._probabilities)
        done = 0
        for number, part in enumerate(batches(self.samples)):
            if path == FEEDBACK and known:
                features = feed_back(self.network, known[number])
            else:
                features = encode(self.network, self.voxels.tensor(part))
                if not known:
                    self._probabilities.append(features[OUTPUT])
                if path == FEEDBACK:
                    features = feed_back(self.network, features[OUTPUT])
            check_numbers(path, features, self.voxels, part)
            for slab in slabs:
                store.put(slab, features[slab.layer])
            done += len(part)
            report(done, len(self.samples))


def check_numbers(path: str, features: Features, voxels: VolumeSet, samples: Int[np.ndarray, " sample"]) -> None:
    """Raise FerError if some feature of these samples is not a number.

    Such a value spreads through every level that is computed from it, so the last one is looked at.
    """
    last = list(features)[-1]
    if features[last].isnan().any():
        names = ", ".join(voxels.names[i] for i in samples[:3])
        raise FerError(
            f"the {path} features of {last} hold values that are no numbers, in the batch of {names}, …. "
            "Train the network again."
        )
