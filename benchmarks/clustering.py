"""Codebooks of a trained network: k-means against its peers, extraction, look-ups, and the stage as a whole.

Run: python benchmarks/clustering.py RUN [--locations 64] [--samples N] [--workers N] [--seeds 6] [--only kmeans|inertia|extraction|stage]

RUN holds voxels.h5 and model.h5. Peers cluster the same features, in memory, in float32, in the same run and in turn: a loop
over `faiss.Kmeans` with its own threads and every vector, and `sklearn.cluster.KMeans` with its default start; all with
the same k and at most 20 iterations. Ours is what the stage's workers do, from features in half precision (feedforward) or
single (feedback): the centroids, and then also what each code holds; batched is `batched_kmeans`, which clusters on GPUs. Medians
of five rounds in turn, of scikit-learn one. Locations are spread evenly over the layer. With `--workers 1` every peer has one
thread, and times are the processor's, which other programs change little. Prints Markdown.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from sklearn.cluster import KMeans

from fer_cli.codebooks.batched_fitting import fit_batched
from fer_cli.codebooks.clustering import default_codes
from fer_cli.codebooks.codebook import open_codebook
from fer_cli.codebooks.features import Extraction, FeatureStore, whole_layer
from fer_cli.codebooks.fitting import Counted, Fitted, fit_locations
from fer_cli.codebooks.kmeans import ITERATIONS, nearest
from fer_cli.codebooks.layer_fitting import BITS
from fer_cli.codebooks.reading import read_samples
from fer_cli.data.dataset import open_voxels
from fer_cli.execution.executor import results_in_order
from fer_cli.execution.workers import open_threads
from fer_cli.network.activations import PATHS, batches, encode, encode_paths, feed_back
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.weights import load_network
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import MODEL
from machine import cpu_name, run_command

LAYERS = ("conv1", "conv2", "conv3")
ROUNDS = 5
FROM_BLAS = faiss.cvar.distance_compute_blas_threshold
"""Numbers of the vectors from which FAISS compares by its matrix product; `fer_cli` changes it, the loop has it as it is."""
PARTS = ("kmeans", "inertia", "extraction", "stage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--locations", type=int, default=64, help="of each layer, for the peers")
    parser.add_argument("--samples", type=int, help="at most so many training samples, for the peers")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads of every peer")
    parser.add_argument("--seeds", type=int, default=6, help="of each location, for the inertia of both engines")
    parser.add_argument("--only", choices=PARTS, action="append", help="of the parts; may be repeated")
    options = parser.parse_args()
    bench = Bench(options.run, options.samples, options.workers)
    torch.set_num_threads(options.workers)
    faiss.omp_set_num_threads(options.workers)
    print(f"{cpu_name()}, {os.cpu_count()} cores, FAISS {faiss.__version__}, torch {torch.__version__}, ", end="")
    print(f"{len(bench.samples)} samples, load average {os.getloadavg()[0]:.1f}\n")
    wanted = options.only or PARTS
    if "kmeans" in wanted:
        bench.compare_kmeans(options.locations)
    if "inertia" in wanted:
        bench.compare_inertia(options.locations, options.seeds)
    if "extraction" in wanted:
        bench.compare_extraction()
    if "stage" in wanted:
        bench.run_stage(options.run)


class Bench:
    """A network, its voxels and its training samples."""

    def __init__(self, run: Path, limit: int | None, workers: int) -> None:
        self.workers = workers
        self.clock = time.process_time if workers == 1 else time.perf_counter
        self.voxels = open_voxels(run / "voxels.h5", in_memory=True)
        self.model = open_artifact(run / "model.h5", MODEL)
        self.network = load_network(self.model, device=torch.device("cpu"))
        training = np.setdiff1d(self.voxels.indices("train"), self.model.read("validation/index"))
        self.samples = training if limit is None else np.sort(np.random.default_rng(0).permutation(training)[:limit])

    def compare_kmeans(self, locations: int) -> None:
        """k-means of each layer, as a table."""
        print(
            "| path | layer | k | loop over faiss.Kmeans | scikit-learn | ours | ours, with counts | batched "
            "| loop to ours | scikit-learn to ours | batched to ours "
            "| inertia, ours to loop | to scikit-learn | to batched |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )
        features = self.features(locations)
        for path in PATHS:
            for layer in LAYERS:
                self.compare_layer(path, layer, features.pop((path, layer)))
        print(
            "\nMilliseconds a location. Inertia is summed over the locations, in float64, on the features in float32.\n"
        )

    def features(self, locations: int) -> dict[tuple[str, str], np.ndarray]:
        """(location, sample, filter) in float32, by path and layer."""
        parts: dict[tuple[str, str], list[torch.Tensor]] = {}
        for part in batches(self.samples):
            for path, of_path in encode_paths(self.network, self.voxels.tensor(part)).items():
                for layer in LAYERS:
                    feature = of_path[layer].flatten(2).permute(2, 0, 1)
                    chosen = np.linspace(0, len(feature) - 1, min(len(feature), locations)).astype(int)
                    parts.setdefault((path, layer), []).append(feature[chosen])
        return {key: torch.cat(of_key, dim=1).contiguous().numpy() for key, of_key in parts.items()}

    def compare_layer(self, path: str, layer: str, features: np.ndarray) -> None:
        """One row of it."""
        k, stored = self.codes(layer), self.stored(path, features)
        counted = Counted(self.samples, self.voxels.labels[self.samples], len(self.voxels.classes))
        ways: dict[str, Callable[[], list[np.ndarray]]] = {
            "loop": lambda: [loop_kmeans(vectors, k, seed) for seed, vectors in enumerate(features)],
            "scikit-learn": lambda: [sklearn_kmeans(vectors, k, seed) for seed, vectors in enumerate(features)],
            "ours": lambda: our_kmeans(stored, k, None, self.workers),
            "counted": lambda: our_kmeans(stored, k, counted, self.workers),
            "batched": lambda: trimmed([fit_batched(torch.from_numpy(stored), k, range(len(stored)), None)]),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        centroids: dict[str, list[np.ndarray]] = {}
        for rounds in range(ROUNDS):
            for name, way in ways.items():
                if rounds and name == "scikit-learn":
                    continue
                elapsed, centroids[name] = timed(way, self.clock)
                taken[name].append(elapsed)
        seconds = {name: float(np.median(each)) for name, each in taken.items()}
        spread = {name: summed_inertia(features, found) for name, found in centroids.items()}
        peers = ("loop", "scikit-learn", "batched")
        cells = [f"{1e3 * seconds[name] / len(features):.1f}" for name in ways]
        cells += [f"{seconds[name] / seconds['ours']:.1f}" for name in peers]
        cells += [f"{spread['ours'] / spread[name]:.3f}" for name in peers]
        print(f"| {path} | {layer} | {k} | {' | '.join(cells)} |", flush=True)

    def compare_inertia(self, locations: int, n_seeds: int) -> None:
        """Summed inertia of what clusters on GPUs as a share of FAISS's, over seeds, as a table."""
        print(
            "| path | layer | locations | batched to ours | standard error | single seeds |\n|---|---|---|---|---|---|"
        )
        features = self.features(locations)
        for (path, layer), own in features.items():
            stored, k = self.stored(path, own), self.codes(layer)
            engines = np.empty((2, n_seeds))
            for seed in range(n_seeds):
                seeds = [1000 * seed + location for location in range(len(own))]
                fits = (fit_locations(stored, k, seeds, None), fit_batched(torch.from_numpy(stored), k, seeds, None))
                engines[:, seed] = [summed_inertia(own, trimmed([fit])) for fit in fits]
            ours, batched = engines / engines[0].mean()
            error = np.hypot(*(np.std(each, ddof=1) for each in (ours, batched))) / np.sqrt(n_seeds)
            single = np.sort(batched / ours)
            print(f"| {path} | {layer} | {len(own)} | {batched.mean():.4f} | {error:.4f} ", end="")
            print(f"| {single[0]:.3f} to {single[-1]:.3f} |", flush=True)
        print()

    def codes(self, layer: str) -> int:
        """The k of a layer."""
        names = self.network.spec.layer_names
        return dict(zip(names, default_codes(len(self.network.spec.levels)), strict=False))[layer]

    def stored(self, path: str, features: np.ndarray) -> np.ndarray:
        """Features as `fer cluster` keeps them."""
        return features.astype(np.float16 if BITS[path] == 16 else np.float32)

    def compare_extraction(self) -> None:
        """Samples a second of the network alone, and into a store in memory or a scratch file."""
        samples = self.samples[: 16 * 64]
        grids = [self.voxels.tensor(part) for part in batches(samples)]
        print("| path | network alone | into memory | into a scratch file | share |\n|---|---|---|---|---|")
        codes = [encode(self.network, grid)[OUTPUT] for grid in grids]
        for path in PATHS:
            layers = [
                whole_layer(self.network.spec, path, layer, samples=len(samples), bits=BITS[path])
                for layer in self.network.spec.layer_names
            ]
            extraction = Extraction(self.network, self.voxels, samples, codes)

            def pure(path: str = path) -> None:
                for i, part in enumerate(batches(samples)):
                    if path == "feedforward":
                        encode(self.network, self.voxels.tensor(part))
                    else:
                        feed_back(self.network, codes[i])

            def stored(memory: int, path: str = path, layers: list = layers, extraction: object = extraction) -> None:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    FeatureStore(layers, memory=memory, scratch=Path(folder)) as store,
                ):
                    extraction.run(path, store, layers)  # type: ignore[attr-defined]

            whole = sum(layer.bytes for layer in layers)
            ways: tuple[Callable[[], None], ...] = (
                pure,
                lambda stored=stored: stored(10**12),
                lambda stored=stored, whole=whole: stored(whole // 3),
            )
            seconds = [[timed(way)[0] for way in ways] for _ in range(1 + ROUNDS)]
            rates = len(samples) / np.median(seconds[1:], axis=0)
            print(f"| {path} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[2]:.0f} | {rates[1:].min() / rates[0]:.2f} |")
        print("\nSamples a second, batches of 64, medians of rounds in turn.\n")

    def run_stage(self, run: Path) -> None:
        """`fer cluster` as a process, the law that training samples give the stored counts, and look-ups."""
        with tempfile.TemporaryDirectory(dir=run) as folder:
            path = Path(folder) / "codebook.h5"
            done = run_command([
                "fer", "cluster", "--voxels", run / "voxels.h5", "--model", run / "model.h5", "-o", path, "--json",
            ])  # fmt: skip
            print(f"`fer cluster`: {done.seconds:.0f} s, peak memory {done.peak_bytes / 1e6:.0f} MB, ", end="")
            print(f"codebook {path.stat().st_size / 1e6:.0f} MB")
            for way in PATHS:
                size = sum(
                    whole_layer(self.network.spec, way, layer, samples=len(self.samples), bits=BITS[way]).bytes
                    for layer in self.network.spec.layer_names
                )
                print(f"Features of the {way} path: {size / 1e9:.2f} GB")
            self.check_counts(path)
            self.time_look_ups(path)

    def check_counts(self, path: Path) -> None:
        """Assign the training samples again, and tell what half precision would have changed."""
        book, artifact = open_codebook(path, self.model, self.network.spec)
        found: dict[tuple[str, str], np.ndarray] = {}
        for part in batches(self.samples):
            reading = read_samples(self.network, book, self.voxels.tensor(part))
            for way in PATHS:
                for layer, codes in reading.codes[way].items():
                    stored = artifact.read(f"{way}/{layer}/histogram") if (way, layer) not in found else None
                    histogram = found.setdefault((way, layer), np.zeros_like(stored))
                    np.add.at(histogram, (np.arange(codes.shape[1]), codes, self.voxels.labels[part][:, None]), 1)
        wrong = {
            key: int(np.abs(histogram - artifact.read(f"{key[0]}/{key[1]}/histogram")).sum()) // 2
            for key, histogram in found.items()
        }
        looked_up = len(self.samples) * sum(histogram.shape[0] for histogram in found.values())
        print(f"Training samples assigned again: {sum(wrong.values())} of {looked_up} codes unlike the stored counts")
        precision = artifact.attribute("precision")
        for way in PATHS:
            shares = {layer: f"{each['half_agreement']:.5f} ({each['bits']})" for layer, each in precision[way].items()}
            print(f"Look-ups that half precision leaves unchanged (bits used), {way}: {shares}")

    def time_look_ups(self, path: Path) -> None:
        """Time codes of one sample, and of a batch."""
        opened = time.perf_counter()
        book, _ = open_codebook(path, self.model, self.network.spec)
        book.layer("feedforward", "conv3")
        print(f"Open the codebook and load conv3 of one path: {1e3 * (time.perf_counter() - opened):.0f} ms")
        for count in (1, 64):
            features = encode_paths(self.network, self.voxels.tensor(self.samples[:count]))

            def product(features: dict = features) -> None:
                for way in PATHS:
                    for layer, feature in features[way].items():
                        book.layer(way, layer).assign(feature)

            def loop(features: dict = features) -> None:
                for way in PATHS:
                    for layer, feature in features[way].items():
                        vectors = np.ascontiguousarray(feature.flatten(2).permute(2, 0, 1).numpy())
                        own = book.layer(way, layer).centroids
                        for location in range(len(vectors)):
                            nearest(vectors[location], own[location])

            for name, way in (("batched product", product), ("loop over FAISS", loop)):
                way()
                fastest = min(timed(way)[0] for _ in range(5 if count == 1 else 2))
                print(f"Look-ups of {count} samples, all layers, both paths, {name}: {1e3 * fastest:.1f} ms")


def loop_kmeans(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    faiss.cvar.distance_compute_blas_threshold = FROM_BLAS
    kmeans = faiss.Kmeans(
        vectors.shape[1], k, niter=ITERATIONS, seed=seed, min_points_per_centroid=1, max_points_per_centroid=10**9
    )
    kmeans.train(vectors)
    return kmeans.centroids


def sklearn_kmeans(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct vectors than k
        return KMeans(k, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(vectors).cluster_centers_


def our_kmeans(stored: np.ndarray, k: int, counted: Counted | None, workers: int) -> list[np.ndarray]:
    step = max(1, 8 * 10**6 // stored[0].nbytes)
    with open_threads(workers) as executor:
        pieces = range(0, len(stored), step)
        calls = ((stored[i : i + step], k, list(range(i, min(i + step, len(stored)))), counted) for i in pieces)
        parts = list(results_in_order(executor, fit_locations, calls))
    return trimmed(parts)


def trimmed(parts: list[Fitted]) -> list[np.ndarray]:
    return [found[:used] for part in parts for found, used in zip(part.centroids, part.n_codes, strict=True)]


def summed_inertia(features: np.ndarray, centroids: list[np.ndarray]) -> float:
    total = 0.0
    for vectors, own in zip(features, centroids, strict=True):
        codes = nearest(vectors, np.ascontiguousarray(own, dtype=np.float32))
        total += np.square(vectors - own[codes].astype(np.float64)).sum()
    return total


def timed(way: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> tuple[float, object]:
    started = clock()
    result = way()
    return clock() - started, result


if __name__ == "__main__":
    main()
