"""Confidence scores that a classifier's logits give: published baselines of failure detection.

Every score is high where the prediction looks trustworthy. Each is written from its definition, since the packages that
have them need torchvision (`docs/adr/0014`).
"""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp, softmax

Logits = Float[np.ndarray, "sample klass"]
Scores = Float[np.ndarray, " sample"]

P_NORMS = tuple(range(1, 11))
"""Norms that `max_logit_p_norm` is tried with."""
GEN_EXPONENT = 0.1
GEN_CLASSES = 100


def maximum_softmax(logits: Logits) -> Scores:
    """The largest probability. Source: Hendrycks and Gimpel, ICLR 2017."""
    return softmax(logits.astype(np.float64), axis=1).max(axis=1)


def softmax_margin(logits: Logits) -> Scores:
    """Log odds of the two most probable classes, the difference of the two largest logits."""
    ordered = np.sort(logits.astype(np.float64), axis=1)
    return ordered[:, -1] - ordered[:, -2]


def negative_entropy(logits: Logits) -> Scores:
    """Less the entropy of the class probabilities, in nats."""
    logarithms = log_softmax(logits.astype(np.float64), axis=1)
    return (np.exp(logarithms) * logarithms).sum(axis=1)


def max_logit(logits: Logits) -> Scores:
    """The largest logit. Source: Hendrycks et al., "Scaling Out-of-Distribution Detection", ICML 2022."""
    return logits.astype(np.float64).max(axis=1)


def max_logit_p_norm(logits: Logits, p: int) -> Scores:
    """The largest logit over the p-norm of the logits, these less their mean.

    Source: Cattelan and Silva, "How to Fix a Broken Confidence Estimator", UAI 2024: MaxLogit-pNorm with centralised
    logits.
    """
    return over_p_norm(logits, p).max(axis=1)


def softmax_p_norm(logits: Logits, p: int, temperature: float) -> Scores:
    """The largest probability of the logits, less their mean, over their p-norm and a temperature.

    Source: as `max_logit_p_norm`, MSP-pNorm.
    """
    return softmax(over_p_norm(logits, p) / temperature, axis=1).max(axis=1)


def energy(logits: Logits) -> Scores:
    """Less the free energy: log of the sum of the exponentials. Source: Liu et al., NeurIPS 2020, temperature 1."""
    return logsumexp(logits.astype(np.float64), axis=1)


def generalized_entropy(logits: Logits) -> Scores:
    """Less the sum of (p (1 − p))^0.1 over the 100 most probable classes. Source: Liu et al., GEN, CVPR 2023."""
    largest = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)[:, ::-1][:, :GEN_CLASSES]
    return -((largest * (1 - largest)) ** GEN_EXPONENT).sum(axis=1)


def doctor(logits: Logits) -> Scores:
    """Less the odds that a class drawn by the probabilities is wrong, (1 − Σ p²) / Σ p².

    Source: Granese et al., "DOCTOR", NeurIPS 2021, D_α at temperature 1 and without perturbing the input.
    """
    right = np.square(softmax(logits.astype(np.float64), axis=1)).sum(axis=1)
    return 1 - 1 / right


def scaled_softmax(logits: Logits, temperature: float) -> Scores:
    """The largest probability of the logits over a temperature. Source: Guo et al., ICML 2017."""
    return maximum_softmax(logits / temperature)


def over_p_norm(logits: Logits, p: int) -> Logits:
    """The logits, less their mean, over their p-norm."""
    centred = logits - logits.astype(np.float64).mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, ord=p, axis=1, keepdims=True)
    return centred / np.maximum(lengths, np.finfo(np.float64).tiny)
