"""Fit the codes of every layer: choose samples, passes and precision.

The feedforward path is fitted on features in half precision. A layer where half precision changes too many codes is
fitted again in single precision. Of a large training set, k-means reads a random subset; one more pass counts all
samples.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Int

from fer_cli.codebooks.batched_fitting import fit_batched
from fer_cli.codebooks.codebook import Codebook, LayerCodebook
from fer_cli.codebooks.device_tally import DeviceTally
from fer_cli.codebooks.features import (
    CPU,
    Extraction,
    FeatureStore,
    Slab,
    check_memory,
    check_numbers,
    device_capacity,
    plan_passes,
    whole_layer,
)
from fer_cli.codebooks.fitted_layer import FittedLayer, FittedLayers
from fer_cli.codebooks.fitting import Counted, Fitted, fit_locations
from fer_cli.codebooks.tally import Tally
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.data.dataset import VolumeSet
from fer_cli.errors import UsageError
from fer_cli.execution.executor import WorkExecutor, results_in_order
from fer_cli.execution.progress import COUNTING, EXTRACTING, FITTING, ClusteringProgress
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS, Columns, batches, encode_paths
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.storage.disk import writing

ENOUGH = 256
"""Samples for each code of the layer with most; more change centroids little. FAISS has the same number."""
SCRATCH = 8 * 10**9
"""Most bytes of features that one pass holds, those in memory among them."""
_DISK_SHARE = 0.9
"""Most of a disk's free space that a scratch file takes."""
AGREEMENT = 0.999
"""Share of look-ups that half precision has to leave as they are."""
BITS = {FEEDFORWARD: 16, FEEDBACK: 32}
"""Bits a number at first. Feedback features lie so close to a few prototypes that half precision seldom serves."""
_PILOT = 256
"""Samples on which that is measured."""
_PIECE = 8 * 10**6
"""Bytes of features that a worker gets at once."""


class LayerPrecision(TypedDict):
    """Bits of each number, and the share of look-ups that half precision leaves unchanged."""

    bits: int
    half_agreement: float


Precision = dict[str, dict[str, LayerPrecision]]
"""By path and layer."""


