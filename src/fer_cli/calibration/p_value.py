"""The empirical p-value: how rare a score is among reference samples."""

import numpy as np
from jaxtyping import Float


def empirical_p_value(
    scores: Float[np.ndarray, " sample"], reference: Float[np.ndarray, " reference"]
) -> Float[np.ndarray, " sample"]:
    """Share of reference scores that are at least as high as each score, the sample itself counted in.

    Never zero: with n reference scores at least 1 / (n + 1).

    Source: the conformal p-value of Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World".
    """
    ordered = np.sort(reference)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (at_least + 1) / (len(ordered) + 1)
