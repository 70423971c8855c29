"""How well rules of blame find a fault that was planted, and where they put real mistakes.

Run: python benchmarks/blame.py RUN [--per-class 6] [--seed 0]

Planting: the feature that a correctly classified validation sample has at one layer is moved towards that of a validation
sample of another class, in tenths of the way, until the network says that class. Half of the donors are of the runner-up
class, half of a random one. Layers below hold the sample's own features, so the layer is known at which the wrong class
came in; `output` stands for a fault above all layers, with every feature left as it is. Rules compared:

- sign: the lowest layer from which on all layers' evidence favours the wrong class;
- rare: the lowest layer from which on all layers do so more than at most 5 % of correctly classified validation samples,
  whose class is held against the runner-up;
- turn: that of `fer_cli.diagnosis.blame`, on calibrated evidence.

Prints Markdown tables: exact hits by planted layer; hits of `turn` by margin; blame of the mistakes on the validation and
the test split. See docs/adr/0012.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fer_cli.codebooks.reading import read_samples
from fer_cli.diagnosis.blame import turning_point
from fer_cli.network.activations import FEEDFORWARD, batches, encode
from fer_cli.network.backbone import OUTPUT
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths

Rule = Callable[[np.ndarray], list[int]]
Evidence = dict[str, np.ndarray]
STEPS = np.arange(0.1, 1.01, 0.1)
RARE = 0.05


def main() -> None:
    """Plant, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--per-class", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = Run(RunPaths.in_folder(options.run), device=torch.device("cpu"))
    layers = [*run.network.spec.layer_names[:-1], OUTPUT]
    held = run.model.read("validation/index")
    evidence, probabilities = read(run, held)
    labels = run.voxels.labels[held]
    rules = rules_of(run, evidence, probabilities, labels)

    receivers, donors = pairs(probabilities, labels, options.per_class, options.seed)
    hits: dict[str, list[np.ndarray]] = {name: [] for name in rules}
    margins: list[float] = []
    print(f"{len(receivers)} validation samples\n\n| planted at | planted | {' | '.join(rules)} |")
    print("|---|---|" + "---|" * len(rules))
    for number, layer in enumerate(layers):
        planted, done = plant(run, layer, evidence, held, receivers, donors, labels)
        found = differences(run, planted, labels[donors], labels[receivers])[done]
        for name, rule in rules.items():
            hits[name].append(np.array(rule(found)) == number)
        margins += [turning_point(row)[1] for row in found]
        print(f"| {layer} | {done.sum()} | {' | '.join(f'{parts[-1].mean():.2f}' for parts in hits.values())} |")
    print(f"| all | {len(margins)} | {' | '.join(f'{np.concatenate(parts).mean():.3f}' for parts in hits.values())} |")

    print("\n| margin of turn, nats | planted | found |\n|---|---|---|")
    right = np.concatenate(hits["turn"])
    edges = np.quantile(margins, np.linspace(0, 1, 6))
    for low, high in pairwise(edges):
        inside = (margins >= low) & (margins <= high)
        print(f"| {low:.1f} to {high:.1f} | {inside.sum()} | {right[inside].mean():.2f} |")

    print(f"\n| mistakes | rule | {' | '.join(layers)} |\n|---|---|{'---|' * len(layers)}")
    for split in ("validation", "test"):
        if split == "test":
            held = run.voxels.indices("test")
            evidence, probabilities = read(run, held)
            labels = run.voxels.labels[held]
        predicted = probabilities.argmax(axis=1)
        wrong = predicted != labels
        found = differences(run, evidence, predicted, labels)[wrong]
        for name, rule in rules.items():
            counts = np.bincount(rule(found), minlength=len(layers))
            print(f"| {split}, {wrong.sum()} | {name} | {' | '.join(map(str, counts))} |")
        shares = (found > 0).mean(axis=0)
        print(f"| {split} | favour the wrong class | {' | '.join(f'{share:.2f}' for share in shares)} | |")


