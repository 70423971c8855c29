"""One run's samples with every confidence score: those of its clusters, and those of the baselines.

Whatever a score has to fit or choose it takes from the run's own training and validation samples, so that scores of
several runs can be put together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
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
from fer_cli.evaluation.encoded import Encoded, encode_samples, spool_samples
from fer_cli.evaluation.results import COMBINED, SUSPICION
from fer_cli.evaluation.split_reading import SplitReading

OURS = "ours"

_MOST_VALIDATION = 1024
"""At most so many validation samples choose among baselines, evenly spaced: each is compared with all training ones."""

Scores = dict[str, Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class Scored:
    """The samples of a split as one run reads them, and their scores by name; `kinds` are ours, baseline or trivial.

    `validation_scores` are the baselines' scores of the run's validation samples, at most `_MOST_VALIDATION`, of which
    `validation_wrong` are misclassified. `alarm` is what suspicion goes by.
    """

    reading: SplitReading
    scores: Scores
    kinds: dict[str, str]
    validation_scores: Scores
    validation_wrong: np.ndarray
    alarm: str


def score_run(
    run: RunArtifacts, reading: SplitReading, *, report: Callable[[int, int], None] = lambda done, total: None
) -> Scored:
    """Score the samples that a run has read."""
    network, voxels = run.network, run.voxels
    held_out = run.model.read("validation/index")
    clustered = np.setdiff1d(voxels.indices("train"), held_out)
    asked = held_out[np.linspace(0, len(held_out) - 1, min(len(held_out), _MOST_VALIDATION)).round().astype(np.int64)]
    done, total = 0, len(clustered) + 2 * len(asked) + len(reading.names)

    def count(number: int) -> None:
        nonlocal done
        done += number
        report(done, total)

    training = spool_samples(network, voxels, clustered, report=count)
    validation = encode_samples(network, voxels, asked, report=count)
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
    ours = own_scores(run, reading)
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
        run.calibration.alarm,
    )


def _varied(run: RunArtifacts, samples: Encoded, count: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Probabilities of the samples when they are turned or mirrored, or the network drops units."""
    dropout = run.model.config["training"]["dropout"]
    return varied_probabilities(run.network, run.voxels, samples, dropout=dropout, report=count)


def own_scores(run: RunArtifacts, reading: SplitReading) -> Scores:
    """The scores that a run's clusters and reconstructions give."""
    prior, outcomes = run.codebook.prior, reading.outcomes
    trust = 1 - run.calibration.suspicion(reading.confidence)
    return {
        SUSPICION: trust,
        COMBINED: trust,
        **error_scores(outcomes.errors),
        **(
            {} if outcomes.code_errors is None else {CODE_MARGIN: code_margin(outcomes.code_errors, outcomes.predicted)}
        ),
        **{name: values for name, values in reading.confidence.items() if name.startswith("evidence_")},
        **calibrated_scores(reading.evidence, run.temperatures, prior, outcomes.predicted),
        **agreement_scores(reading.evidence, run.temperatures, prior),
        **typicality_scores(reading.distances, run.typicality, outcomes.predicted),
    }
