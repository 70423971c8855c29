"""The Python API: a run, opened or made from a network in memory.

`load_run` opens a run's folder, `attach` makes a run of the user's own network and data sets. What both give explains,
probes and evaluates, with the results of the commands of these names.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fer_cli.artifacts import RunArtifacts, choose_device
from fer_cli.calibration.calibrate import calibrated, check_calibration, views_of_run
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.places import Kind, Location
from fer_cli.data.turning import Axis
from fer_cli.data.volume_file import save_volumes
from fer_cli.diagnosis import explain, probe
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.probe import Probe
from fer_cli.errors import InputError, ResourceError, UsageError
from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.study_results import Comparison, Group
from fer_cli.execution.generators import unmoved_generators
from fer_cli.execution.progress import ClusteringProgress, TrainingProgress
from fer_cli.network.attach import AttachSettings
from fer_cli.network.attach import attach as attach_network
from fer_cli.network.attach_overview import Overview, warnings
from fer_cli.network.attached.hooks import unwrapped
from fer_cli.network.attached.model_file import Origin
from fer_cli.network.attached.readout import Activation
from fer_cli.network.attached.undisturbed import home
from fer_cli.reports.explained import is_page
from fer_cli.reports.nifti import write_nifti
from fer_cli.reports.notebook import notebook_panels
from fer_cli.reports.page import write_report
from fer_cli.reports.selection import misclassified
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.causes import explain_mistakes
from fer_cli.studies.comparison import compare
from fer_cli.studies.evaluate import evaluate
from fer_cli.studies.groups import group_mistakes

__all__ = ["Explanation", "Run", "attach", "load_run", "save_volumes"]

Say = Callable[[str], None]


class Explanation(Diagnosis):
    """A `Diagnosis` that can be saved as a report; a notebook shows the report's first screen."""

    def _repr_html_(self) -> str:
        """What a notebook shows: words and a table alone where the machine cannot draw."""
        try:
            return notebook_panels(self)
        except ResourceError:
            return super()._repr_html_()

    def save(self, target: str | Path, *, nifti: bool = False) -> Path:
        """Write the report; answers the path of its page.

        A `target` that ends in .html is that page alone, in which all pictures are; any other is a folder for the page,
        `diagnosis.json` and the pictures. With `nifti`, a folder `nifti` in it holds the volumes and the blame, with
        the sample's affine.

        Raises ResourceError where it cannot be written or the machine cannot draw; UsageError for `nifti` beside a page
        alone, or without nibabel.
        """
        path = Path(target)
        if nifti:
            if is_page(path):
                raise UsageError(f"NIfTI files are written beside the page: name a folder, not {path}.")
            write_nifti(self, path)
        return write_report(self, path, alone=is_page(path))


class Run(RunArtifacts):
    """A run whose samples can be asked about; artifacts are opened when first needed, and stay open."""

    @unmoved_generators()
    def explain(
        self, sample: Any, *, label: str | None = None, local_layer: str | None = None, up: Axis | None = None
    ) -> Explanation:
        """Explain how a sample was recognised, or where the wrong class came in.

        `sample` is the name of a sample in the run's voxels, a file, or an array or tensor (channel, x, y, z) as the
        network reads it; `label` its true class, where the voxels do not tell it; `local_layer` is where the local
        reconstruction starts, by default in the middle of the network (`NetworkSpec.local_layer`). `up` is the axis of
        a shape's file that points up, by default as of the run's shapes.

        Raises InputError for a sample that is not there or cannot be used, UsageError for an unknown class or layer,
        ArtifactError and LineageError where the run's files are missing, damaged or not of one another.
        """
        layer = local_layer or self.network.spec.local_layer
        found = explain.explain(self, self.sample(sample, label=label, up=up), local_layer=layer)
        return Explanation(**vars(found))

    @unmoved_generators()
    def probe(
        self,
        sample: Any,
        layer: str,
        location: Location = (0, 0, 0),
        *,
        by: str = "feature",
        code: int | None = None,
        up: Axis | None = None,
    ) -> Probe:
        """Show what one location of one layer stands for (Algorithm 1).

        The response field holds the sample's own `feature` or, by `centroid`, the nearest ones of the codebook, with
        that of `code`, if given, at the location. `up` is as of `explain`.

        Raises UsageError for an unknown layer or code or a location outside the layer, and what `explain` raises.
        """
        if by not in probe.FILLINGS:
            raise UsageError(f"by={by!r}: choose {' or '.join(map(repr, probe.FILLINGS))}.")
        if code is not None and by == "feature":
            raise UsageError(f"code={code} needs by='centroid': only centroids have codes.")
        centroids_of = self.codebook if by == "centroid" else None
        volume = self.sample(sample, up=up).volume
        return probe.probe(self.network, volume, layer, location, centroids_of=centroids_of, code=code)

    @unmoved_generators()
    def mistakes(self, split: str | None = None) -> list[str]:
        """Names of the misclassified samples of a split: of the test samples by default, else those that validate."""
        return misclassified(self, split or self._evaluated)

    @unmoved_generators()
    def groups(self, split: str | None = None) -> list[Group]:
        """The misclassified samples of a split in groups that are alike, each with its likely cause and remedy.

        Every mistake is explained for that. The split is chosen as by `mistakes`; a group's keys are in `docs/cli.md`.
        """
        indices = self.voxels.indices(split or self._evaluated)
        wrong = np.isin(indices, [self.voxels.index_of(name) for name in self.mistakes(split)])
        return group_mistakes(self, explain_mistakes(self, indices[wrong]), indices[~wrong])

    @unmoved_generators()
    def compare(self, other: "Run", split: str | None = None, *, causes: bool = True) -> Comparison:
        """What changes from this run to another on the samples of a split that both have, as `fer compare --json`.

        Raises UsageError where there is no such sample.
        """
        return compare(self, other, split=split or self._evaluated, causes=causes)

    @unmoved_generators()
    def evaluate(
        self,
        split: str | None = None,
        *,
        votes: int | None = None,
        views: int | None = None,
        sanity: bool = False,
        repair: bool = False,
        planted: bool = False,
        causes: bool = False,
    ) -> Evaluation:
        """Evaluate a split, as `fer evaluate --json` does; its options and keys are in `docs/cli.md`.

        Raises UsageError where there is no labelled sample in the split, and what opening the run raises.
        """
        return evaluate(
            self,
            split=split or self._evaluated,
            votes=votes,
            views=views,
            sanity=sanity,
            repair=repair,
            planted=planted,
            causes=causes,
        )

    @property
    def _evaluated(self) -> str:
        return "test" if "test" in self.voxels.splits else "val"


