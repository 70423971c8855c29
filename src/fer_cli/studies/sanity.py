"""Whether explanations depend on what was learned: blame and scores with encoder, decoder or labels randomised.

Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018), re-initialise a network's weights, or train it on
permuted labels, and ask that the explanation changes. Here the trained network and each randomised one are clustered
alike, on the same few training samples, so that only what was randomised differs. Labels are permuted where the codes'
class histograms are counted; the network is not trained again, so this checks whether evidence depends on the
histograms, and not whether a network that had learned other labels would be explained otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from fer_cli.artifacts import RunArtifacts
from fer_cli.codebooks.batched_fitting import fit_batched
from fer_cli.codebooks.codebook import Codebook, LayerCodebook
from fer_cli.codebooks.fitting import fit_locations
from fer_cli.codebooks.kmeans import HAS_FAISS
from fer_cli.codebooks.reading import margin, read_samples
from fer_cli.data.dataset import VolumeSet
from fer_cli.evaluation.baselines import untrained_network
from fer_cli.evaluation.detection import weighted_metrics
from fer_cli.evaluation.resampling import interval_of_mean
from fer_cli.evaluation.study_results import Sanity
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS, batches, encode_paths
from fer_cli.network.explained import ExplainedNetwork

CLUSTERED = 400
"""Training samples, drawn at random, that every network is clustered on."""
TESTED = 300
"""Maximum number of samples to read; half of them misclassified if enough are."""
CODES = 20
TRAINED, ENCODER, DECODER, LABELS = "trained", "random_encoder", "random_decoder", "permuted_labels"


@dataclass(frozen=True)
class _Read:
    """Evidence for the predicted class less that for the other one, for samples and two classes that are given.

    `locations[layer]` has axes (sample, location) and is of the feedforward path.
    """

    locations: dict[str, Float[np.ndarray, "sample location"]]
    scores: dict[str, Float[np.ndarray, " sample"]]


def check_sanity(
    run: RunArtifacts,
    split: str,
    *,
    predicted: Int[np.ndarray, " sample"],
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Sanity:
    """Compare the trained network's evidence with that of randomised ones; `predicted` are the classes of the split.

    Blame is the order of locations, and of layers, by the feedforward evidence for the predicted class less that for
    the true one, on misclassified samples. Rank correlations with the trained network's near 1 mean that randomising
    changed nothing.
    """
    voxels, network = run.voxels, run.network
    generator = np.random.default_rng(seed)
    training = np.setdiff1d(voxels.indices("train"), run.model.read("validation/index"))
    clustered = np.sort(generator.permutation(training)[:CLUSTERED])
    indices = voxels.indices(split)
    chosen = _chosen(predicted != voxels.labels[indices], generator)
    samples, given, labels = indices[chosen], predicted[chosen], voxels.labels[indices[chosen]]
    wrong = given != labels
    fresh = untrained_network(network, seed=seed)
    shuffled = generator.permutation(voxels.labels[clustered])
    networks = {
        TRAINED: network,
        ENCODER: _joined(fresh, network),
        DECODER: _joined(network, fresh),
    }
    total = len(networks) + 1
    reads: dict[str, _Read] = {}
    for done, (name, randomised) in enumerate(networks.items()):
        book = fit_small_codebook(randomised, voxels, clustered, voxels.labels[clustered], seed=seed)
        reads[name] = _read(randomised, book, voxels, samples, given, labels)
        report(done + 1, total)
        if name == TRAINED:
            relabelled = _relabelled(network, book, voxels, clustered, shuffled)
            reads[LABELS] = _read(network, relabelled, voxels, samples, given, labels)
    report(total, total)
    trained = reads[TRAINED]
    checks = {name: _compared(trained, found, wrong) for name, found in reads.items()}
    return Sanity(
        n=len(samples),
        n_errors=int(wrong.sum()),
        clustered=len(clustered),
        checks=checks,
        findings=_findings(checks),
        blame_interval=interval_of_mean(_blame_correlations(trained, reads[ENCODER], network.spec.local_layer, wrong)),
    )


@torch.inference_mode()
def fit_small_codebook(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    labels: Int[np.ndarray, " sample"],
    *,
    seed: int,
) -> Codebook:
    """Codebooks of both paths in memory, on few samples, with few codes a location."""
    features: dict[tuple[str, str], list[Tensor]] = {}
    for part in batches(samples):
        for path, of_path in encode_paths(network, voxels.tensor(part)).items():
            for layer, feature in of_path.items():
                vectors = feature.flatten(2).permute(2, 0, 1).float()
                features.setdefault((path, layer), []).append(vectors)
    classes = len(network.spec.classes)
    books: dict[tuple[str, str], LayerCodebook] = {}
    for key in list(features):
        vectors = torch.cat(features.pop(key), dim=1).contiguous()
        k, seeds = min(CODES, len(samples)), [seed] * len(vectors)
        on_host = vectors.device.type == "cpu" and HAS_FAISS
        fitted = fit_locations(vectors.numpy(), k, seeds, None) if on_host else fit_batched(vectors, k, seeds, None)
        book = LayerCodebook(
            fitted.centroids,
            np.zeros((*fitted.centroids.shape[:2], classes), np.int32),
            np.full(fitted.centroids.shape[:2], -1, np.int32),
            fitted.n_codes.astype(np.int32),
            32,
        )
        books[key] = book
    return _relabelled(
        network,
        Codebook(network.spec, _prior(labels, classes), lambda path, layer: books[path, layer]),
        voxels,
        samples,
        labels,
    )


def _relabelled(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    labels: Int[np.ndarray, " sample"],
) -> Codebook:
    """The same codes with the class histograms that the given labels of the samples make."""
    classes = len(codebook.spec.classes)
    books = {(path, layer): codebook.layer(path, layer) for path in PATHS for layer in codebook.spec.layer_names}
    histograms = {key: np.zeros_like(book.histogram) for key, book in books.items()}
    for rows in batches(np.arange(len(samples))):
        for path, of_path in encode_paths(network, voxels.tensor(samples[rows])).items():
            for layer, feature in of_path.items():
                codes = books[path, layer].assign(feature)
                places = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)
                np.add.at(histograms[path, layer], (places, codes, labels[rows, None]), 1)
    counted = {key: replace(book, histogram=histograms[key]) for key, book in books.items()}
    return Codebook(codebook.spec, _prior(labels, classes), lambda path, layer: counted[path, layer])


def _prior(labels: Int[np.ndarray, " sample"], classes: int) -> Float[np.ndarray, " klass"]:
    # A class of which none was drawn keeps a little, since evidence divides by the prior.
    counts = np.bincount(labels, minlength=classes) + 1 / classes
    return counts / counts.sum()


def _read(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    predicted: Int[np.ndarray, " sample"],
    labels: Int[np.ndarray, " sample"],
) -> _Read:
    """Read the samples for the classes that the trained network gave them, whatever this network gives."""
    layers = network.spec.layer_names[:-1]
    locations: dict[str, list[np.ndarray]] = {}
    scores: dict[str, list[np.ndarray]] = {}
    for rows in batches(np.arange(len(samples))):
        reading = read_samples(network, codebook, voxels.tensor(samples[rows]))
        each = np.arange(len(rows))
        for layer in layers:
            evidence = codebook.evidence(FEEDFORWARD, layer, reading.codes[FEEDFORWARD][layer])
            difference = evidence[each, :, predicted[rows]] - evidence[each, :, labels[rows]]
            locations.setdefault(layer, []).append(difference)
            for path in PATHS:
                values = margin(reading.evidence[path][layer], predicted[rows])
                scores.setdefault(f"evidence_{path}_{layer}", []).append(values)
    return _Read(
        {layer: np.concatenate(parts) for layer, parts in locations.items()},
        {name: np.concatenate(parts) for name, parts in scores.items()},
    )


def _compared(trained: _Read, found: _Read, wrong: Bool[np.ndarray, " sample"]) -> dict[str, dict[str, float | None]]:
    """How alike blame and scores are to those of the trained network, and how well the scores detect failures."""
    ones = np.ones((1, len(wrong)), np.int64)
    layers: dict[str, dict[str, float | None]] = {}
    for layer in found.locations:
        known = _blame_correlations(trained, found, layer, wrong)
        layers[layer] = {"blame_correlation": float(np.mean(known)) if known else None}
        for path in PATHS:
            name = f"evidence_{path}_{layer}"
            layers[layer][f"{path}_score_correlation"] = _rank_correlation(trained.scores[name], found.scores[name])
            layers[layer][f"{path}_auroc"] = _number(weighted_metrics(found.scores[name], wrong, ones)["auroc"][0])
    return layers


def _blame_correlations(trained: _Read, found: _Read, layer: str, wrong: Bool[np.ndarray, " sample"]) -> list[float]:
    """Rank correlation of the locations' evidence with the trained network's, for each mistake that has one."""
    if found.locations[layer].shape[1] == 1:
        return []
    pairs = zip(trained.locations[layer][wrong], found.locations[layer][wrong], strict=True)
    return [value for a, b in pairs if (value := _rank_correlation(a, b)) is not None]


def _findings(checks: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> list[str]:
    """What the comparisons say, in words."""
    found = []
    for name, path, what in (
        (ENCODER, FEEDFORWARD, "an encoder with random weights"),
        (DECODER, FEEDBACK, "a decoder with random weights"),
        (LABELS, FEEDFORWARD, "permuted labels"),
    ):
        trained, randomised = (_best(checks[of], f"{path}_auroc") for of in (TRAINED, name))
        if trained is None or randomised is None:
            continue
        found.append(
            f"With {what} the best layer's {path} evidence detects misclassification with an AUROC of "
            f"{randomised[1]:.3f} ({randomised[0]}), with what was trained {trained[1]:.3f} ({trained[0]})"
            + (": randomising did not make it worse." if randomised[1] >= trained[1] else ".")
        )
    found.append("Blame follows the feedforward evidence, so that a decoder with random weights cannot change it.")
    return found


def _best(layers: Mapping[str, Mapping[str, float | None]], key: str) -> tuple[str, float] | None:
    known = {layer: value for layer, row in layers.items() if (value := row[key]) is not None}
    return max(known.items(), key=lambda item: item[1]) if known else None


def _chosen(wrong: Bool[np.ndarray, " sample"], generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    """Positions of at most `TESTED` samples, ascending: half of them misclassified, or all that are."""
    errors, right = (generator.permutation(np.flatnonzero(kind)) for kind in (wrong, ~wrong))
    errors = errors[: max(TESTED // 2, TESTED - len(right))]
    return np.sort(np.concatenate([errors, right[: TESTED - len(errors)]]))


def _joined(backbone_of: ExplainedNetwork, feedback_of: ExplainedNetwork) -> ExplainedNetwork:
    """A network of the one's backbone and the other's feedback network."""
    return ExplainedNetwork(backbone_of.backbone, feedback_of.feedback, backbone_of.untrained).eval()


def _rank_correlation(a: Float[np.ndarray, " value"], b: Float[np.ndarray, " value"]) -> float | None:
    """Spearman's; None where one of them has a single value."""
    if len(a) < 2 or not np.ptp(a) or not np.ptp(b):
        return None
    return float(spearmanr(a, b).statistic)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
