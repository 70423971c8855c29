"""Mistakes gathered into groups that a person can act on: same classes, same cause, same layer, and alike.

Alike are samples whose features at the local layer lie together: each set of mistakes of one kind is divided by
hierarchical clustering, by the number of clusters with the best silhouette, or not at all.

Source: Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics 1987.
"""

from collections import Counter, defaultdict

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import pairwise_distances, silhouette_score

from fer_cli.artifacts import RunArtifacts
from fer_cli.diagnosis.cause import CAUSES, Cause
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.wording import with_article
from fer_cli.evaluation.encoded import local_features
from fer_cli.evaluation.study_results import Group

SEPARATE = 0.15
"""Silhouette from which on a set of mistakes is divided."""
MOST_PARTS = 4
_FEWEST = 6
"""Mistakes of one kind from which on they may be divided."""
_COUNTEREXAMPLES = 3


def group_mistakes(
    run: RunArtifacts,
    mistakes: dict[int, Diagnosis],
    right: Int[np.ndarray, " right"],
) -> list[Group]:
    """Groups of the mistakes, the largest first; `right` are the correctly classified samples of the split.

    The samples of a group are in the order of their distance to its middle. Counterexamples are correctly classified
    samples of the true class that are nearest to the middle.
    """
    kinds: dict[tuple[str, str, str, str | None], list[int]] = defaultdict(list)
    for index, found in mistakes.items():
        layer = found.answer.layer if found.cause.name == "layer" else None
        kinds[str(found.label), found.predicted, found.cause.name, layer].append(index)
    groups: list[Group] = []
    for (true, predicted, cause, layer), members in kinds.items():
        features = local_features(run.network, run.voxels, np.array(members))
        candidates = right[run.voxels.labels[right] == run.voxels.classes.index(true)]
        others = local_features(run.network, run.voxels, candidates)
        for part in alike(features):
            middle = features[part].mean(axis=0, keepdims=True)
            order = part[np.argsort(pairwise_distances(features[part], middle)[:, 0], kind="stable")]
            samples = [members[row] for row in order]
            away = pairwise_distances(others, middle)[:, 0] if len(others) else np.zeros(0)
            near = np.argsort(away, kind="stable")
            groups.append(
                {
                    "size": len(samples),
                    "share": len(samples) / len(mistakes),
                    "true": true,
                    "predicted": predicted,
                    "cause": cause,
                    "layer": layer,
                    "title": title(len(samples), true, predicted, cause, layer),
                    "samples": [run.voxels.names[index] for index in samples],
                    "remedy": remedy_of([mistakes[index].cause for index in samples]),
                    "counterexamples": [run.voxels.names[candidates[row]] for row in near[:_COUNTEREXAMPLES]],
                }
            )
    titles = Counter(group["title"] for group in groups)
    for group in groups:
        if titles[group["title"]] > 1:
            group["title"] += f", like {group['samples'][0]}"
    return sorted(groups, key=lambda group: -group["size"])


def remedy_of(causes: list[Cause]) -> str:
    """The remedy of a group's most typical sample, told of all; of unlike poses each has its own."""
    remedies = [cause.remedy for cause in causes]
    if causes[0].name == "pose" and len(set(remedies)) > 1:
        return "Turn each as its own report says, or train with such poses."
    return remedies[0].replace("like this one", "like these") if len(remedies) > 1 else remedies[0]


def title(size: int, true: str, predicted: str, cause: str, layer: str | None) -> str:
    """What a group is, in a line, such as `14 × a table taken for a desk: the two classes overlap`."""
    words = f"{layer} computes unusually" if layer else CAUSES[cause]
    return f"{size} × {with_article(true)} taken for {with_article(predicted)}: {words}"


def alike(features: Float[np.ndarray, "sample number"]) -> list[Int[np.ndarray, " member"]]:
    """Rows that lie together; all of them, where they do not fall apart."""
    whole = np.zeros(len(features), np.int64)
    best, found = SEPARATE, whole
    if len(features) >= _FEWEST:
        distances = pairwise_distances(features)
        for number in range(2, min(MOST_PARTS, len(features) - 1) + 1):
            parts = AgglomerativeClustering(number, metric="precomputed", linkage="average").fit_predict(distances)
            if (score := silhouette_score(distances, parts, metric="precomputed")) > best:
                best, found = score, parts
    return [np.flatnonzero(found == part) for part in np.unique(found)]