@dataclass(frozen=True)
class LayerFitting:
    """k-means in every layer of both paths of `network`, on its training `samples`.

    `k` holds the codes of each layer, `done` the layers that are fitted, as they become so. With `on_device` features
    stay on the network's device and are clustered there (`batched_kmeans`), otherwise by the workers of `executor`.
    """

    network: ExplainedNetwork
    voxels: VolumeSet
    samples: Int[np.ndarray, " sample"]
    k: Mapping[str, int]
    memory: int
    scratch: Path
    seed: int
    done: FittedLayers
    executor: WorkExecutor
    report: Callable[[ClusteringProgress], None]
    on_device: bool = False

    def fit(self) -> Precision:
        """Fit every layer of both paths, at the lowest precision that serves; the precision of each."""
        keys = [(path, layer) for path in PATHS for layer in self.network.spec.layer_names]
        bits = {key: BITS[key[0]] for key in keys}
        self._fit(bits)
        self._count(bits)
        agreement = self._agreement(bits)
        poor = {key: 32 for key in keys if bits[key] == 16 and agreement[key] < AGREEMENT}
        self._fit(poor)
        self._count(poor)
        precision: Precision = {path: {} for path in PATHS}
        for path, layer in keys:
            key = (path, layer)
            precision[path][layer] = {"bits": poor.get(key, bits[key]), "half_agreement": agreement[key]}
        return precision

    def finished(self, precision: Precision) -> Iterator[FittedLayer]:
        """The layers, one at a time."""
        for path, layers in precision.items():
            for layer, chosen in layers.items():
                yield self.done.load(path, layer, chosen["bits"])

    def codebook(self, precision: Precision) -> Codebook:
        """The codebook of the fitted layers."""
        counts = np.bincount(self.voxels.labels[self.samples], minlength=len(self.voxels.classes))
        if empty := [name for name, count in zip(self.voxels.classes, counts, strict=True) if not count]:
            raise UsageError(
                f"no training sample of class {empty[0]!r} is there to be clustered, so it has no evidence."
            )
        return Codebook(
            self.network.spec,
            counts / counts.sum(),
            lambda path, layer: self.done.load(path, layer, precision[path][layer]["bits"]).codebook(),
        )

    def training_codes(self, precision: Precision) -> TrainingCodes:
        """The code of each sample at every location of the local layer, which has to be fitted."""
        layer = self.network.spec.local_layer
        code = self.done.load(FEEDFORWARD, layer, precision[FEEDFORWARD][layer]["bits"]).fitted.code
        assert code is not None
        return TrainingCodes(layer, self.samples, np.ascontiguousarray(code.T))

    def _keeps_codes(self, path: str, layer: str) -> bool:
        return (path, layer) == (FEEDFORWARD, self.network.spec.local_layer)

    @cached_property
    def _shuffled(self) -> Int[np.ndarray, " sample"]:
        """Positions of the samples in random order, for whatever needs only some of them."""
        return np.random.default_rng([self.seed, 0x5A4D]).permutation(len(self.samples))

    @cached_property
    def _fitted_on(self) -> Int[np.ndarray, " sample"]:
        """The samples that codes are fitted on."""
        return self.samples[np.sort(self._shuffled[: ENOUGH * max(self.k.values())])]

    @cached_property
    def _extraction(self) -> Extraction:
        return Extraction(self.network, self.voxels, self._fitted_on)

    def _fit(self, bits: Mapping[tuple[str, str], int]) -> None:
        """Fit the layers that are not fitted yet, each on features with the given number of bits."""
        wanted = [
            whole_layer(self.network.spec, path, layer, samples=len(self._fitted_on), bits=of_layer)
            for (path, layer), of_layer in bits.items()
            if not self.done.holds(path, layer, of_layer)
        ]
        device = self.network.backbone.device if self.on_device else CPU
        check_memory(wanted, device_capacity(device, self.memory))
        parts: list[Fitted] = []
        for path in PATHS:
            of_path = [slab for slab in wanted if slab.path == path]
            for group in plan_passes(of_path, self._capacity(of_path)):
                with FeatureStore(group, memory=self.memory, scratch=self.scratch, device=device) as store:
                    self._extraction.run(path, store, group, report=self._reader(EXTRACTING, path))
                    for slab in group:
                        parts += self._fit_slab(store, slab)
                        if slab.stop == self._locations(slab.layer):
                            self.done.add(FittedLayer(path, slab.layer, slab.bits, Fitted.joined(parts)))
                            parts = []

    def _reader(self, doing: str, path: str = "") -> Callable[[int, int], None]:
        return lambda done, total: self.report(ClusteringProgress(doing, done, total, path))

    def _fit_slab(self, store: FeatureStore, slab: Slab) -> list[Fitted]:
        total, piece = self._locations(slab.layer), max(1, _PIECE // slab.location_bytes)
        # At the output both paths hold the class probabilities, and so share their codes too.
        path = 0 if slab.layer == OUTPUT else PATHS.index(slab.path)
        layer = self.network.spec.index(slab.layer)
        counted = None
        if len(self._fitted_on) == len(self.samples):
            labels, keep = self.voxels.labels[self.samples], self._keeps_codes(slab.path, slab.layer)
            counted = Counted(self.samples, labels, len(self.voxels.classes), keep)

        def seeds(start: int, stop: int) -> list[int]:
            return [_seed([self.seed, path, layer, location]) for location in range(start, stop)]

        if self.on_device:
            on_it = fit_batched(store.held(slab), self.k[slab.layer], seeds(slab.start, slab.stop), counted)
            self.report(ClusteringProgress(FITTING, slab.stop, total, slab.path, slab.layer))
            store.drop(slab)
            return [on_it]

        def calls() -> Iterator[tuple[Any, ...]]:
            for start in range(slab.start, slab.stop, piece):
                stop = min(start + piece, slab.stop)
                features = store.read(slab, start - slab.start, stop - slab.start)
                yield features, self.k[slab.layer], seeds(start, stop), counted

        parts: list[Fitted] = []
        done = slab.start
        for fitted in results_in_order(self.executor, fit_locations, calls()):
            parts.append(fitted)
            done += len(fitted.centroids)
            self.report(ClusteringProgress(FITTING, done, total, slab.path, slab.layer))
        store.drop(slab)
        return parts

    def _locations(self, layer: str) -> int:
        return self.network.spec.locations(layer)

    def _capacity(self, wanted: Sequence[Slab]) -> int:
        """Bytes of features that one pass may hold: in memory if all fit there, else in a scratch file."""
        if self.on_device:
            return device_capacity(self.network.backbone.device, self.memory)
        if sum(slab.bytes for slab in wanted) <= self.memory:
            return self.memory
        with writing(self.scratch):
            free = shutil.disk_usage(self.scratch).free
        return max(self.memory, min(SCRATCH, int(free * _DISK_SHARE)))

    def _count(self, bits: Mapping[tuple[str, str], int]) -> None:
        """Count what the codes hold, for layers that were fitted on some of the samples."""
        keys = [(*key, of_layer) for key, of_layer in bits.items() if not self.done.is_counted(*key, of_layer)]
        layers = [self.done.load(*key) for key in keys]
        if not layers:
            return
        books = [layer.codebook() for layer in layers]
        tallies = [self._empty_tally(book) for book in books]
        report = self._reader(COUNTING)
        kept = Columns(len(self.samples))
        done = 0
        for part, features in self._features(self.samples):
            for layer, book, tally in zip(layers, books, tallies, strict=True):
                vectors, codes = book.look_up(features[layer.path][layer.layer])
                labels = self.voxels.labels[part]
                if self._keeps_codes(layer.path, layer.layer):
                    kept.add({"code": codes.T.cpu().numpy().astype(np.uint16)})
                if isinstance(tally, DeviceTally):
                    tally.add(vectors, codes, samples=part, labels=labels)
                else:
                    found, chosen = (each.cpu().numpy() for each in (vectors, codes))
                    tally.add(found, chosen, book.centroids, samples=part, labels=labels)
            done += len(part)
            report(done, len(self.samples))
        for layer, tally in zip(layers, tallies, strict=True):
            counted = tally.tally() if isinstance(tally, DeviceTally) else tally
            code = kept.arrays["code"].T if self._keeps_codes(layer.path, layer.layer) else None
            self.done.add(replace(layer, fitted=replace(layer.fitted, tally=counted, code=code)))

    def _empty_tally(self, book: LayerCodebook) -> Tally | DeviceTally:
        (locations, k, filters), classes = book.centroids.shape, len(self.voxels.classes)
        if self.on_device:
            return DeviceTally(book.on(self.network.backbone.device).centroids, classes)
        return Tally.empty(locations, k, filters, classes)

    def _agreement(self, bits: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
        """Share of look-ups that half precision leaves unchanged, on some of the samples."""
        books = {key: self.done.load(*key, of_layer).codebook() for key, of_layer in bits.items()}
        pairs = {key: (replace(book, bits=16), replace(book, bits=32)) for key, book in books.items()}
        same = dict.fromkeys(bits, 0)
        pilot = np.sort(self._shuffled[:_PILOT])
        for _, features in self._features(self.samples[pilot]):
            for (path, layer), (half, single) in pairs.items():
                feature = features[path][layer]
                same[path, layer] += int((half.assign(feature) == single.assign(feature)).sum())
        return {(path, layer): count / (len(pilot) * self._locations(layer)) for (path, layer), count in same.items()}

    def _features(
        self, samples: Int[np.ndarray, " sample"]
    ) -> Iterator[tuple[Int[np.ndarray, " batch"], dict[str, Features]]]:
        for part in batches(samples):
            features = encode_paths(self.network, self.voxels.tensor(part))
            for path, of_path in features.items():
                check_numbers(path, of_path, self.voxels, part)
            yield part, features


def _seed(key: list[int]) -> int:
    """A seed of a location's own, so that no location depends on the order in which others are fitted."""
    return int(np.random.SeedSequence(key).generate_state(1)[0]) & 0x7FFFFFFF
