"""All samples of a split read once, through the network, its clusters and its reconstructions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.confidence import VIEWS
from fer_cli.calibration.departure import return_errors
from fer_cli.codebooks.reading import Reading, code_distances, read_samples
from fer_cli.codebooks.reconstruction import (
    class_code_errors,
    class_reconstructions,
    nearest_training_sample,
    read_errors,
)
from fer_cli.data.volumes import Volumes
from fer_cli.evaluation.encoded import Encoded, kept_features
from fer_cli.evaluation.fidelity import Fidelity
from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.resemblance import nearest_other_errors
from fer_cli.evaluation.results import Fidelity as FidelityMeans
from fer_cli.evaluation.votes import voted_probabilities
from fer_cli.network.activations import FEEDFORWARD, PATHS, Columns, batches
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.views import Views

DRAWS = 3
"""Draws of views that show by how much an accuracy varies between them."""
ByPath = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Viewed:
    """The classes that the mean over so many views predicts, an array a draw of the views."""

    number: int
    predicted: tuple[Int[np.ndarray, " sample"], ...]


@dataclass(frozen=True)
class SplitReading:
    """The samples of a split as one run reads them.

    `viewed` is None where samples are not varied. `confidence` are the scores
    of `Reading.confidence_scores`, and of views that of the predicted class; `distances` those of `code_distances` and
    `return_errors` those of `departure.return_errors`, by layer; `evidence[path][layer]` has axes (sample, class).
    """

    names: list[str]
    encoded: Encoded
    outcomes: Outcomes
    probabilities: Float[np.ndarray, "sample klass"]
    viewed: Viewed | None
    confidence: dict[str, Float[np.ndarray, " sample"]]
    distances: dict[str, Float[np.ndarray, " sample"]]
    return_errors: dict[str, Float[np.ndarray, " sample"]]
    evidence: ByPath
    reconstruction: FidelityMeans | None


def read_split(
    run: RunArtifacts,
    split: str,
    *,
    votes: int | None = None,
    views: int | None = None,
    fidelity: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SplitReading:
    """Read every labelled sample of a split.

    `votes` adds a vote over this number of turns, `views` the mean over this number of views in `DRAWS` draws, and
    `fidelity` the reconstruction from every level, and of the local ones how near those of other samples are.

    Raises UsageError if there is no sample or the votes or views cannot be taken, and what opening the run raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    indices = voxels.indices(split)
    measured = Fidelity(network) if fidelity else None
    asked = [replace(run.chosen_views(views), seed=draw) for draw in range(DRAWS)] if views is not None else []
    of_classes = class_reconstructions(network, codebook)
    columns = Columns(len(indices))
    for part in batches(indices):
        volumes = voxels.tensor(part)
        reading = read_samples(network, codebook, volumes)
        batch = _columns(run, volumes, reading)
        batch |= _view_columns(run, volumes, reading, asked)
        batch["code_error"] = class_code_errors(volumes.numpy(), of_classes)
        if votes is not None:
            batch["voted"] = voted_probabilities(network, volumes, votes).argmax(1).numpy()
        if measured is not None:
            measured.add(volumes, reading.features[FEEDFORWARD])
        columns.add(batch)
        report(columns.filled, len(indices))
    joined = columns.arrays
    features = _of(joined, "feature")
    evidence = {path: _of(joined, path) for path in PATHS}
    outcomes = Outcomes(
        index=indices,
        labels=voxels.labels[indices],
        predicted=joined["predicted"],
        nearest=joined["nearest"],
        errors=_of(joined, "error"),
        speaks_for={path: {layer: spoken_for(of) for layer, of in evidence[path].items()} for path in PATHS},
        # Nothing but the training split repeats itself.
        repeated=voxels.repeats_training(indices) if split != "train" else np.zeros(len(indices), dtype=bool),
        voted=joined.get("voted"),
        code_errors=joined["code_error"],
        other_local=nearest_other_errors(network, voxels, indices) if fidelity else None,
    )
    return SplitReading(
        names=[voxels.names[i] for i in indices],
        encoded=Encoded(indices, outcomes.labels, features.pop(OUTPUT), features),
        outcomes=outcomes,
        probabilities=joined["probabilities"],
        viewed=_viewed(_of(joined, "viewed"), asked[0] if asked else run.views),
        confidence=_of(joined, "confidence"),
        distances=_of(joined, "distance"),
        return_errors=_of(joined, "return_error"),
        evidence=evidence,
        reconstruction=None if measured is None else measured.means(),
    )


def _columns(run: RunArtifacts, volumes: Volumes, reading: Reading) -> dict[str, np.ndarray]:
    """What is kept of a batch of samples that was read."""
    network, codebook, voxels = run.network, run.codebook, run.voxels
    features = reading.features[FEEDFORWARD]
    return {
        "probabilities": reading.probabilities,
        "predicted": reading.predicted,
        "nearest": voxels.labels[nearest_training_sample(codebook, reading)],
        **_prefixed("feature", kept_features(network, volumes, features)),
        **_prefixed("confidence", reading.confidence_scores()),
        **_prefixed("distance", code_distances(codebook, reading)),
        **_prefixed("return_error", return_errors(network, volumes, features)),
        **_prefixed("error", read_errors(network, codebook, voxels, reading, volumes)),
        **{f"{path}/{layer}": of for path in PATHS for layer, of in reading.evidence[path].items()},
    }


def _view_columns(
    run: RunArtifacts, volumes: Volumes, reading: Reading, asked: Sequence[Views]
) -> dict[str, np.ndarray]:
    """What the views of a batch predict: those of the run, or instead of them the draws that were `asked` for."""
    columns = {}
    if run.views is not None:
        seen = run.views.probabilities(run.network, volumes)
        columns[f"confidence/{VIEWS}"] = seen[np.arange(len(seen)), reading.predicted]
        columns["viewed/0"] = seen.argmax(axis=1)
    for draw, views in enumerate(asked):
        columns[f"viewed/{draw}"] = views.probabilities(run.network, volumes).argmax(axis=1)
    return columns


def _viewed(predicted: dict[str, np.ndarray], views: Views | None) -> Viewed | None:
    return None if views is None else Viewed(views.number, tuple(predicted.values()))


def spoken_for(evidence: Float[np.ndarray, "sample klass"]) -> Int[np.ndarray, " sample"]:
    """The class with the most evidence; −1 where several have as much, which speaks for none."""
    tied = (evidence == evidence.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(tied, -1, evidence.argmax(axis=1))


def _prefixed(kind: str, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{kind}/{name}": values for name, values in columns.items()}


def _of(columns: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): values for name, values in columns.items() if name.startswith(f"{kind}/")}
