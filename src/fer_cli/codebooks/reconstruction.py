"""Reconstructions that a diagnosis compares, and Table I's errors between them, batch-wise.

Local: decoded from a sample's own feature. Class-code: decoded from the class probabilities, each level snapped
to its nearest feedback centroids on the way down; the probabilities themselves are left as they are, else there
would be one reconstruction a class. Figs 5 and 7, Table I.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.codebooks.reading import Reading
from fer_cli.data.dataset import VolumeSet
from fer_cli.data.volumes import Volumes
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.explained import ExplainedNetwork

VolumeArray = Float[np.ndarray, "sample channel x y z"]
ERRORS = ("input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code")


@torch.inference_mode()
def local_reconstruction(network: ExplainedNetwork, reading: Reading, layer: str) -> VolumeArray:
    """Volumes decoded from the samples' own features at `layer`, every gate shut."""
    return network.reconstruct(reading.features[FEEDFORWARD][layer], layer).cpu().numpy()


def class_code_reconstruction(network: ExplainedNetwork, codebook: Codebook, reading: Reading) -> VolumeArray:
    """Volumes decoded from the class probabilities, each level snapped to its nearest feedback centroids."""
    return _decode_snapped(network, codebook, reading.features[FEEDBACK][OUTPUT])


def class_reconstructions(network: ExplainedNetwork, codebook: Codebook) -> Float[np.ndarray, "klass channel x y z"]:
    """The class-code reconstruction of each class: from the probabilities of a network that is sure of it."""
    sure = torch.eye(len(network.spec.classes), device=network.backbone.device)
    return _decode_snapped(network, codebook, sure[:, :, None, None, None])


def class_code_errors(
    volumes: VolumeArray, of_classes: Float[np.ndarray, "klass channel x y z"]
) -> Float[np.ndarray, "sample klass"]:
    """Squared differences, summed over voxels, of each volume and each class's reconstruction."""
    return np.stack([_summed_squared_error(volumes, np.broadcast_to(one, volumes.shape)) for one in of_classes], axis=1)


@torch.inference_mode()
def representatives(
    network: ExplainedNetwork, codebook: Codebook, reading: Reading
) -> dict[str, dict[str, VolumeArray]]:
    """By path and layer, volumes decoded from the feature made of the centroids that the samples chose there."""
    paths, device = tuple(reading.codes), network.backbone.device
    features = {
        layer: torch.cat([codebook.feature_map(path, layer, reading.codes[path][layer], device) for path in paths])
        for layer in network.spec.layer_names
    }
    decoded = network.reconstruct_each(features)
    halves = {layer: np.split(volumes.cpu().numpy(), len(paths)) for layer, volumes in decoded.items()}
    return {path: {layer: halves[layer][i] for layer in features} for i, path in enumerate(paths)}


def layer_exemplar(codebook: Codebook, reading: Reading, path: str, layer: str) -> Int[np.ndarray, " sample"]:
    """The training sample that most of a layer's chosen centroids name, for each sample of the reading."""
    return _elect([codebook.layer(path, layer).chosen_exemplars(reading.codes[path][layer])])


def nearest_training_sample(codebook: Codebook, reading: Reading) -> Int[np.ndarray, " sample"]:
    """The training sample nearest by the class code, for each sample of the reading.

    It is the one that the chosen feedback centroids name most; every level below the output has one vote, which its
    locations share.
    """
    layers = codebook.spec.layer_names[:-1]
    return _elect(
        [codebook.layer(FEEDBACK, layer).chosen_exemplars(reading.codes[FEEDBACK][layer]) for layer in layers]
    )


def table1_errors(
    inputs: VolumeArray, local: VolumeArray, nearest: VolumeArray, class_code: VolumeArray
) -> dict[str, np.ndarray]:
    """Table I's four errors of each sample: squared differences summed over voxels."""
    pairs = {
        "input_vs_local": (inputs, local),
        "nearest_vs_code": (nearest, class_code),
        "local_vs_code": (local, class_code),
        "input_vs_code": (inputs, class_code),
    }
    return {name: _summed_squared_error(a, b) for name, (a, b) in pairs.items()}


