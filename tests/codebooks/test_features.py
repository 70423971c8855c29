import contextlib
import copy
import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.codebooks.features import Extraction, FeatureStore, Slab, check_memory, plan_passes, whole_layer
from fer_cli.errors import FerError, ResourceError, UsageError
from fer_cli.network.activations import BATCH, FEEDBACK, FEEDFORWARD, PATHS, batches, encode_paths
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig
from fer_cli.run import Run
from networks import cube

PAPER = NetworkConfig(PRESETS["paper"], ("a", "b"), cube(32)).spec


@pytest.mark.parametrize("capacity", [8_192_000, 10**7, 12_345_678, 10**9, 10**12])
def test_passes_cover_each_location_once_within_capacity(capacity: int) -> None:
    layers = [whole_layer(PAPER, FEEDFORWARD, layer, samples=1000, bits=32) for layer in PAPER.layer_names]
    passes = plan_passes(layers, capacity)
    covered: dict[str, list[int]] = {layer: [] for layer in PAPER.layer_names}
    for slabs in passes:
        for slab in slabs:
            assert slab.start < slab.stop
            covered[slab.layer].extend(range(slab.start, slab.stop))
        assert 0 < sum(slab.bytes for slab in slabs) <= capacity
    for layer, locations in covered.items():
        assert locations == list(range(int(np.prod(PAPER.level_shape(layer)[1:]))))
    if capacity == 10**12:
        assert len(passes) == 1


def test_half_precision_takes_half_the_room() -> None:
    half, single = (whole_layer(PAPER, FEEDFORWARD, "conv1", samples=3592, bits=bits) for bits in (16, 32))
    assert single.bytes == 2 * half.bytes == 3592 * 64 * 16**3 * 4


def test_memory_too_small_for_one_location_is_refused() -> None:
    layers = [whole_layer(PAPER, FEEDFORWARD, layer, samples=1000, bits=16) for layer in PAPER.layer_names]
    check_memory(layers, 8_192_000)
    message = r"one location of conv5 needs 8.19 MB for 1000 samples, more than --memory allows \(8.19 MB\)"
    with pytest.raises(UsageError, match=message):
        check_memory(layers, 8_191_999)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("memory", [10**9, 20_000, 1])
def test_features_read_are_those_of_the_network(run: Run, memory: int, bits: int, tmp_path: Path) -> None:
    """All in memory, or partly in a scratch file; in one pass or several. No file is left behind."""
    config = run.network.spec
    samples = np.array([5, 70, 3, 3, *range(10, 77)])  # more than one batch, unordered, repeated
    extraction = Extraction(run.network, run.voxels, samples)
    parts = [encode_paths(run.network, run.voxels.tensor(part)) for part in batches(samples)]
    for path in PATHS[::-1]:  # the feedback path first, when the class probabilities are not known yet
        layers = [whole_layer(config, path, layer, samples=len(samples), bits=bits) for layer in config.layer_names]
        for capacity in (10**9, 40_000):
            found: dict[str, list[np.ndarray]] = {layer: [] for layer in config.layer_names}
            for slabs in plan_passes(layers, capacity):
                with FeatureStore(slabs, memory=memory, scratch=tmp_path) as store:
                    extraction.run(path, store, slabs)
                    for slab in slabs:
                        count = slab.stop - slab.start
                        middle = count // 2
                        pieces = [(0, middle), (middle, count)] if middle else [(0, count)]
                        found[slab.layer] += [np.array(store.read(slab, *piece)) for piece in pieces]
                        store.drop(slab)
                    assert not list(tmp_path.iterdir())
            for layer in config.layer_names:
                whole = torch.cat([features[path][layer] for features in parts]).flatten(2).permute(2, 0, 1)
                expected = whole.half() if bits == 16 else whole
                np.testing.assert_array_equal(np.concatenate(found[layer]), expected.numpy())
    assert FEEDBACK in PATHS


@pytest.mark.parametrize(("share", "on_disk"), [(1.0, 0), (0.6, 400), (0.3, 700), (0.01, 936)])
def test_the_last_samples_stay_in_memory(share: float, on_disk: int, tmp_path: Path) -> None:
    slab = Slab(FEEDFORWARD, "a", 3, 10, 1000, 8, 32)
    features = torch.randn(1000, 8, 2, 2, 5, generator=torch.Generator().manual_seed(0))
    with FeatureStore([slab], memory=int(share * slab.bytes), scratch=tmp_path) as store:
        for part in features.split(BATCH):
            store.put(slab, part)
        files = [Path(f"/proc/self/fd/{name}").stat().st_size for name in _open_in(tmp_path)]
        np.testing.assert_array_equal(store.read(slab, 2, 6), features.flatten(2).permute(2, 0, 1)[5:9].numpy())
    assert files == ([7 * on_disk * 8 * 4] if on_disk else [])
    assert not _open_in(tmp_path)


def _open_in(folder: Path) -> list[str]:
    """The file descriptors of this process that lead into a folder, files without a name too."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(link.readlink()).startswith(f"{folder}/"):
                found.append(link.name)
    return found


def test_scratch_folder_that_is_full_or_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slab = Slab(FEEDFORWARD, "a", 0, 100, 1000, 10, 16)
    with pytest.raises(ResourceError, match=r"cannot write .*nowhere: No such file or directory"):
        FeatureStore([slab], memory=10, scratch=tmp_path / "nowhere")

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"cannot write .*: the disk is full"):
        FeatureStore([slab], memory=10, scratch=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", PATHS)
def test_a_weight_that_is_no_number_is_an_error(run: Run, path: str) -> None:
    network = copy.deepcopy(run.network)
    part = network.backbone if path == FEEDFORWARD else network.feedback
    next(part.parameters()).data.view(-1)[0] = float("nan")
    samples = np.arange(3)
    layers = [whole_layer(network.spec, path, "conv1", samples=3, bits=32)]
    with (
        FeatureStore(layers, memory=10**9, scratch=Path()) as store,
        pytest.raises(FerError, match=rf"the {path} features of .* no numbers, in the batch of {run.voxels.names[0]}"),
    ):
        Extraction(network, run.voxels, samples).run(path, store, layers)


def test_a_slab_knows_its_size() -> None:
    slab = whole_layer(PAPER, FEEDBACK, OUTPUT, samples=10, bits=32)
    assert (slab.location_bytes, slab.bytes) == (10 * 2 * 4, 80)
    assert replace(slab, bits=16).bytes == 40