def load_run(
    folder: str | Path = "fer-run",
    *,
    voxels: str | Path | None = None,
    model: str | Path | None = None,
    codebook: str | Path | None = None,
    network: nn.Module | None = None,
    device: str = "auto",
) -> Run:
    """Open the run in `folder`, with any artifact named explicitly taken from there instead.

    `network` is the classifier of a run that `attach` made; it stays on its device and as it is. Without it such a run
    opens, but what needs the classifier raises UsageError when it is first asked for.

    Raises InputError if there is no such folder and an artifact is not named, UsageError for a device that is not here.
    """
    named = [None if path is None else Path(path) for path in (voxels, model, codebook)]
    if not Path(folder).is_dir() and None in named:
        raise InputError(f"{folder} is no folder of a run. Run 'fer demo --run {folder}' to make one.")
    paths = RunPaths.in_folder(Path(folder), voxels=named[0], model=named[1], codebook=named[2])
    return Run(paths, device=choose_device(device) if network is None else home(network)[0], module=network)


@unmoved_generators()
def attach(
    model: nn.Module,
    train: Any,
    *,
    test: Any = None,
    val: Any = None,
    run: str | Path = "fer-run",
    classes: Sequence[str] | None = None,
    kind: Kind | None = None,
    spacing: Sequence[float | int] | None = None,
    levels: Sequence[str] | None = None,
    output: str | None = None,
    activation: Activation | None = None,
    decision: float = 0.5,
    cluster: bool = True,
    k: Sequence[int] | Literal["auto"] | None = None,
    feedback_epochs: int | None = None,
    feedback_learning_rate: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    say: Say = lambda _: None,
) -> Run:
    """Attach to a frozen classifier in memory: a feedback network, codebooks and calibration, in the folder `run`.

    `train`, `test` and `val` are data sets of (volume, label[, name]) as `save_volumes` takes them; `train` may be the
    path of a voxels.h5. Samples without a name are called `train_00000` and so on. `classes` are the names of the
    classes, in the order of labels and of the model's outputs. The other options are those of `fer attach` and `fer
    cluster`. `say` is told each epoch and warning in a line. With `cluster=False` the run has no codebooks yet.

    The model stays on its device and is not changed. With `resume` an unfinished run goes on; `force` replaces the
    artifacts in `run` and starts from an earlier feedback network for the same levels.

    Raises InputError for volumes and labels that do not fit, UsageError for a model, levels or options that do not, or
    artifacts that exist; FerError for features that are not finite; ResourceError where memory or disk do not suffice.
    """
    device = home(unwrapped(model))[0]
    given = Path(train) if isinstance(train, (str, Path)) else None
    paths = RunPaths.in_folder(Path(run), voxels=given)
    if given is None and not (resume and paths.voxels.exists()):
        save_volumes(paths.voxels, train, test=test, val=val, classes=classes, kind=kind, spacing=spacing, force=force)
    settings = AttachSettings(
        levels=None if levels is None else tuple(levels),
        output=output,
        activation=activation,
        decision=decision,
        outputs=None if classes is None or given is None else tuple(classes),
        feedback_epochs=feedback_epochs,
        feedback_learning_rate=feedback_learning_rate,
        batch_size=batch_size,
        seed=seed,
    )
    attach_network(
        paths.voxels,
        paths.model,
        model,
        settings,
        Origin(),
        device=device,
        resume=resume,
        force=force,
        listed=partial(_tell_overview, fitted_on=settings.fitted_on, say=say),
        report=partial(_tell_epoch, say=say),
    )
    if cluster:
        _cluster(paths, model, device, k, seed, force, say)
    return Run(paths, device=device, module=model)


def _tell_overview(overview: Overview, *, fitted_on: str, say: Say) -> None:
    for sentence in warnings(overview, fitted_on):
        say(sentence)


def _tell_epoch(progress: TrainingProgress, *, say: Say) -> None:
    if record := progress.record:
        say(f"epoch {record.epoch}/{progress.epochs}: loss {record.training_loss:.4f}, {record.seconds:.0f} s")


def _cluster(
    paths: RunPaths,
    model: nn.Module,
    device: torch.device,
    k: Sequence[int] | Literal["auto"] | None,
    seed: int,
    force: bool,
    say: Say,
) -> None:
    check_calibration(paths, force=force)

    def tell(progress: ClusteringProgress) -> None:
        if progress.done == progress.total:
            say(" ".join(filter(None, (progress.doing, progress.path, progress.layer))))

    cluster_network(
        paths.voxels,
        paths.model,
        paths.codebook,
        k=k if k is None or isinstance(k, str) else tuple(k),
        seed=seed,
        device=device,
        module=model,
        calibrate=lambda *args: calibrated(paths.calibration, *args, views=views_of_run(paths.model)),
        force=force,
        report=tell,
    )
