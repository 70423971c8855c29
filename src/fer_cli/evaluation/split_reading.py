"""All samples of a split read once, through the network, its clusters and its reconstructions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.codebooks.reading import code_distances, read_samples
from fer_cli.codebooks.reconstruction import nearest_training_sample, read_errors
from fer_cli.evaluation.encoded import Encoded, kept_features
from fer_cli.evaluation.fidelity import Fidelity
from fer_cli.evaluation.results import Fidelity as FidelityMeans
from fer_cli.evaluation.votes import voted_probabilities
from fer_cli.network.activations import FEEDFORWARD, PATHS, batches
from fer_cli.network.backbone import OUTPUT

ByPath = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class SplitReading:
    """What is known of each sample of a split.

    `confidence` are the scores of `Reading.confidence_scores`, `distances` those of `code_distances`, by layer;
    `errors` Table I's; `nearest` the class of the nearest training sample; `evidence[path][layer]` has axes (sample,
    class). `repeated` is true where a training sample has the same grid. `voted` is the class by a vote of turned
    views, if there was one.
    """

    names: list[str]
    encoded: Encoded
    probabilities: Float[np.ndarray, "sample klass"]
    predicted: Int[np.ndarray, " sample"]
    confidence: dict[str, Float[np.ndarray, " sample"]]
    distances: dict[str, Float[np.ndarray, " sample"]]
    errors: dict[str, Float[np.ndarray, " sample"]]
    nearest: Int[np.ndarray, " sample"]
    evidence: ByPath
    repeated: Bool[np.ndarray, " sample"]
    voted: Int[np.ndarray, " sample"] | None
    reconstruction: FidelityMeans | None

    @property
    def labels(self) -> Int[np.ndarray, " sample"]:
        """The true classes."""
        return self.encoded.labels

    @property
    def wrong(self) -> Bool[np.ndarray, " sample"]:
        """Whether each sample is misclassified."""
        return self.predicted != self.labels

    @property
    def speaks_for(self) -> ByPath:
        """The class with the most evidence, by path and layer."""
        return {
            path: {layer: evidence.argmax(axis=1) for layer, evidence in layers.items()}
            for path, layers in self.evidence.items()
        }


def read_split(
    run: RunArtifacts,
    split: str,
    *,
    votes: int | None = None,
    fidelity: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SplitReading:
    """Read every labelled sample of a split.

    `votes` adds a vote over this number of turns, `fidelity` the reconstruction from every level.

    Raises UsageError if there is no sample or the votes cannot be taken, and what opening the run raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    indices = voxels.indices(split)
    measured = Fidelity(network) if fidelity else None
    columns: dict[str, list[np.ndarray]] = {}
    for part in batches(indices):
        volumes = voxels.tensor(part)
        reading = read_samples(network, codebook, volumes)
        batch = {
            "probabilities": reading.probabilities,
            "predicted": reading.predicted,
            "nearest": voxels.labels[nearest_training_sample(codebook, reading)],
            **_prefixed("feature", kept_features(network, volumes, reading.features[FEEDFORWARD])),
            **_prefixed("confidence", reading.confidence_scores()),
            **_prefixed("distance", code_distances(codebook, reading)),
            **_prefixed("error", read_errors(network, codebook, voxels, reading, volumes)),
            **{f"{path}/{layer}": of for path in PATHS for layer, of in reading.evidence[path].items()},
        }
        if votes is not None:
            batch["voted"] = voted_probabilities(network, volumes, votes).argmax(1).numpy()
        if measured is not None:
            measured.add(volumes, reading.features[FEEDFORWARD])
        for name, values in batch.items():
            columns.setdefault(name, []).append(values)
        report(sum(map(len, columns["predicted"])), len(indices))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    features = _of(joined, "feature")
    return SplitReading(
        names=[voxels.names[i] for i in indices],
        encoded=Encoded(indices, voxels.labels[indices], features.pop(OUTPUT), features),
        probabilities=joined["probabilities"],
        predicted=joined["predicted"],
        confidence=_of(joined, "confidence"),
        distances=_of(joined, "distance"),
        errors=_of(joined, "error"),
        nearest=joined["nearest"],
        evidence={path: _of(joined, path) for path in PATHS},
        # Nothing but the training split repeats itself.
        repeated=voxels.repeats_training(indices) if split != "train" else np.zeros(len(indices), dtype=bool),
        voted=joined.get("voted"),
        reconstruction=None if measured is None else measured.means(),
    )


def _prefixed(kind: str, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{kind}/{name}": values for name, values in columns.items()}


def _of(columns: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): values for name, values in columns.items() if name.startswith(f"{kind}/")}
