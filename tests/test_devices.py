"""The device code of every stage, as on a GPU, on a machine without one; see `devices`."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attachables import Plain
from devices import CUDA, MixedDevicesError, Waits, device_of, pretended
from fer_cli.artifacts import choose_device
from fer_cli.calibration.calibrate import calibrate
from fer_cli.codebooks import kmeans
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.codebooks.lookup import nearest_rows
from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import open_voxels
from fer_cli.data.loading import Loader
from fer_cli.evaluation.results import Evaluation
from fer_cli.execution.progress import TrainingProgress
from fer_cli.network.attach import AttachSettings, attach
from fer_cli.network.attached.model_file import Origin
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, CODEBOOK, MODEL
from fer_cli.studies.findings import DOSE, FEATURE, WEIGHT
from fer_cli.studies.planted import plant_faults
from fer_cli.studies.repair_study import study_repairs
from fer_cli.studies.sanity import check_sanity
from tiny import TINY_K

VARIED = Augmentation(
    shift=1, mirror="xyz", rotation=10.0, stretch=0.1, quarter_turns=True, contrast=0.1, brightness=0.1
)


@pytest.fixture
def settings(tiny_preset: str) -> TrainingSettings:
    return TrainingSettings(
        tiny_preset, epochs=2, feedback_epochs=2, batch_size=18, dropout=0.1, augmentation=VARIED, balance=True
    )


@pytest.fixture
def pretence() -> Iterator[Waits]:
    """A GPU that is not there."""
    with pretended() as waits:
        yield waits


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """A GPU: one that is not there, and one that is, where it is."""
    if request.param == "real":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        yield
    else:
        with pretended():
            yield


def copied(paths: RunPaths, folder: Path, *names: str) -> RunPaths:
    """A run with some of the files of another."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = RunPaths.in_folder(folder)
    for name in names:
        shutil.copy(getattr(paths, name), getattr(copies, name))
    return copies


def on_gpu(run: Run) -> Run:
    """The same run, read on the GPU."""
    return Run(run.paths, device=CUDA)


def test_a_planted_mix_is_caught(pretence: Waits) -> None:
    """As on a GPU: each of these fails there, and none on the CPU."""
    network = torch.nn.Linear(3, 2).to("cuda")
    here, there = torch.ones(4, 3), torch.ones(4, 3, device="cuda")
    refused: list[Callable[[], object]] = [
        lambda: network(here),
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: there[:, 0].gather(0, torch.zeros(2, dtype=torch.int64)),
        lambda: here[torch.zeros(2, dtype=torch.int64, device="cuda")],
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda: torch.nn.functional.mse_loss(network(there), here[:, :2]).backward(),
    ]
    for each in refused:
        with pytest.raises(MixedDevicesError):
            each()
    with pytest.raises(TypeError, match="to host memory first"):
        there.numpy()
    with pytest.raises(TypeError, match="to host memory first"):
        np.asarray(there)


def test_what_a_gpu_allows_is_allowed(pretence: Waits) -> None:
    there = torch.ones(4, 3, device="cuda")
    assert device_of(there + torch.tensor(1.0)) == CUDA
    assert device_of(there[torch.tensor([0, 1])]) == CUDA
    assert device_of(there.cpu()).type == "cpu"
    assert there.cpu().numpy().sum() == 12
    assert torch.zeros_like(there).device == CUDA
    assert there.view(-1)[2:].device == CUDA
    assert device_of(torch.from_numpy(np.ones(3)).to(there)) == CUDA


def test_labels_follow_backward_passes_and_the_optimizer(pretence: Waits) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 2)).to("cuda")
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.ones(5, 3, device="cuda")).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    assert all(parameter.grad.device == CUDA for parameter in network.parameters())
    assert all(value.device == CUDA for state in optimizer.state.values() for value in state.values())
    optimizer.state[network[0].weight]["step"] = torch.tensor(1.0)
    with pytest.raises(MixedDevicesError, match="_fused_adamw_"):
        optimizer.step()


def test_waits_of_the_host_are_counted(pretence: Waits) -> None:
    there = torch.ones(4, 3, device="cuda")
    there * 2 + 1
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert not pretence.total
    float(there.sum())
    there.cpu()
    torch.ones(3).to("cuda")
    there[torch.tensor([0, 1])]
    assert pretence.total == 4


