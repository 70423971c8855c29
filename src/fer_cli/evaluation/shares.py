"""What the clusters of a split's samples speak for: shares of samples, by outcome, path and layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.evaluation.results import Shares
from fer_cli.network.activations import PATHS


@dataclass(frozen=True)
class Measured:
    """Samples, of one run or of several, with the classes that their clusters speak for.

    `nearest` is the class of the nearest training sample; `speaks_for[path][layer]` the class with the most evidence
    there.
    """

    labels: Int[np.ndarray, " sample"]
    predicted: Int[np.ndarray, " sample"]
    nearest: Int[np.ndarray, " sample"]
    errors: Mapping[str, Float[np.ndarray, " sample"]]
    speaks_for: Mapping[str, Mapping[str, Int[np.ndarray, " sample"]]]

    @property
    def wrong(self) -> Bool[np.ndarray, " sample"]:
        """Whether each sample is misclassified."""
        return self.labels != self.predicted

    def shares(self) -> dict[str, Shares]:
        """What layers and nearest training samples speak for; see the key `shares` of `fer figures --json`."""
        groups = {"correct": ~self.wrong, "misclassified": self.wrong}
        return {
            name: {
                "n": int(chosen.sum()),
                "nearest_of_true_class": _share(self.nearest == self.labels, chosen),
                "nearest_of_predicted_class": _share(self.nearest == self.predicted, chosen),
                "layers": [
                    {
                        "name": layer,
                        **{
                            f"{path}_{what}": _share(self.speaks_for[path][layer] == wanted, chosen)
                            for path in PATHS
                            for what, wanted in (("true", self.labels), ("predicted", self.predicted))
                        },
                    }
                    for layer in self.speaks_for[PATHS[0]]
                ],
            }
            for name, chosen in groups.items()
        }


def _share(which: Bool[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"]) -> float | None:
    return float(which[among].mean()) if among.any() else None