def read(run: Run, indices: np.ndarray) -> tuple[Evidence, np.ndarray]:
    """Feedforward evidence by layer, and class probabilities."""
    evidence: dict[str, list[np.ndarray]] = {}
    probabilities = []
    for part in batches(indices):
        reading = read_samples(run.network, run.codebook, run.voxels.tensor(part))
        probabilities.append(reading.probabilities)
        for layer, values in reading.evidence[FEEDFORWARD].items():
            evidence.setdefault(layer, []).append(values)
    return {layer: np.concatenate(parts) for layer, parts in evidence.items()}, np.concatenate(probabilities)


def pairs(probabilities: np.ndarray, labels: np.ndarray, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correctly classified samples, and for each a donor that is correctly classified as something else."""
    generator = np.random.default_rng(seed)
    right = np.flatnonzero(probabilities.argmax(axis=1) == labels)
    classes = np.unique(labels[right])
    receivers = np.concatenate([generator.permutation(right[labels[right] == c])[:per_class] for c in classes])
    donors = []
    for number, receiver in enumerate(receivers):
        others = [c for c in np.argsort(-probabilities[receiver]) if c in classes and c != labels[receiver]]
        wanted = others[0] if number % 2 == 0 else generator.choice(others)
        donors.append(generator.choice(right[labels[right] == wanted]))
    return receivers, np.array(donors)


@torch.inference_mode()
def plant(
    run: Run,
    layer: str,
    evidence: Evidence,
    held: np.ndarray,
    receivers: np.ndarray,
    donors: np.ndarray,
    labels: np.ndarray,
) -> tuple[Evidence, np.ndarray]:
    """The receivers' evidence with a fault planted at `layer`, and where that could be done."""
    planted = {name: values[receivers] for name, values in evidence.items()}
    if layer == OUTPUT:
        return planted, np.ones(len(receivers), bool)
    network, wanted = run.network, torch.from_numpy(labels[donors])
    volumes = run.voxels.tensor(held[receivers])
    own = encode(network, volumes)[layer]
    other = encode(network, run.voxels.tensor(held[donors]))[layer]
    feature, done = own.clone(), torch.zeros(len(receivers), dtype=torch.bool)
    for share in STEPS:
        mixed = own + float(share) * (other - own)
        turned = (network.backbone.logits(volumes, patch={layer: mixed}).argmax(dim=1) == wanted) & ~done
        feature[turned] = mixed[turned]
        done |= turned
    names = run.network.spec.layer_names[:-1]
    above = names[names.index(layer) :]
    for name, patched in network.backbone.features(volumes, above, patch={layer: feature}).items():
        codes = run.codebook.layer(FEEDFORWARD, name).assign(patched)
        planted[name] = run.codebook.evidence(FEEDFORWARD, name, codes).sum(axis=1)
    return planted, done.numpy()


def differences(run: Run, evidence: Evidence, wrong: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Calibrated evidence for the wrong class less that for the true one, axes (sample, layer)."""
    rows = np.arange(len(wrong))
    columns = [
        (evidence[layer][rows, wrong] - evidence[layer][rows, true]) / temperature
        for layer, temperature in run.temperatures.evidence[FEEDFORWARD].items()
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def rules_of(run: Run, evidence: Evidence, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Rule]:
    """The rules by name; each gives the index of the blamed layer of every row."""
    right = probabilities.argmax(axis=1) == labels
    known = differences(run, evidence, np.argsort(-probabilities, axis=1)[:, 1], labels)[right]
    ordinary = np.quantile(known, 1 - RARE, axis=0)
    return {
        "sign": lambda found: [lowest_of_last_run(row > 0) for row in found],
        "rare": lambda found: [lowest_of_last_run(row > ordinary) for row in found],
        "turn": lambda found: [turning_point(row)[0] for row in found],
    }


def lowest_of_last_run(wrong: np.ndarray) -> int:
    """Where the run of wrong layers that ends at the last layer begins; one past the last if there is none."""
    trusted = np.flatnonzero(~wrong)
    return int(trusted[-1]) + 1 if trusted.size else 0


if __name__ == "__main__":
    main()