def read_errors(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    reading: Reading,
    volumes: Volumes,
) -> dict[str, Float[np.ndarray, " sample"]]:
    """Table I's four errors of the samples of a reading, whose volumes are `volumes`."""
    return table1_errors(
        volumes.numpy(),
        local_reconstruction(network, reading, network.spec.local_layer),
        voxels.volumes(nearest_training_sample(codebook, reading)),
        class_code_reconstruction(network, codebook, reading),
    )


def mean_errors(
    errors: Mapping[str, Float[np.ndarray, " sample"]], chosen: Bool[np.ndarray, " sample"]
) -> dict[str, float] | None:
    """Means of Table I's errors over the chosen samples, and the ratio of the means; None if there are none."""
    if not chosen.any():
        return None
    means = {name: float(errors[name][chosen].mean()) for name in ERRORS}
    return {**means, "ratio": means["input_vs_code"] / means["input_vs_local"]}


def error_norms(errors: Mapping[str, Float[np.ndarray, "*sample"]]) -> dict[str, Float[np.ndarray, "*sample"]]:
    """Table I's errors as Euclidean norms, the paper's unit: square roots of the summed squares."""
    return {name: np.sqrt(error) for name, error in errors.items()}


def error_ratio(errors: Mapping[str, Float[np.ndarray, " sample"]]) -> Float[np.ndarray, " sample"]:
    """The paper's headline: input_vs_code over input_vs_local, sample by sample."""
    return errors["input_vs_code"] / np.maximum(errors["input_vs_local"], np.finfo(np.float64).tiny)


@torch.inference_mode()
def _decode_snapped(
    network: ExplainedNetwork, codebook: Codebook, probabilities: Float[Tensor, "sample klass 1 1 1"]
) -> VolumeArray:
    def snap(level: str, feature: Tensor) -> Tensor:
        if level == OUTPUT:
            return feature
        codes = codebook.layer(FEEDBACK, level).assign(feature)
        return codebook.feature_map(FEEDBACK, level, codes, feature.device)

    return network.reconstruct(probabilities, OUTPUT, edit=snap).cpu().numpy()


def _summed_squared_error(a: VolumeArray, b: VolumeArray) -> Float[np.ndarray, " sample"]:
    if a.shape != b.shape:  # broadcasting would compare every sample with every other
        raise ValueError(f"grids of shapes {a.shape} and {b.shape} cannot be compared")
    return np.square(a.astype(np.float64) - b).reshape(len(a), -1).sum(axis=1)


def _elect(ballots: Sequence[Int[np.ndarray, "sample _"]]) -> Int[np.ndarray, " sample"]:
    """The candidate with most votes for each sample, the lowest index of equals; −1 votes for none.

    A ballot's locations share one vote. Candidate 0 where no location votes.
    """
    width = 1 + max(int(ballot.max(initial=0)) for ballot in ballots)
    pairs, shares = [], []  # a sample and a candidate as one number, and the share of a vote
    for ballot in ballots:
        valid = ballot >= 0
        named, counts = np.unique(np.nonzero(valid)[0] * width + ballot[valid], return_counts=True)
        pairs.append(named)
        shares.append(counts / ballot.shape[1])
    named, place = np.unique(np.concatenate(pairs), return_inverse=True)
    votes = np.bincount(place, np.concatenate(shares), len(named))
    samples, candidates = np.divmod(named, width)
    order = np.lexsort((candidates, -votes, samples))
    voting, first = np.unique(samples[order], return_index=True)
    elected = np.zeros(len(ballots[0]), np.int64)
    elected[voting] = candidates[order][first]
    return elected
