"""`fer demo`: the whole pipeline on procedural furniture, through the same functions as the commands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.calibrate import calibrated, views_of_run
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.furniture import CLASSES
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.synthetic import write_collection
from fer_cli.data.voxelize import voxelize_source
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.explain import explain
from fer_cli.errors import FerError
from fer_cli.evaluation.results import Evaluation
from fer_cli.execution.progress import TrainingProgress
from fer_cli.network.training import preset_settings, train
from fer_cli.pictures.curves import write_learning_curve
from fer_cli.storage.outputs import held
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import evaluate, write_evaluation

PER_CLASS_TRAIN, PER_CLASS_TEST = 40, 20
DEMO_K = (24, 24, 20, 20, 20, 16, 16)
"""Fewer codes than on ModelNet: there are fewer shapes to fill them."""


@dataclass(frozen=True)
class DemoResult:
    """The evaluation, and the diagnosis of the most confidently misclassified test sample."""

    evaluation: Evaluation
    diagnosis: Diagnosis


def run_demo(
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    force: bool,
    announce: Callable[[str], None],
    training_report: Callable[[TrainingProgress], None],
) -> DemoResult:
    """Make the shapes and run every stage into `folder`; call `announce` at the start of each stage.

    Raises FerError if the network makes no mistake on the test shapes, ResourceError if another process has the
    folder's meshes in work, and what the stages raise.
    """
    with held(folder / "meshes"):
        paths = RunPaths.in_folder(folder)
        meshes = folder / "meshes"
        total = len(CLASSES) * (PER_CLASS_TRAIN + PER_CLASS_TEST)
        announce(f"synthesising {total} pieces of furniture in {meshes}")
        write_collection(meshes, per_class_train=PER_CLASS_TRAIN, per_class_test=PER_CLASS_TEST, seed=seed)
        announce(f"voxelizing into {paths.voxels}")
        voxelize_source(meshes, paths.voxels, VoxelSettings(), force=force)
        announce(f"training both networks into {paths.model}")
        train(
            paths.voxels,
            paths.model,
            preset_settings("smoke", seed=seed),
            device=device,
            force=force,
            report=training_report,
            finish=write_learning_curve,
        )
        announce(f"clustering every location of every layer into {paths.codebook}")
        cluster_network(
            paths.voxels,
            paths.model,
            paths.codebook,
            k=DEMO_K,
            seed=seed,
            device=device,
            calibrate=partial(calibrated, paths.calibration, views=views_of_run(paths.model)),
            force=force,
        )
        announce("evaluating on the test shapes")
        run = RunArtifacts(paths, device=device, in_memory=True)
        evaluation = evaluate(run)
        write_evaluation(evaluation, folder / "evaluate")
        mistakes = evaluation["misclassified"]
        if not mistakes:
            raise FerError("the network made no mistake on the test shapes; give another --seed.")
        worst = max(mistakes, key=lambda mistake: mistake["max_softmax"])
        announce(f"explaining {worst['sample']}, the most confident of {len(mistakes)} mistakes")
        return DemoResult(evaluation, explain(run, run.sample(worst["sample"])))
