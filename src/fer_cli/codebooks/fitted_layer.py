"""A layer's codes once they are fitted: to and from the journal, into the artifact, and in a few figures."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fer_cli.codebooks.codebook import LayerCodebook
from fer_cli.codebooks.fitting import Fitted
from fer_cli.codebooks.tally import Tally
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.journal import Journal


@dataclass(frozen=True)
class FittedLayer:
    """The codes of all locations of a layer in a path, fitted on features of `bits` a number."""

    path: str
    layer: str
    bits: int
    fitted: Fitted

    @property
    def is_counted(self) -> bool:
        """Whether it is known what the codes hold."""
        return self.fitted.tally is not None

    @property
    def tally(self) -> Tally:
        """What the codes hold."""
        assert self.fitted.tally is not None
        return self.fitted.tally

    def encode(self) -> bytes:
        """The layer as bytes: a line of JSON, and the arrays as NumPy's .npz."""
        fitted = vars(self.fitted)
        arrays = {name: array for name, array in fitted.items() if name != "tally" and array is not None}
        if self.is_counted:
            arrays |= {f"tally.{name}": array for name, array in vars(self.tally).items()}
        content = io.BytesIO()
        np.savez(content, **arrays)  # NumPy 2.0 would take allow_pickle for an array
        return json.dumps([self.path, self.layer, self.bits]).encode() + b"\n" + content.getvalue()

    @classmethod
    def decode(cls, content: bytes) -> "FittedLayer":
        """The layer from bytes."""
        head, _, arrays = content.partition(b"\n")
        path, layer, bits = json.loads(head)
        with np.load(io.BytesIO(arrays), allow_pickle=False) as found:
            stored: Mapping[str, np.ndarray] = dict(found)
        plain = {name: array for name, array in stored.items() if "." not in name}
        parts = {name.removeprefix("tally."): array for name, array in stored.items() if "." in name}
        return cls(path, layer, bits, Fitted(**plain, tally=Tally(**parts) if parts else None))

    def codebook(self) -> LayerCodebook:
        """The codebook of the layer; it says that codes hold nothing while they are not counted."""
        locations, k, _ = self.fitted.centroids.shape
        tally = self.fitted.tally or Tally.empty(locations, k, 0, 1)
        return LayerCodebook(
            centroids=self.fitted.centroids,
            histogram=tally.histogram.astype(np.int32),
            exemplar=tally.exemplar.astype(np.int32),
            n_codes=self.fitted.n_codes.astype(np.int32),
            bits=self.bits,
        )

    def write(self, writer: ArtifactWriter) -> "LayerSummary":
        """Write the layer's datasets; the figures that describe it."""
        book, name = self.codebook(), f"{self.path}/{self.layer}"
        datasets = {
            "centroid": book.centroids,
            "histogram": book.histogram,
            "exemplar": book.exemplar,
            "inertia": self.tally.inertia,
            "scatter": self.tally.scatter,
            "n_codes": book.n_codes,
            "n_distinct": self.fitted.n_distinct.astype(np.int32),
            "n_dead": self.fitted.n_dead.astype(np.int32),
        }
        for part, array in datasets.items():
            writer.write(f"{name}/{part}", array)
        return summarise_layer(
            self.path,
            self.layer,
            filters=book.centroids.shape[2],
            bits=self.bits,
            **{part: datasets[part] for part in DESCRIBED},
        )


class FittedLayers:
    """Finished layers, stored in the journal; the last record of a layer counts."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places: dict[tuple[str, str, int], int] = {}
        self._counted: set[tuple[str, str, int]] = set()
        for place in range(len(journal)):
            self._note(FittedLayer.decode(journal[place]), place)

    def holds(self, path: str, layer: str, bits: int) -> bool:
        """Whether a layer is fitted."""
        return (path, layer, bits) in self._places

    def is_counted(self, path: str, layer: str, bits: int) -> bool:
        """Whether the statistics of a layer's codes are known."""
        return (path, layer, bits) in self._counted

    def load(self, path: str, layer: str, bits: int) -> FittedLayer:
        """A layer that is fitted."""
        return FittedLayer.decode(self._journal[self._places[path, layer, bits]])

    def add(self, layer: FittedLayer) -> None:
        """Keep a layer."""
        self._journal.append(layer.encode())
        self._note(layer, len(self._journal) - 1)

    def _note(self, layer: FittedLayer, place: int) -> None:
        key = (layer.path, layer.layer, layer.bits)
        self._places[key] = place
        if layer.is_counted:
            self._counted.add(key)


DESCRIBED = ("histogram", "inertia", "scatter", "n_distinct", "n_dead")
"""Datasets that a layer's figures are made of."""


@dataclass(frozen=True)
class LayerSummary:
    """How well the codes of a layer describe its features.

    `used` is the effective k, the mean number of codes of a location that hold a training sample; `scarce` counts the
    locations with fewer distinct vectors than k, `silent` those whose features are all zero; `dead` is the mean share
    of filters that are zero for every sample. `explained` is one less the share of scatter left as inertia; `purity`
    the mean share of a code's largest class, over samples; `bits` the precision of look-ups.
    """

    path: str
    layer: str
    locations: int
    k: int
    used: float
    scarce: int
    silent: int
    dead: float
    explained: float
    purity: float
    bits: int


def summarise_layer(
    path: str,
    layer: str,
    *,
    filters: int,
    bits: int,
    histogram: Int[np.ndarray, "location code klass"],
    inertia: Float[np.ndarray, " location"],
    scatter: Float[np.ndarray, " location"],
    n_distinct: Int[np.ndarray, " location"],
    n_dead: Int[np.ndarray, " location"],
) -> LayerSummary:
    """The figures of a layer that `fer cluster` and `fer info` show. Raises ValueError if no sample is counted."""
    locations, k, _ = histogram.shape
    if not histogram.any():
        raise ValueError(f"no sample is counted in {path}/{layer}")
    return LayerSummary(
        path=path,
        layer=layer,
        locations=locations,
        k=k,
        used=float((histogram.sum(axis=2) > 0).sum(axis=1).mean()),
        scarce=int((n_distinct < k).sum()),
        silent=int((n_dead == filters).sum()),
        dead=float(n_dead.mean() / filters),
        explained=float(1 - inertia.sum() / scatter.sum()) if scatter.sum() > 0 else 1.0,
        purity=float(histogram.max(axis=2).sum() / histogram.sum()),
        bits=bits,
    )


_HEADS = {"locations": "places"}
_UNLESS_NONE = ("scarce", "silent")


def layer_rows(layers: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str | int]]]:
    """Rows of a narrow table for each path, from summaries as plain values; what no layer has is left out."""
    hidden = {"path", *(name for name in _UNLESS_NONE if not any(layer[name] for layer in layers))}
    tables: dict[str, list[dict[str, str | int]]] = {}
    for layer in layers:
        row = {
            _HEADS.get(name, name): f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            for name, value in layer.items()
            if name not in hidden
        }
        tables.setdefault(layer["path"], []).append(row)
    return tables
