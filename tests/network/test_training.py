import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import open_voxels
from fer_cli.data.volume_file import save_volumes
from fer_cli.errors import ArtifactError, FerError, InputError, ResourceError, UsageError
from fer_cli.execution.progress import TrainingProgress
from fer_cli.network import loop
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.checkpoint import Position, TrainingState, checkpoint_path
from fer_cli.network.feedback import Decoding, Edit
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig, build
from fer_cli.network.loop import TrainingLoop
from fer_cli.network.phases import (
    FeedbackPhase,
    FeedforwardPhase,
    TrainingData,
    TrainingSettings,
    draw_entries,
    entry_shares,
)
from fer_cli.network.precision import mixed_precision
from fer_cli.network.signal import Occupancy
from fer_cli.network.training import preset_settings, train, volume_settings
from fer_cli.network.weights import load_network
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CHECKPOINT, MODEL
from networks import cube
from tiny_layers import TINY_LAYERS

CPU = torch.device("cpu")
Rewrite = Callable[[Artifact, Path, Mapping[str, Any]], str]

pytestmark = pytest.mark.usefixtures("tiny_preset")


def settings(**changes: Any) -> TrainingSettings:
    options = {"epochs": 3, "feedback_epochs": 2, "batch_size": 16, "dropout": 0.2, "seed": 1} | changes
    return TrainingSettings("tiny", augmentation=Augmentation(shift=1, mirror=True), **options)


def weights(path: Path) -> dict[str, bytes]:
    with open_artifact(path, MODEL) as artifact:
        return {name: artifact.read(name).tobytes() for name in artifact.names() if name.startswith(("enc", "feedb"))}


def history(path: Path) -> list[tuple[Any, ...]]:
    with open_artifact(path, MODEL) as artifact:
        return [tuple(vars(record).values())[:-1] for record in read_history(artifact)]  # seconds differ