def test_training_is_on_one_device(run_paths: RunPaths, settings: TrainingSettings, tmp_path: Path, gpu: None) -> None:
    """The same run as on the CPU, but for rounding: bfloat16's, where the GPU has it."""
    accuracies = []
    for number, device in enumerate((CUDA, torch.device("cpu"))):
        paths = copied(run_paths, tmp_path / str(number), "voxels")
        summary = train(paths.voxels, paths.model, replace(settings, epochs=4), device=device)
        accuracies.append((summary.accuracy, summary.score))
    np.testing.assert_allclose(*accuracies, atol=0.1)


def test_a_training_step_is_that_of_the_cpu(run_paths: RunPaths, settings: TrainingSettings, tmp_path: Path) -> None:
    """On the pretended GPU PyTorch's own layers and batches from bits give the same weights."""
    paths, plain = copied(run_paths, tmp_path / "gpu", "voxels"), copied(run_paths, tmp_path / "cpu", "voxels")
    with pretended():
        train(paths.voxels, paths.model, replace(settings, epochs=1), device=CUDA)
    train(plain.voxels, plain.model, replace(settings, epochs=1), device=torch.device("cpu"))
    with open_artifact(paths.model, MODEL) as ours, open_artifact(plain.model, MODEL) as theirs:
        for name in theirs.names("encoder/"):
            np.testing.assert_allclose(ours.read(name), theirs.read(name), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("phase", ["feedforward", "feedback"])
def test_training_goes_on_where_it_was_interrupted(
    phase: str, run_paths: RunPaths, settings: TrainingSettings, tmp_path: Path, gpu: None
) -> None:
    """A resumed run ends bit for bit as an uninterrupted one."""
    whole, parted = copied(run_paths, tmp_path / "whole", "voxels"), copied(run_paths, tmp_path / "parted", "voxels")
    train(whole.voxels, whole.model, settings, device=CUDA)

    def stop(progress: TrainingProgress) -> None:
        if progress.phase == phase and progress.record is not None and progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parted.voxels, parted.model, settings, device=CUDA, report=stop)
    train(parted.voxels, parted.model, settings, device=CUDA, resume=True)
    with open_artifact(whole.model, MODEL) as one, open_artifact(parted.model, MODEL) as other:
        assert one.names() == other.names()
        for name in one.names("feedback/"):
            np.testing.assert_array_equal(one.read(name), other.read(name))


def test_the_host_does_not_wait_for_steps(
    run_paths: RunPaths, settings: TrainingSettings, tmp_path: Path, pretence: Waits
) -> None:
    """It reads losses, but not at every step: three times as many steps, and no more waits."""
    counts = []
    for number, size in enumerate((18, 6)):
        paths = copied(run_paths, tmp_path / str(number), "voxels")
        pretence.counts.clear()
        train(paths.voxels, paths.model, replace(settings, batch_size=size, feedback_epochs=1), device=CUDA)
        counts.append(pretence.counts.copy())
    assert counts[0] == counts[1]


def test_clustering_and_calibration_are_on_one_device(run_paths: RunPaths, tmp_path: Path, gpu: None) -> None:
    paths = copied(run_paths, tmp_path, "voxels", "model")
    cluster_network(paths.voxels, paths.model, paths.codebook, k=TINY_K, device=CUDA)
    calibrate(paths, views=3, device=CUDA)
    assert calibrated_predictions(paths) == calibrated_predictions(run_paths)


def calibrated_predictions(paths: RunPaths) -> list[int]:
    with open_artifact(paths.calibration, CALIBRATION) as artifact:
        return artifact.read("calibration/predicted").tolist()


def test_without_faiss_pytorch_clusters_on_the_cpu(
    run_paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "HAS_FAISS", False)
    monkeypatch.setattr(kmeans, "cluster", None)
    paths = copied(run_paths, tmp_path, "voxels", "model")
    cluster_network(paths.voxels, paths.model, paths.codebook, k=TINY_K, device=torch.device("cpu"))
    with open_artifact(paths.codebook, CODEBOOK) as ours, open_artifact(run_paths.codebook, CODEBOOK) as theirs:
        inertia = [
            sum(each.read(f"feedforward/{layer}/inertia").sum() for layer in ("conv1", "conv2", "conv3"))
            for each in (ours, theirs)
        ]
    assert 0 < inertia[0] <= inertia[1] * 1.05


def test_attaching_is_on_one_device(run_paths: RunPaths, tmp_path: Path, gpu: None) -> None:
    """Fields, dry run, training, clustering by stability and an explanation of somebody's network."""
    paths = copied(run_paths, tmp_path, "voxels")
    module = Plain(pooled=1).to("cuda")
    settings = AttachSettings(feedback_epochs=1, batch_size=18)
    attach(paths.voxels, paths.model, module, settings, Origin(), device=CUDA)
    cluster_network(paths.voxels, paths.model, paths.codebook, k="auto", device=CUDA, module=module)
    calibrate(paths, views=2, device=CUDA, module=module)
    attached = Run(paths, device=CUDA, module=module)
    assert attached.explain("beam_test_00").predicted in attached.network.spec.classes
    assert attached.network.backbone.device == CUDA


