"""Outcomes of labelled samples: the columns that metrics, claims and figures read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.codebooks.reconstruction import error_norms, mean_errors
from fer_cli.evaluation.results import Errors, Shares
from fer_cli.network.activations import PATHS


@dataclass(frozen=True)
class Outcomes:
    """Samples of one run or of several, a column an array.

    `index` is the position in the voxel set, `nearest` the class of the nearest training sample, `errors` are Table
    I's, `speaks_for[path][layer]` is the class with the most evidence, −1 where several have as much. `repeated` is
    true where a training sample has the same grid. `voted` is the class by a vote of turned views, None if there was no
    vote. `code_errors` are the input's errors to the reconstruction from each class's code, and `other_local` the error
    to the nearest local reconstruction of another sample, not a number where there is none; None if not measured.
    """

    index: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    predicted: Int[np.ndarray, " sample"]
    nearest: Int[np.ndarray, " sample"]
    errors: dict[str, Float[np.ndarray, " sample"]]
    speaks_for: dict[str, dict[str, Int[np.ndarray, " sample"]]]
    repeated: Bool[np.ndarray, " sample"]
    voted: Int[np.ndarray, " sample"] | None = None
    code_errors: Float[np.ndarray, "sample klass"] | None = None
    other_local: Float[np.ndarray, " sample"] | None = None

    @staticmethod
    def joined(parts: Sequence["Outcomes"]) -> "Outcomes":
        """The samples of several runs, one after the other; of layers those that all have."""
        first = parts[0]
        return Outcomes(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.nearest for part in parts]),
            {name: np.concatenate([part.errors[name] for part in parts]) for name in first.errors},
            {
                path: {
                    layer: np.concatenate([part.speaks_for[path][layer] for part in parts])
                    for layer in layers
                    if all(layer in part.speaks_for[path] for part in parts)
                }
                for path, layers in first.speaks_for.items()
            },
            np.concatenate([part.repeated for part in parts]),
            *(
                _concatenated([getattr(part, name) for part in parts])
                for name in ("voted", "code_errors", "other_local")
            ),
        )

    @property
    def wrong(self) -> Bool[np.ndarray, " sample"]:
        """Whether each sample is misclassified."""
        return self.labels != self.predicted

    def table1(self) -> dict[str, Errors | None]:
        """Table I's errors, summed squares, means over all, correct and misclassified samples."""
        return self._table1(self.errors)

    def errors_norm(self) -> dict[str, Errors | None]:
        """The same of Euclidean norms, the paper's unit."""
        return self._table1(error_norms(self.errors))

    def _table1(self, errors: Mapping[str, Float[np.ndarray, " sample"]]) -> dict[str, Errors | None]:
        groups = {"all": np.ones_like(self.wrong), "correct": ~self.wrong, "misclassified": self.wrong}
        return {name: mean_errors(errors, chosen) for name, chosen in groups.items()}

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


def _concatenated(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The columns of several runs as one; None where a run has none."""
    known = [column for column in columns if column is not None]
    return np.concatenate(known) if len(known) == len(columns) else None


def _share(which: Bool[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"]) -> float | None:
    return float(which[among].mean()) if among.any() else None
