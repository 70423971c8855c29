"""What mixed precision does to the views of a run's samples (`fer_cli.network.views`): time, and whether any alarm changes.

Run: python benchmarks/views.py RUN [RUN ...] [--samples N]

Of each run's validation and test samples (the first N of each), it takes the mean class probabilities over the default views,
in float32 and in the precision that the network was trained in, in turn. It prints Markdown tables: seconds; differences; how
well the mean probability of the predicted class tells misclassified test samples (AUROC); and what becomes of its p-value among
correct validation samples, and of an alarm at 5 %, where both sides change their precision or only the validation samples do.
See docs/adr/0042.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score

from fer_cli.artifacts import RunArtifacts
from fer_cli.network.activations import batches
from fer_cli.network.fer_cnn import FERCNN
from fer_cli.network.views import views_of
from fer_cli.storage.run_paths import RunPaths
from machine import cpu_name

FLOAT32, MIXED = "float32", "mixed"
ALARM = 0.05


@dataclass
class Seen:
    """Mean class probabilities over views, in one precision."""

    labels: Int[np.ndarray, " sample"]
    parts: list[Float[np.ndarray, "sample klass"]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def means(self) -> Float[np.ndarray, "sample klass"]:
        """Of all samples."""
        return np.concatenate(self.parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    for folder in options.runs:
        run = RunArtifacts(RunPaths.in_folder(folder), device=torch.device("cpu"))
        validation, test = run.model.read("validation/index"), run.voxels.indices("test")
        held = read(run, validation[: options.samples])
        tested = read(run, test[: options.samples])
        print(f"{folder}\n\n| samples | float32, s | mixed, s | largest difference | root mean square |")
        print("|---|---|---|---|---|")
        for name, found in (("validation", held), ("test", tested)):
            away = found[MIXED].means - found[FLOAT32].means
            seconds = " | ".join(f"{found[kind].seconds:.1f}" for kind in (FLOAT32, MIXED))
            print(f"| {len(away)} {name} | {seconds} | {np.abs(away).max():.1e} | {np.sqrt((away**2).mean()):.1e} |")
        predicted = tested[FLOAT32].means.argmax(axis=1)
        wrong = predicted != tested[FLOAT32].labels
        for kind in (FLOAT32, MIXED):
            print(f"\nAUROC, {kind}: {roc_auc_score(wrong, -chosen(tested[kind], predicted)):.5f}")
        usual = p_values(held[FLOAT32], tested[FLOAT32], predicted)
        print("\n| changed | p-value, largest | of those up to 0.1 | alarms that change |\n|---|---|---|---|")
        for name, kind in (("both", MIXED), ("validation alone", FLOAT32)):
            now = p_values(held[MIXED], tested[kind], predicted)
            moved, alarms = np.abs(now - usual), (now <= ALARM) != (usual <= ALARM)
            low = moved[usual <= 0.1].max(initial=0.0)
            print(f"| {name} | {moved.max():.4f} | {low:.4f} | {alarms.sum()} of {(usual <= ALARM).sum()} |")
        print(flush=True)


def read(run: RunArtifacts, indices: Int[np.ndarray, " sample"]) -> dict[str, Seen]:
    """Means over the run's default views, in both precisions, in turn."""
    views = views_of(run.model.config, run.network.spec.input)
    found = {kind: Seen(run.voxels.labels[indices]) for kind in (FLOAT32, MIXED)}
    for part in batches(indices):
        volumes = run.voxels.tensor(part)
        for kind, seen in found.items():
            FERCNN.takes_mixed_precision = kind == MIXED  # type: ignore[assignment, method-assign]
            started = time.perf_counter()
            seen.parts.append(views.probabilities(run.network, volumes))
            seen.seconds += time.perf_counter() - started
    return found


def chosen(seen: Seen, predicted: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    """The mean probability, over views, of each sample's predicted class."""
    return seen.means[np.arange(len(predicted)), predicted]


def p_values(held: Seen, tested: Seen, predicted: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    """Of the mean probability of the predicted class, among the validation samples that are classified correctly."""
    said = held.means.argmax(axis=1)
    correct: Bool[np.ndarray, " sample"] = said == held.labels
    reference = np.sort(chosen(held, said)[correct])
    below = np.searchsorted(reference, chosen(tested, predicted), side="right")
    return (1 + below) / (1 + len(reference))


if __name__ == "__main__":
    main()