def test_explaining_and_probing_are_on_one_device(run: Run, gpu: None) -> None:
    """They say what they say on the CPU."""
    there = on_gpu(run)
    assert there.network.backbone.device == CUDA
    for name in ("beam_test_00", "pole_test_03"):
        found, known = there.explain(name), run.explain(name)
        assert (found.predicted, found.blame.layer, found.answer) == (known.predicted, known.blame.layer, known.answer)
        assert found.nearest.predicted == known.nearest.predicted
    for by in ("feature", "centroid"):
        probed = there.probe("beam_test_00", "conv1", (1, 2, 3), by=by)
        np.testing.assert_allclose(
            probed.reconstruction, run.probe("beam_test_00", "conv1", (1, 2, 3), by=by).reconstruction, atol=1e-5
        )
    there.probe("beam_test_00", "conv1", (1, 2, 3), by="centroid", code=1)


def test_evaluation_is_on_one_device(run: Run, evaluated: Evaluation, gpu: None) -> None:
    """It counts what it counts on the CPU."""
    found = on_gpu(run).evaluate(views=2, votes=2)
    assert (found["n_errors"], found["confusion"]) == (evaluated["n_errors"], evaluated["confusion"])


def test_repairs_are_on_one_device(run: Run, gpu: None) -> None:
    found, known = (study_repairs(each, layers=["conv2"]) for each in (on_gpu(run), run))
    assert found.errors == known.errors
    np.testing.assert_allclose(
        found.layers["conv2"].repaired["label"]["donor_path"], known.layers["conv2"].repaired["label"]["donor_path"]
    )


def test_planted_faults_are_on_one_device(run: Run, gpu: None) -> None:
    found = plant_faults(on_gpu(run), per_layer=1).findings
    assert {finding.kind for finding in found} >= {FEATURE, WEIGHT, DOSE}


def test_sanity_checks_are_on_one_device(run: Run, gpu: None) -> None:
    assert check_sanity(on_gpu(run), "test", predicted=np.zeros(18, np.int64))["n"] == 18


def test_float32_is_float32_on_a_gpu(pretence: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda _: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for name in ("auto", "cuda"):
        torch.backends.cudnn.allow_tf32 = True
        assert choose_device(name).type == "cuda"
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("count", [1, 7])
def test_nearest_rows_of_the_gpu_are_those_of_faiss(count: int, gpu: None) -> None:
    generator = np.random.default_rng(2)
    vectors, rows = (generator.standard_normal((n, 5)).astype(np.float32) for n in (30, 40))
    (distances, indices), (known, theirs) = (
        nearest_rows(vectors, rows, count, device) for device in (CUDA, torch.device("cpu"))
    )
    np.testing.assert_allclose(distances, known, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(indices, theirs)


HEAVY = {"faiss", "PIL", "matplotlib", "plotly", "pyvista", "trimesh", "numba", "typer", "pooch", "requests"}


def test_stages_import_no_more_than_they_need() -> None:
    """So that a machine with a GPU and little else runs them."""
    stages = "artifacts, codebooks.clustering, diagnosis.explain, network.training, run, studies.evaluate"
    code = "import sys; " + "; ".join(f"import fer_cli.{name}" for name in stages.split(", "))
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & set(told.stdout.split())


def test_batches_of_the_gpu_are_those_of_the_host(run: Run, gpu: None) -> None:
    """Held there as bits, or sent from the host where there is no room."""
    held = open_voxels(run.paths.voxels, in_memory=True)
    for voxels in (held, run.voxels):
        found = Loader(voxels, CUDA).batch([3, 0, 41])
        assert found.device == CUDA
        assert torch.equal(found.cpu(), held.tensor([3, 0, 41]))


def test_features_that_do_not_fit_a_gpu_are_clustered_in_passes(
    run_paths: RunPaths, tmp_path: Path, pretence: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for room in (1 << 31, 3 * 64 * 1024):  # conv1 takes several passes
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, room=room: (room, room))
        paths = copied(run_paths, tmp_path / str(room), "voxels", "model")
        cluster_network(paths.voxels, paths.model, paths.codebook, k=TINY_K, device=CUDA)
        with open_artifact(paths.codebook, CODEBOOK) as artifact:
            found.append({name: artifact.read(name) for name in artifact.names() if name.endswith("inertia")})
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-2, atol=1e-4)
