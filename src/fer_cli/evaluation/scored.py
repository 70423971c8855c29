"""One run's samples with every confidence score: those of its clusters, and those of the baselines.

Whatever a score has to fit or choose it takes from the run's own training and validation samples, so that scores of
several runs can be put together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.data.augmentation import Augmentation
from fer_cli.evaluation.baselines import (
    NETWORK,
    TRIVIAL,
    feature_baselines,
    logit_baselines,
    trivial_baselines,
    variation_baselines,
    varied_probabilities,
)
from fer_cli.evaluation.cluster_scores import (
    CODE_MARGIN,
    agreement_scores,
    calibrated_scores,
    code_margin,
    error_scores,
    typicality_scores,
)
from fer_cli.evaluation.encoded import Encoded, encode_samples
from fer_cli.evaluation.experts import Pair, even_weights, evidence_experts, nearest_experts, view_experts
from fer_cli.evaluation.posterior import Experts, Posterior, fit_posterior
from fer_cli.evaluation.split_reading import SplitReading
from fer_cli.network.activations import FEEDFORWARD

OURS = "ours"
COMBINED = "combined"
WITHOUT_CLUSTERS = "without_clusters"

Scores = dict[str, Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class Scored:
    """The samples of a split as one run reads them, and their scores by name; `kinds` are ours, baseline or trivial.

    `validation_scores` are the baselines' scores of the run's validation samples, of which `validation_wrong` are
    misclassified.
    """

    reading: SplitReading
    scores: Scores
    kinds: dict[str, str]
    validation_scores: Scores
    validation_wrong: np.ndarray
    posterior: Posterior


def score_run(
    run: RunArtifacts, reading: SplitReading, *, report: Callable[[int, int], None] = lambda done, total: None
) -> Scored:
    """Score the samples that a run has read."""
    network, voxels = run.network, run.voxels
    held_out = run.model.read("validation/index")
    clustered = np.setdiff1d(voxels.indices("train"), held_out)
    done, total = 0, len(clustered) + 2 * len(held_out) + len(reading.names)

    def count(number: int) -> None:
        nonlocal done
        done += number
        report(done, total)

    training = encode_samples(network, voxels, clustered, report=count)
    validation = encode_samples(network, voxels, held_out, report=count)
    tested = reading.encoded
    varied = [_varied(run, part, count) for part in (validation, tested)]
    pairs = {
        NETWORK: [
            logit_baselines(validation, tested),
            feature_baselines(network, training, validation, tested),
            (
                variation_baselines(varied[0], validation.predicted),
                variation_baselines(varied[1], tested.predicted),
            ),
        ],
        TRIVIAL: [trivial_baselines(network, voxels, training, (validation, tested))],
    }
    views = view_experts(validation, (varied[0]["augmentations"], varied[1]["augmentations"]))
    near = nearest_experts(training, validation, tested, len(network.spec.classes))
    evidence = evidence_experts(
        (run.validation_evidence[FEEDFORWARD], reading.evidence[FEEDFORWARD]),
        run.temperatures.evidence[FEEDFORWARD],
        run.codebook.prior,
    )
    pools = {COMBINED: (views, evidence, near), WITHOUT_CLUSTERS: (views, near)}
    posteriors = {name: _fitted(of, validation) for name, of in pools.items()}
    ours = {
        **{name: posteriors[name].log_odds(_joined(of, 1), tested.predicted) for name, of in pools.items()},
        **own_scores(run, reading),
    }
    theirs = {name: values for of_kind in pairs.values() for _, scores in of_kind for name, values in scores.items()}
    return Scored(
        reading,
        {**theirs, **ours},
        {
            **{name: kind for kind, of_kind in pairs.items() for _, scores in of_kind for name in scores},
            **dict.fromkeys(ours, OURS),
        },
        {name: values for of_kind in pairs.values() for scores, _ in of_kind for name, values in scores.items()},
        validation.wrong,
        posteriors[COMBINED],
    )


def _varied(run: RunArtifacts, samples: Encoded, count: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Probabilities of the samples when they, or the network, are varied as in training."""
    settings = run.model.config["training"]
    augmentation = Augmentation(**settings["augmentation"])
    return varied_probabilities(
        run.network, run.voxels, samples, dropout=settings["dropout"], augmentation=augmentation, report=count
    )


def own_scores(run: RunArtifacts, reading: SplitReading) -> Scores:
    """The scores that a run's clusters and reconstructions give."""
    prior, outcomes = run.codebook.prior, reading.outcomes
    return {
        "suspicion": 1 - run.calibration.suspicion(reading.confidence),
        **error_scores(outcomes.errors),
        **(
            {} if outcomes.code_errors is None else {CODE_MARGIN: code_margin(outcomes.code_errors, outcomes.predicted)}
        ),
        **{name: values for name, values in reading.confidence.items() if name.startswith("evidence_")},
        **calibrated_scores(reading.evidence, run.temperatures, prior, outcomes.predicted),
        **agreement_scores(reading.evidence, run.temperatures, prior),
        **typicality_scores(reading.distances, run.typicality, outcomes.predicted),
    }


def _fitted(pairs: Sequence[Pair], validation: Encoded) -> Posterior:
    """The posterior of some experts, fitted on validation samples."""
    experts = _joined(pairs, 0)
    return fit_posterior(experts, validation.labels, even_weights(experts))


def _joined(pairs: Sequence[Pair], part: int) -> Experts:
    return {name: table for pair in pairs for name, table in pair[part].items()}