@pytest.fixture(scope="module")
def uninterrupted(run_paths: RunPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "model.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY_LAYERS)
        train(run_paths.voxels, path, settings(), device=CPU)
    return path


def test_same_seed_is_the_same_network_and_another_is_not(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # the caller's own randomness does not matter
    state = torch.get_rng_state()
    train(run_paths.voxels, tmp_path / "model.h5", settings(), device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(tmp_path / "model.h5") == weights(uninterrupted)
    assert history(tmp_path / "model.h5") == history(uninterrupted)
    with open_artifact(tmp_path / "model.h5") as mine, open_artifact(uninterrupted) as theirs:
        assert mine.id == theirs.id  # though the seconds differ
    train(run_paths.voxels, tmp_path / "model.h5", settings(seed=2), device=CPU, force=True)
    other, mine = weights(tmp_path / "model.h5"), weights(uninterrupted)
    assert all(other[name] != mine[name] for name in mine if name.endswith("weight"))


def test_summary_and_history_agree_with_the_artifact(run: Run, run_paths: RunPaths, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    seen: list[TrainingProgress] = []
    summary = train(run_paths.voxels, path, settings(), device=CPU, report=seen.append)
    with open_artifact(path, MODEL) as artifact:
        records = read_history(artifact)
        held = artifact.read("validation/index")
        assert (artifact.seed, artifact.config["voxelization"]) == (1, run.voxels.voxelization)
    assert [(r.phase, r.epoch) for r in records] == [
        *((FEEDFORWARD, epoch) for epoch in (1, 2, 3)),
        *((FEEDBACK, epoch) for epoch in (1, 2)),
    ]
    assert [p.record for p in seen if p.record] == records
    assert [(p.batch, p.batches) for p in seen if p.phase == FEEDFORWARD and p.epoch == 1 and not p.record] == [
        (i, 3) for i in (1, 2, 3)
    ]
    assert (summary.training_samples, summary.validation_samples) == (54, 6)
    assert np.bincount(run.voxels.labels[held]).tolist() == [2, 2, 2]
    assert {run.voxels.splits[i] for i in held} == {"train"}
    assert (summary.accuracy, summary.score) == (records[2].validation_score, records[4].validation_score)
    assert summary.majority == pytest.approx(1 / 3)
    assert summary.parameters == sum(p.numel() for p in run.network.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_history_that_is_no_table_is_damage(run: Run, rewrite: Rewrite, tmp_path: Path) -> None:
    rows = run.model.read_text("history")
    for number, lines in enumerate((["phase,epoch", *rows[1:]], [rows[0], *(f"x{row}" for row in rows[1:]), "a,b"])):
        path = tmp_path / f"{number}.h5"
        rewrite(run.model, path, {"history": lines})
        with pytest.raises(ArtifactError, match=r"its history cannot be read .*Run 'fer train' again"):
            read_history(open_artifact(path, MODEL))


class StopAt:
    """Interrupts a training run at its n-th report."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, progress: TrainingProgress) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


REPORTS = 5 * 4  # epochs of both phases, times three batches and a record


@pytest.mark.parametrize("stop", [2, 4, 6, 8, 12, 13, 16, 18, 20])
def test_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(
    stop: int, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, force=True, report=StopAt(stop))
    assert path.read_text() == "precious"
    kept = {entry.name for entry in tmp_path.iterdir()}
    assert kept == ({"model.h5"} if stop < 4 else {"model.h5", "model.checkpoint.h5"})
    torch.manual_seed(99)
    train(run_paths.voxels, path, settings(), device=CPU, force=True, resume=True)
    assert weights(path) == weights(uninterrupted)
    assert history(path) == history(uninterrupted)
    assert not checkpoint_path(path).exists()


def test_run_interrupted_in_every_epoch_ends_as_an_uninterrupted_one(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    for epochs in range(4):
        with pytest.raises(KeyboardInterrupt):
            train(run_paths.voxels, path, settings(), device=CPU, resume=True, report=StopAt(4 if epochs % 2 else 6))
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)


def test_resuming_nothing_is_training_afresh_and_not_resuming_ignores_the_checkpoint(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(seed=5), device=CPU, force=True, report=StopAt(8))
    train(run_paths.voxels, path, settings(), device=CPU, force=True)
    assert weights(path) == weights(uninterrupted)


def test_unfinished_run_is_not_overwritten_unasked(run_paths: RunPaths, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, report=StopAt(8))
    kept = checkpoint_path(path).read_bytes()
    with pytest.raises(UsageError, match=r"model\.checkpoint\.h5 holds an unfinished run\. Give --resume to go on"):
        train(run_paths.voxels, path, settings(seed=5), device=CPU)
    assert checkpoint_path(path).read_bytes() == kept
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)


@pytest.mark.parametrize("older", [True, False])
def test_unfinished_run_beside_another_model_stays_whatever_the_times_of_the_files(
    older: bool, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(epochs=9), device=CPU, report=StopAt(8))
    kept = checkpoint_path(path).read_bytes()
    shutil.copy(uninterrupted, path)
    os.utime(checkpoint_path(path), (1, 1) if older else None)
    for resume, said in ((False, r"model\.h5 exists already"), (True, r"checkpoint\.h5 beside it .* --force --resume")):
        with pytest.raises(UsageError, match=said):
            train(run_paths.voxels, path, settings(epochs=9), device=CPU, resume=resume)
    assert checkpoint_path(path).read_bytes() == kept
    assert path.read_bytes() == uninterrupted.read_bytes()


def test_run_killed_after_it_wrote_the_model_is_finished(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, finish=Mock(side_effect=KeyboardInterrupt))
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.h5", "model.checkpoint.h5"}
    os.utime(path, (1, 1))  # copied, or a clock that was set
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.h5"}


def test_output_may_not_be_what_the_run_reads(run_paths: RunPaths, uninterrupted: Path, tmp_path: Path) -> None:
    voxels = Path(shutil.copy(run_paths.voxels, tmp_path / "voxels.h5"))
    for options in ({"output": voxels}, {"output": uninterrupted, "encoder": uninterrupted}):
        with pytest.raises(UsageError, match="is a file that the run reads"):
            train(voxels, settings=settings(), device=CPU, force=True, **options)
    assert voxels.read_bytes() == run_paths.voxels.read_bytes()


def test_checkpoint_that_cannot_be_read_is_to_be_deleted(run_paths: RunPaths, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    checkpoint_path(path).write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ArtifactError, match=r"model\.checkpoint\.h5 .*\. Delete it to train afresh\.$"):
        train(run_paths.voxels, path, settings(), device=CPU, resume=True)


def test_other_settings_or_voxels_are_refused_on_resume(
    run: Run, run_paths: RunPaths, tmp_path: Path, rewrite: Rewrite
) -> None:
    path = tmp_path / "model.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, report=StopAt(5))
    kept = checkpoint_path(path).read_bytes()
    message = r"model\.checkpoint\.h5 was made with another configuration, which differs in {}\. Give the same options"
    with pytest.raises(UsageError, match=message.format("training.epochs")):
        train(run_paths.voxels, path, settings(epochs=9), device=CPU, resume=True)
    rewrite(run.voxels.artifact, tmp_path / "voxels.h5", {"name": [f"{name}_" for name in run.voxels.names]})
    with pytest.raises(UsageError, match=message.format("voxels")):
        train(tmp_path / "voxels.h5", path, settings(), device=CPU, resume=True)
    assert checkpoint_path(path).read_bytes() == kept


def test_encoder_is_bit_identical_after_the_feedback_phase(run_paths: RunPaths, tmp_path: Path) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    train(run_paths.voxels, one, settings(feedback_epochs=1), device=CPU)
    train(run_paths.voxels, two, settings(feedback_epochs=4), device=CPU)
    short, long = weights(one), weights(two)
    assert all(short[name] == long[name] for name in short if name.startswith("encoder/"))
    assert any(short[name] != long[name] for name in short if name.startswith("feedback/"))
    path = tmp_path / "three.h5"
    with pytest.raises(KeyboardInterrupt):  # in the first batch of feedback: the encoder is what it was before
        train(run_paths.voxels, path, settings(), device=CPU, report=StopAt(13))
    saved = open_artifact(checkpoint_path(path))
    assert all(saved.read(f"average/{name[8:]}").tobytes() == short[name] for name in short if name[:8] == "encoder/")


def test_test_split_and_validation_grids_do_not_touch_the_weights(
    run: Run, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite
) -> None:
    with open_artifact(uninterrupted, MODEL) as artifact:
        held = artifact.read("validation/index")
    grids = run.voxels.grids(range(len(run.voxels)))
    for name, poisoned, sees in [
        ("test", run.voxels.indices("test"), True),
        ("validation", held, False),
        ("training", np.setdiff1d(run.voxels.indices("train"), held), False),
    ]:
        changed = grids.copy()
        changed[poisoned] = 1
        rewrite(run.voxels.artifact, tmp_path / f"{name}.h5", {"occupancy": changed})
        train(tmp_path / f"{name}.h5", tmp_path / f"{name}_model.h5", settings(), device=CPU)
        same_weights = weights(tmp_path / f"{name}_model.h5") == weights(uninterrupted)
        same_history = history(tmp_path / f"{name}_model.h5") == history(uninterrupted)
        assert same_weights == (name != "training")
        assert same_history == sees


def test_test_labels_are_never_read(run: Run, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    labels = run.voxels.labels.copy()
    labels[run.voxels.indices("test")] = -1
    rewrite(run.voxels.artifact, tmp_path / "v.h5", {"label": labels})
    train(tmp_path / "v.h5", tmp_path / "m.h5", settings(), device=CPU)
    assert weights(tmp_path / "m.h5") == weights(uninterrupted)


def test_what_cannot_be_learnt_from_is_refused(run: Run, tmp_path: Path, rewrite: Rewrite) -> None:
    voxels = run.voxels
    one = {"classes": ["beam"], "label": np.minimum(voxels.labels, 0)}
    absent = {"split": ["test" if "pole" in name else "train" for name in voxels.names]}
    single = {"split": ["test" if "pole" in n and n != "pole_train_03" else "train" for n in voxels.names]}
    for changes, message in [
        (one, r"v\.h5 .* class.*; a classifier needs at least two"),
        (absent, r"v\.h5: .*training shapes.* 'pole' \(0\); at least two are needed"),
        (single, r"v\.h5: .*training shapes.* 'pole' \(1\); at least two are needed"),
    ]:
        rewrite(voxels.artifact, tmp_path / "v.h5", changes)
        with pytest.raises(InputError, match=message):
            train(tmp_path / "v.h5", tmp_path / "m.h5", settings(), device=CPU)
    rewrite(voxels.artifact, tmp_path / "v.h5", {"split": ["test"] * len(voxels)})
    with pytest.raises(InputError, match=r"v\.h5: .*training shapes.* 'beam' \(0\)"):
        train(tmp_path / "v.h5", tmp_path / "m.h5", settings(), device=CPU)
    assert {path.name for path in tmp_path.iterdir()} == {"v.h5"}


def test_two_training_shapes_a_class_are_enough(run: Run, tmp_path: Path, rewrite: Rewrite) -> None:
    split = ["train" if name.endswith(("train_00", "train_01")) else "test" for name in run.voxels.names]
    rewrite(run.voxels.artifact, tmp_path / "v.h5", {"split": split})
    summary = train(tmp_path / "v.h5", tmp_path / "m.h5", settings(epochs=1, feedback_epochs=1), device=CPU)
    assert (summary.training_samples, summary.validation_samples) == (3, 3)


@pytest.mark.parametrize(
    ("changes", "phase"),
    [({"learning_rate": 1e30}, "feedforward"), ({"feedback_learning_rate": 1e30}, "feedback")],
)
def test_loss_that_is_not_finite_ends_the_run(
    changes: dict[str, float], phase: str, run_paths: RunPaths, tmp_path: Path
) -> None:
    option = {"feedforward": "--learning-rate", "feedback": "--feedback-learning-rate"}[phase]
    batch = r"in epoch \d, batch \d \(\d+ shapes: \w+_train_\d\d, .*, …\)\. Look at these shapes\."
    message = rf"the {phase} (loss|gradient's norm) is (nan|inf) {batch} Give a lower {option}, or another --batch-size"
    with pytest.raises(FerError, match=message):
        train(run_paths.voxels, tmp_path / "m.h5", settings(**changes), device=CPU)
    assert not (tmp_path / "m.h5").exists()


@pytest.mark.parametrize("phase", ["feedforward", "feedback"])
def test_what_the_last_step_of_an_epoch_spoils_is_not_saved(phase: str, run_paths: RunPaths, tmp_path: Path) -> None:
    rate = {"feedforward": "learning_rate", "feedback": "feedback_learning_rate"}[phase]
    one_step = settings(batch_size=60, epochs=1, feedback_epochs=1, **{rate: 1e30})
    with pytest.raises(FerError, match=rf"the {phase} (validation loss is nan|network's weights are not finite)"):
        train(run_paths.voxels, tmp_path / "m.h5", one_step, device=CPU)
    assert {path.name for path in tmp_path.iterdir()} == ({"m.checkpoint.h5"} if phase == "feedback" else set())


def test_weights_that_are_not_finite_are_not_saved(run: Run, tmp_path: Path) -> None:
    data = TrainingData(run.voxels, np.arange(8), np.arange(8), CPU)
    encoder = build(run.network.backbone.config).backbone
    state = TrainingState(encoder, encoder, torch.optim.AdamW(encoder.parameters()))
    training = TrainingLoop(data, settings(), {}, {"voxels": run.voxels.id}, tmp_path / "c.h5", print)
    phase = FeedforwardPhase(data, settings(), encoder)
    training._save(phase, state, Position(FEEDFORWARD, 1))
    kept = (tmp_path / "c.h5").read_bytes()
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[3] = torch.inf
    with pytest.raises(
        FerError, match=r"the feedforward network's weights are not finite any more\. Give a lower --le"
    ):
        training._save(phase, state, Position(FEEDFORWARD, 2))
    assert (tmp_path / "c.h5").read_bytes() == kept


def test_output_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        train(tmp_path / "none.h5", tmp_path / "m.h5", settings(), device=CPU)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="no preset 'huge'; the presets are paper, compact, smoke, residual"):
        preset_settings("huge")
    for wrong in ({"epochs": 0}, {"batch_size": 1}):
        with pytest.raises(UsageError, match="at least one epoch and a batch size of 2"):
            preset_settings("smoke", **wrong)
    for preset, epochs in (("smoke", -1), ("attached", 0)):
        with pytest.raises(UsageError, match=f"the feedback network cannot have {epochs} epochs"):
            TrainingSettings(preset, feedback_epochs=epochs)
    for wrong, said in ((0.0, "0"), (-1e-3, "-0.001"), (float("nan"), "nan"), (float("inf"), "inf")):
        for rate in ("learning_rate", "feedback_learning_rate"):
            with pytest.raises(UsageError, match=f"a learning rate is a number above 0, not {said}"):
                preset_settings("smoke", **{rate: wrong})
    with pytest.raises(UsageError, match="cannot be shown fewer than 0 samples"):
        preset_settings("smoke", feedback_shown=-1)
    chosen = preset_settings("smoke", epochs=None, seed=4)
    assert (chosen.preset, chosen.seed, chosen.epochs) == ("smoke", 4, preset_settings("smoke").epochs)


@pytest.mark.parametrize("preset", ["paper", "compact"])
def test_few_samples_are_shown_to_the_feedback_network_as_often_as_many_are(preset: str) -> None:
    chosen = preset_settings(preset)
    assert chosen.for_samples(3592) == chosen.for_samples(8859) == chosen
    fewer = chosen.for_samples(1000)
    assert fewer.feedback_epochs == math.ceil(chosen.feedback_epochs * 3.592)
    assert fewer.epochs == chosen.epochs
    assert chosen.for_samples(3).feedback_epochs == 10 * chosen.feedback_epochs
    assert preset_settings(preset, feedback_epochs=7).for_samples(3).feedback_epochs == 7


def test_a_run_has_the_feedback_epochs_that_its_samples_want(run_paths: RunPaths, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    summary = train(run_paths.voxels, path, settings(epochs=1, feedback_shown=54 * 4 + 1), device=CPU)
    assert summary.training_samples == 54
    with open_artifact(path, MODEL) as model:
        assert model.config["training"]["feedback_epochs"] == 5
        assert [record.phase for record in read_history(model)] == [FEEDFORWARD] + [FEEDBACK] * 5


def test_iou_is_that_of_the_occupied_voxels() -> None:
    occupancy, truth = torch.zeros(3, 1, 4, 3, 2), torch.zeros(3, 1, 4, 3, 2)
    occupancy[0, 0, :2] = 0.5
    truth[0, 0, 1:3] = 1
    occupancy[1] = 0.49
    truth[1, 0, 0, 0, 0] = 1
    assert Occupancy().scores(occupancy, truth)["iou"].tolist() == pytest.approx([1 / 3, 0, 1])


@pytest.fixture
def phase(run: Run, run_paths: RunPaths) -> FeedbackPhase:
    """A feedback phase of a fresh network whose gates are all open."""
    voxels = open_voxels(run_paths.voxels, in_memory=True)
    torch.manual_seed(0)
    network = build(NetworkConfig(run.network.backbone.config.layers, voxels.classes, voxels.input))
    network.backbone.eval().requires_grad_(False)
    indices = voxels.indices("train")
    return FeedbackPhase(TrainingData(voxels, indices, indices, CPU), settings(gate_probability=1.0), network, None)


def test_each_sample_sees_the_encoder_only_at_its_entry_and_through_gates_below_it(phase: FeedbackPhase) -> None:
    """Samples of the class-code share have every gate shut; the others have them open below their entry only."""
    levels = phase.network.spec.layer_names[::-1]
    entered: dict[str, int] = {}
    given: dict[str, Tensor] = {}

    class Watch(nn.Module):
        def forward(self, code: Tensor, entry: str, *, skips: dict[str, Tensor], edit: Edit) -> Decoding:
            def note(level: str, feature: Tensor) -> Tensor:
                edited = edit(level, feature)
                entered[level] = len(edited) - (0 if level == entry else len(feature))
                return edited

            given.update(skips)
            return phase.network.decode(code, entry, skips=skips, edit=note)

    terms = phase.terms(Watch(), phase.data.training[:40], torch.Generator().manual_seed(0))
    assert set(terms) == {"voxel", "feature"}
    assert all(term.item() > 0 for term in terms.values())
    assert list(entered) == list(levels)
    # A fifth; of the rest, the local layer conv2 twice as much as conv1 and conv3, the dense layer 0.4 as much.
    assert entered[OUTPUT] == 8
    assert entered["conv2"] in (14, 15)
    assert (entered["conv1"], entered["conv3"]) in [(7, 7), (7, 8), (8, 7)]
    assert entered["fc4"] in (2, 3)
    above = 0
    for level in levels[1:]:
        above += entered[levels[levels.index(level) - 1]]
        assert len(given[level]) == above + entered[level]
        assert not given[level][: entered[OUTPUT]].any()
        assert not given[level][above:].any()  # what enters here is the encoder's feature already
        assert given[level][entered[OUTPUT] : above].any() == (level != levels[1])


def test_a_batch_smaller_than_the_levels_is_repeated(phase: FeedbackPhase) -> None:
    terms = phase.terms(phase.module.train(), phase.data.training[:1], torch.Generator().manual_seed(0))
    assert torch.isfinite(torch.stack(list(terms.values()))).all()


@pytest.mark.parametrize("count", [10, 32, 33])
def test_entries_ascend_and_keep_to_their_shares(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shares = entry_shares(NetworkConfig(PRESETS["paper"], ("a", "b"), cube(32)).spec, 0.25)
    assert shares.argmax() == 0
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
    draws = torch.stack([draw_entries(count, shares, generator) for _ in range(400)])
    assert (draws.diff(dim=1) >= 0).all()
    torch.testing.assert_close(torch.bincount(draws.flatten(), minlength=8) / draws.numel(), shares, atol=0.01, rtol=0)
    counts = torch.stack([torch.bincount(draw, minlength=8) for draw in draws])
    assert (counts.amax(0) - counts.amin(0) <= 1).all()


@pytest.mark.parametrize("stop", [1, 2, 5, 13, 14, 18])
def test_run_ended_by_a_signal_within_an_epoch_goes_on_from_that_step(
    stop: int, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    calls = iter(range(1, 1000))

    def interrupt(progress: TrainingProgress) -> None:
        if next(calls) == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, report=interrupt)
    with open_artifact(checkpoint_path(path), CHECKPOINT) as artifact:
        assert artifact.attribute("position")["step"] == (stop - 1) % 4 + 1
    seen: list[TrainingProgress] = []
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, report=seen.append)
    assert len(seen) == REPORTS - stop
    assert weights(path) == weights(uninterrupted)
    assert history(path) == history(uninterrupted)


@pytest.mark.parametrize("stop", [3, 4, 16])
def test_run_told_to_end_in_the_last_batch_of_an_epoch_ends_with_the_epoch(
    stop: int, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    seen: list[TrainingProgress] = []

    def interrupt(progress: TrainingProgress) -> None:
        seen.append(progress)
        if len(seen) == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, report=interrupt)
    assert len(seen) == -(-stop // 4) * 4
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)


def test_checkpoints_are_due_by_the_clock_too(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.h5"
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(), device=CPU, report=StopAt(7))
    with open_artifact(checkpoint_path(path), CHECKPOINT) as artifact:
        position = artifact.attribute("position")
    assert (position["phase"], position["epoch"], position["step"]) == (FEEDFORWARD, 1, 2)
    finish = Mock()
    train(run_paths.voxels, path, settings(), device=CPU, resume=True, finish=finish)
    finish.assert_called_once_with(path)
    assert weights(path) == weights(uninterrupted)


def test_given_encoder_stays_as_it_is_and_its_validation_samples_stay_held_out(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    options = {"device": CPU, "encoder": uninterrupted}
    summary = train(run_paths.voxels, path, settings(seed=7, feedback_epochs=3), **options)
    mine, theirs = weights(path), weights(uninterrupted)
    assert all(mine[name] == theirs[name] for name in theirs if name.startswith("encoder/"))
    assert any(mine[name] != theirs[name] for name in theirs if name.startswith("feedback/"))
    with open_artifact(path, MODEL) as model, open_artifact(uninterrupted, MODEL) as other:
        assert model.parents == {"voxels": other.parents["voxels"], "encoder": other.id}
        assert np.array_equal(model.read("validation/index"), other.read("validation/index"))
        records, first = read_history(model), read_history(other)
    assert records[:3] == first[:3]
    assert [(r.phase, r.epoch) for r in records[3:]] == [(FEEDBACK, 1), (FEEDBACK, 2), (FEEDBACK, 3)]
    assert summary.accuracy == first[2].validation_score
    resumed = tmp_path / "resumed.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, resumed, settings(seed=7, feedback_epochs=3), report=StopAt(5), **options)
    with pytest.raises(UsageError, match=r"another configuration, which differs in encoder\."):
        train(run_paths.voxels, resumed, settings(seed=7, feedback_epochs=3), device=CPU, resume=True)
    train(run_paths.voxels, resumed, settings(seed=7, feedback_epochs=3), resume=True, **options)
    assert weights(resumed) == mine


def test_feedback_trained_on_a_given_encoder_is_that_of_the_run_that_trained_both(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    short, path = tmp_path / "short.h5", tmp_path / "m.h5"
    train(run_paths.voxels, short, settings(feedback_epochs=1), device=CPU)
    train(run_paths.voxels, path, settings(), device=CPU, encoder=short)
    assert weights(path) == weights(uninterrupted)
    assert history(path) == history(uninterrupted)


def test_classifier_alone_is_that_of_the_run_that_trains_both_and_takes_a_feedback_network_later(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    alone, path = tmp_path / "alone.h5", tmp_path / "m.h5"
    summary = train(run_paths.voxels, alone, settings(feedback_epochs=0), device=CPU)
    assert summary.score is None
    whole = weights(uninterrupted)
    assert weights(alone) == {name: value for name, value in whole.items() if name.startswith("encoder/")}
    assert history(alone) == history(uninterrupted)[:3]
    with open_artifact(alone, MODEL) as model, open_artifact(uninterrupted, MODEL) as other:
        network, explained = load_network(model), load_network(other)
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    volumes = torch.rand(2, *network.spec.input.volume)
    assert torch.equal(network.backbone.logits(volumes), explained.backbone.logits(volumes))
    said = r"the model is a classifier alone, without a feedback network\. Train one on it by fer train --encoder\."
    with pytest.raises(UsageError, match=said):
        network.reconstruct(network.backbone.features(volumes)["conv1"], "conv1")
    with pytest.raises(UsageError, match=said):
        cluster_network(run_paths.voxels, alone, tmp_path / "codebook.h5", k=(2, 2, 2, 2), workers=1, device=CPU)
    with pytest.raises(UsageError, match=r"Without --feedback-epochs nothing is left to train"):
        train(run_paths.voxels, path, settings(feedback_epochs=0), device=CPU, encoder=alone)
    train(run_paths.voxels, path, settings(), device=CPU, encoder=alone)
    assert weights(path) == whole
    assert history(path) == history(uninterrupted)


def test_encoder_of_other_voxels_is_validated_on_these_and_brings_no_history(
    run: Run, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite
) -> None:
    voxels, path = tmp_path / "v.h5", tmp_path / "m.h5"
    labels = (run.voxels.labels + 1) % 3  # what that classifier says is wrong here
    rewrite(run.voxels.artifact, voxels, {"label": labels})
    summary = train(voxels, path, settings(seed=7, feedback_epochs=1), device=CPU, encoder=uninterrupted)
    with open_artifact(path, MODEL) as model, open_artifact(uninterrupted, MODEL) as other:
        held = model.read("validation/index")
        assert [record.phase for record in read_history(model)] == [FEEDBACK]
        assert model.config["training"]["preset"] == other.config["training"]["preset"] == "tiny"
        with torch.inference_mode(), mixed_precision(CPU):
            predicted = load_network(other).backbone(run.voxels.tensor(held)).argmax(1).numpy()
    assert summary.accuracy == pytest.approx(np.mean(predicted == labels[held]))


def test_encoder_that_does_not_fit_is_refused(run: Run, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    path = tmp_path / "v.h5"
    rewrite(run.voxels.artifact, path, {"classes": ["beam", "plate", "rod"]})
    with pytest.raises(
        UsageError, match=r"tells 3 classes apart \(beam, plate, pole, …\), but the voxels have 3 \(beam,"
    ):
        train(path, tmp_path / "m.h5", settings(), device=CPU, encoder=uninterrupted)
    rewrite(run.voxels.artifact, path, {"occupancy": np.ones((len(run.voxels), 16, 16, 16), np.uint8)})
    with pytest.raises(UsageError, match=r"reads 8³ voxels, but these are 16³\. Run 'fer voxelize --resolution 8'"):
        train(path, tmp_path / "m.h5", settings(), device=CPU, encoder=uninterrupted)


def test_training_starts_from_pretrained_layers_and_goes_on_from_a_checkpoint(
    run_paths: RunPaths, uninterrupted: Path, tmp_path: Path
) -> None:
    still = settings(seed=7, epochs=1, feedback_epochs=1, learning_rate=1e-30)
    options = {"device": CPU, "pretrained": uninterrupted}
    train(run_paths.voxels, tmp_path / "still.h5", still, **options)
    mine, theirs = weights(tmp_path / "still.h5"), weights(uninterrupted)
    learnt = [name for name in theirs if name.startswith("encoder/") and "running" not in name]
    assert "encoder/blocks.output.2.weight" in learnt
    assert all(mine[name] == theirs[name] for name in learnt)
    with open_artifact(tmp_path / "still.h5", MODEL) as model, open_artifact(uninterrupted, MODEL) as other:
        assert model.parents == {"voxels": other.parents["voxels"], "pretrained": other.id}
        assert np.array_equal(model.read("validation/index"), other.read("validation/index"))
        assert [record.phase for record in read_history(model)] == [FEEDFORWARD, FEEDBACK]
    train(run_paths.voxels, tmp_path / "whole.h5", settings(seed=7), **options)
    whole = weights(tmp_path / "whole.h5")
    assert all(whole[name] != theirs[name] for name in learnt)
    path = tmp_path / "resumed.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, path, settings(seed=7), report=StopAt(5), **options)
    with pytest.raises(UsageError, match=r"another configuration, which differs in pretrained\."):
        train(run_paths.voxels, path, settings(seed=7), device=CPU, resume=True)
    train(run_paths.voxels, path, settings(seed=7), resume=True, **options)
    assert weights(path) == whole


def test_pretrained_layers_serve_other_classes_with_an_output_of_their_own(
    run: Run, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite
) -> None:
    voxels, path = tmp_path / "v.h5", tmp_path / "m.h5"
    rewrite(run.voxels.artifact, voxels, {"classes": ["beam", "plate", "rod"]})
    still = settings(seed=7, epochs=1, feedback_epochs=1, learning_rate=1e-30)
    train(voxels, path, still, device=CPU, pretrained=uninterrupted)
    mine, theirs = weights(path), weights(uninterrupted)
    learnt = [name for name in theirs if name.startswith("encoder/") and "running" not in name]
    assert {name for name in learnt if mine[name] != theirs[name]} == {
        "encoder/blocks.output.2.weight",
        "encoder/blocks.output.2.bias",
    }


def test_volumes_too_small_for_the_strides_serve_to_start_from_too(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(24, 8, 6, 2)).astype(np.float32)
    save_volumes(tmp_path / "v.h5", (volumes, np.arange(24) % 2), kind="intensity")
    options = {"device": CPU, "vary_by_kind": True}
    first = train(tmp_path / "v.h5", tmp_path / "m.h5", settings(epochs=1, feedback_epochs=1), **options)
    assert first.unreduced_layers
    still = settings(seed=7, epochs=1, feedback_epochs=1, learning_rate=1e-30)
    train(tmp_path / "v.h5", tmp_path / "n.h5", still, pretrained=first.path, **options)
    mine, theirs = weights(tmp_path / "n.h5"), weights(first.path)
    assert mine["encoder/blocks.conv1.0.weight"] == theirs["encoder/blocks.conv1.0.weight"]


def test_pretrained_model_that_does_not_fit_is_refused(
    run: Run, run_paths: RunPaths, uninterrupted: Path, tmp_path: Path, rewrite: Rewrite
) -> None:
    path, options = tmp_path / "v.h5", {"device": CPU, "pretrained": uninterrupted}
    with pytest.raises(UsageError, match=r"model\.h5 is of preset tiny, not compact\. Give --preset tiny\."):
        train(run_paths.voxels, tmp_path / "m.h5", replace(settings(), preset="compact"), **options)
    with pytest.raises(UsageError, match=r"--encoder keeps a classifier, --pretrained starts from one\."):
        train(run_paths.voxels, tmp_path / "m.h5", settings(), encoder=uninterrupted, **options)
    rewrite(run.voxels.artifact, path, {"occupancy": np.ones((len(run.voxels), 16, 16, 16), np.uint8)})
    with pytest.raises(UsageError, match=r"reads 8³ voxels, but these are 16³"):
        train(path, tmp_path / "m.h5", settings(), **options)


def no_memory() -> RuntimeError:
    """What PyTorch raises on this machine's CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize("error", [no_memory(), torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.parametrize(
    ("phase", "batch_size", "message"),
    [
        (FeedforwardPhase, 17, r"batches of 18 shapes\. Try --batch-size 8, or a smaller preset"),
        (FeedforwardPhase, 1000, r"batches of 54 shapes\. Try --batch-size 27, or a smaller preset"),
        (FeedforwardPhase, 3, r"batches of 3 shapes\. Try a smaller preset"),
        (FeedbackPhase, 27, r"batches of 27 shapes\. Try --batch-size 13, or a smaller preset"),
        (FeedbackPhase, 18, r"batches of 18 shapes\. Try a smaller preset"),  # a smaller batch is repeated
        (FeedbackPhase, 4, r"batches of 10 shapes\. Try a smaller preset"),
    ],
)
def test_want_of_memory_says_which_batch_size_to_try(
    error: Exception,
    phase: type,
    batch_size: int,
    message: str,
    run_paths: RunPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(phase, "terms", fail)
    chosen = settings(batch_size=batch_size, epochs=1)
    with pytest.raises(ResourceError, match=f"out of memory with {message}"):
        train(run_paths.voxels, tmp_path / "m.h5", chosen, device=CPU)


def test_occupied_voxels_weigh_more_where_a_level_keeps_no_places() -> None:
    spec = NetworkConfig(PRESETS["compact"], ("a", "b"), cube(32)).spec
    weights = dict(zip(spec.layer_names[::-1], Occupancy().level_weights(spec, 1 / 17, 0.1).tolist(), strict=True))
    places = {"conv1": 2.0, "conv2": 2.0, "conv3": 2.0, "conv4": 2.0}
    assert weights == {**dict.fromkeys(spec.layer_names, 4.0), **places}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balance_weighs_every_class_alike(run_paths: RunPaths, smoothing: float) -> None:
    voxels = open_voxels(run_paths.voxels, in_memory=True)
    rare = voxels.indices("train")
    rare = np.concatenate([rare[voxels.labels[rare] == 0], rare[voxels.labels[rare] == 1][:3]])
    data = TrainingData(voxels, rare, rare, torch.device("cpu"))
    classes = len(voxels.classes)

    def loss(balance: bool) -> float:
        phase = FeedforwardPhase(data, TrainingSettings(label_smoothing=smoothing, balance=balance), nn.Module())

        class AlwaysTheFirst(nn.Module):
            def forward(self, volumes: Tensor) -> Tensor:
                return torch.eye(classes)[0].expand(len(volumes), -1) * 4

        return float(phase.terms(AlwaysTheFirst(), rare, torch.Generator().manual_seed(0))["class"])

    logits = torch.eye(classes)[0] * 4
    right, wrong = (
        float(torch.nn.functional.cross_entropy(logits, torch.tensor(label), label_smoothing=smoothing))
        for label in (0, 1)
    )
    share = float((voxels.labels[rare] == 0).mean())
    assert loss(False) == pytest.approx(share * right + (1 - share) * wrong, rel=1e-5)
    assert loss(True) == pytest.approx((right + wrong) / classes, rel=1e-5)


def test_volumes_are_varied_without_the_assumptions_of_furniture() -> None:
    settings = volume_settings(preset_settings("compact"), "intensity")
    assert settings.augmentation.mirror == settings.feedback_augmentation.mirror == ""
    assert settings.augmentation.edge
    assert not volume_settings(preset_settings("compact"), "occupancy").augmentation.contrast
