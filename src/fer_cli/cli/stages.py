"""The commands that make a run's artifacts beside `voxelize`: download, train, cluster, calibrate."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_cli.arguments import numbers, size_in_bytes
from fer_cli.cli import endings
from fer_cli.cli.next_step import tell_next
from fer_cli.cli.options import (
    DEFAULT_RUN,
    FEEDBACK,
    AsJson,
    CodebookFile,
    Device,
    FeedbackLearningRate,
    Force,
    Model,
    Preset,
    Resume,
    RunDir,
    Scheduler,
    Seed,
    Voxels,
    Workers,
    print_json,
    print_line,
    print_rich,
)
from fer_cli.errors import UsageError
from fer_cli.storage.run_paths import RunPaths

if TYPE_CHECKING:
    from fer_cli.calibration.calibrate import CalibrationSummary
    from fer_cli.codebooks.clustering import ClusteringSummary
    from fer_cli.network.training import TrainingSummary

Dataset = Annotated[str, typer.Argument(help="modelnet10 or modelnet40.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to download into.")]
Url = Annotated[str | None, typer.Option(help="Where to download from instead of the authors' server.")]


def download(
    dataset: Dataset,
    output: Output = Path(),
    url: Url = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Download the archive of a data set, or the rest of it where an earlier download broke off."""
    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.data.download import download_dataset

    endings.goes_on()
    with progress_bar(of_bytes=True) as bar:
        result = download_dataset(dataset, output, url=url, force=force, progress=CountView(bar, dataset))
    record = result.record
    if as_json:
        print_json({"output": result.path, "fetched": result.fetched, **vars(record)})
        return
    said = "downloaded" if result.fetched else "was there already"
    print_line(f"{result.path} {said}: {record.bytes} bytes, SHA-256 {record.sha256}")
    tell_next("voxelize", str(result.path), run=DEFAULT_RUN)


TrainOutput = Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Default: RUN/model.h5.")]
TrainPreset = Annotated[
    Preset | None,
    typer.Option(
        metavar="NAME",
        help="The network: paper, compact or smoke, the paper's by width; or residual, a small one of residual units. "
        "Default: that of --encoder, or compact.",
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of the classifier. Default: the preset's.")]
TrainFeedbackEpochs = Annotated[
    int | None,
    typer.Option(
        "--feedback-epochs",
        min=0,
        rich_help_panel=FEEDBACK,
        help="Epochs of the feedback network; 0 for a classifier alone.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Shapes in each step. Default: the preset's.")]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak learning rate of the classifier. Default: the preset's.")
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option(help="Share of each label that is spread over all classes, below 1. Default: the preset's."),
]
Augment = Annotated[
    str | None,
    typer.Option(help="How samples vary, such as shift=2,mirror=xy, or none. Default: see docs/cli.md."),
]
Balance = Annotated[bool, typer.Option("--balance", help="Weigh every class alike, however many samples it has.")]
Encoder = Annotated[
    Path | None, typer.Option(help="Model whose classifier to keep; only the feedback network is trained.")
]
Pretrained = Annotated[
    Path | None, typer.Option(help="Model whose classifier's layers to start from; its classes may differ.")
]


def train(
    voxels: Voxels = None,
    output: TrainOutput = None,
    run: RunDir = DEFAULT_RUN,
    preset: TrainPreset = None,
    epochs: Epochs = None,
    feedback_epochs: TrainFeedbackEpochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    feedback_learning_rate: FeedbackLearningRate = None,
    label_smoothing: LabelSmoothing = None,
    augment: Augment = None,
    balance: Balance = False,
    seed: Seed = 0,
    encoder: Encoder = None,
    pretrained: Pretrained = None,
    resume: Resume = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train the classifier, then the feedback network on it: voxels.h5 → model.h5.

    With several processes or machines, start it by torchrun -m -- fer_cli train; see docs/scaling.md.
    """
    from fer_cli.artifacts import choose_device
    from fer_cli.cli.terminal import TrainingView, training_bar
    from fer_cli.data.augmentation import Augmentation
    from fer_cli.execution.world import join_world
    from fer_cli.network import training
    from fer_cli.network.checkpoint import checkpoint_path
    from fer_cli.pictures.curves import write_learning_curve

    settings = training.preset_settings(
        _preset(
            preset,
            encoder,
            classifier_options={
                "--epochs": epochs,
                "--learning-rate": learning_rate,
                "--label-smoothing": label_smoothing,
            },
        ),
        epochs=epochs,
        feedback_epochs=feedback_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        feedback_learning_rate=feedback_learning_rate,
        label_smoothing=label_smoothing,
        balance=balance or None,
        augmentation=None if augment is None else Augmentation.parsed(augment),
        seed=seed,
    )
    model = output or run / "model.h5"
    endings.goes_on(
        "what was done is kept: run the same command with --resume to go on from there.", where=checkpoint_path(model)
    )
    with join_world(choose_device(device)) as (world, own_device):
        with training_bar(shown=world.leads) as bar:
            summary = training.train(
                voxels or run / "voxels.h5",
                model,
                settings,
                device=own_device,
                encoder=encoder,
                pretrained=pretrained,
                resume=resume,
                force=force,
                vary_by_kind=augment is None,
                report=TrainingView(bar, own_device) if world.leads else lambda _: None,
                finish=write_learning_curve,
                world=world,
            )
        if world.leads:
            _tell_trained(summary, as_json=as_json)
            if not as_json:
                _tell_after_training(summary, voxels, output, run)


def _tell_trained(summary: "TrainingSummary", *, as_json: bool) -> None:
    """Print what training led to."""
    from fer_cli.pictures.curves import curve_path

    if as_json:
        answer = {**vars(summary), "curve": curve_path(summary.path)}
        name, score = answer.pop("score_name"), answer.pop("score")
        print_json(
            {**answer, "score": {"name": name, "value": score}, "voxel_iou": score if name == "voxel IoU" else None}
        )
        return
    if summary.unreduced_layers:
        print_line(f"{', '.join(summary.unreduced_layers)} with stride 1: the volumes are too small for five halvings")
    print_line(
        f"{summary.path}: {summary.parameters / 1e6:.1f} M parameters, validation accuracy {summary.accuracy:.4f}, "
        + (f"{summary.score_name} {summary.score:.3f} " if summary.score is not None else "")
        + f"on {summary.validation_samples} held-out samples, "
        f"{summary.seconds:.0f} s"
    )
    if summary.accuracy <= summary.majority:
        print_line(
            "The classifier is right no more often than always guessing the most frequent class "
            f"({summary.majority:.4f}). More --epochs, --balance or another --augment may help."
        )
    print_line(f"learning curve: {curve_path(summary.path)}")


def _tell_after_training(summary: "TrainingSummary", voxels: Path | None, output: Path | None, run: Path) -> None:
    """Print the next command; that of a classifier alone trains a feedback network on it, into a file of its own."""
    if summary.score is not None:
        tell_next("cluster", run=run, files={"voxels": voxels, "model": output})
        return
    whole = summary.path.with_name(f"{summary.path.stem}-whole{summary.path.suffix}")
    words = ("train", "--encoder", str(summary.path), "-o", str(whole))
    tell_next(*words, run=run, files={"voxels": voxels})


def _preset(given: Preset | None, encoder: Path | None, *, classifier_options: Mapping[str, object]) -> str:
    """The preset to train by: the encoder's where one is given. Raises UsageError for what does not go with it."""
    from fer_cli.network.transfer import preset_of

    if encoder is None:
        return given or "compact"
    if option := next((option for option, value in classifier_options.items() if value is not None), None):
        raise UsageError(f"{option} trains a classifier, but --encoder brings one. Give one of the two.")
    kept = preset_of(encoder)
    if given not in (None, kept):
        raise UsageError(f"the classifier of {encoder} is of preset {kept}, not {given}. Leave --preset out.")
    return kept


ClusterOutput = Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Default: RUN/codebook.h5.")]
K = Annotated[
    str | None,
    typer.Option(help="Clusters of each layer, lowest first, or auto. Default: the paper's."),
]
Memory = Annotated[str, typer.Option(help="Most memory for features, such as 500MB or 2GB.")]
Scratch = Annotated[
    Path | None, typer.Option(help="Folder for features that exceed --memory. Default: that of the output.")
]
ViewsOf = Annotated[
    int | None, typer.Option(help="Views of a sample that its suspicion is a mean over. Default: 24; 8 of large ones.")
]
Vary = Annotated[
    str | None,
    typer.Option(help="How views vary, such as mirror=x,turn,shift, or none. Default: as the network was trained."),
]


def cluster(
    voxels: Voxels = None,
    model: Model = None,
    output: ClusterOutput = None,
    run: RunDir = DEFAULT_RUN,
    k: K = None,
    memory: Memory = "2GB",
    scratch: Scratch = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    views: ViewsOf = None,
    vary: Vary = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Cluster every location of every layer, in both paths, and calibrate: model.h5 → codebook.h5, its calibration."""
    from fer_cli.artifacts import choose_device
    from fer_cli.calibration.calibrate import calibrated, check_calibration, views_of_run
    from fer_cli.cli.terminal import ClusteringView, CountView, progress_bar
    from fer_cli.codebooks.clustering import cluster_network

    paths = RunPaths.in_folder(run, voxels=voxels, model=model, codebook=output)
    chosen = choose_device(device)
    seen = views_of_run(paths.model, number=views, vary=vary)
    check_calibration(paths, force=force)
    endings.goes_on()
    with progress_bar() as bar:
        summary = cluster_network(
            paths.voxels,
            paths.model,
            paths.codebook,
            k=None if k is None else "auto" if k == "auto" else numbers(k, "--k"),
            memory=size_in_bytes(memory),
            scratch=scratch,
            workers=workers,
            scheduler=scheduler,
            seed=seed,
            device=chosen,
            force=force,
            report=ClusteringView(bar),
            calibrate=partial(calibrated, paths.calibration, views=seen, report=CountView(bar, "calibrating")),
        )
    _tell_clustered(summary, as_json=as_json)
    if not as_json:
        tell_next("evaluate", run=run, files={"voxels": voxels, "model": model, "codebook": output})


def _tell_clustered(summary: "ClusteringSummary", *, as_json: bool) -> None:
    """Print what was clustered."""
    from fer_cli.codebooks.choice import choice_rows
    from fer_cli.reports.artifact_report import info_table

    if as_json:
        print_json(summary)
        return
    if summary.choice:
        print_rich(info_table({"agreement of clusterings": choice_rows([vars(each) for each in summary.choice])}))
    locations = sum(layer.locations for layer in summary.layers)
    print_line(
        f"{summary.path}: {locations} locations of {len(summary.layers)} layers clustered over {summary.samples} "
        f"training samples, {summary.seconds:.0f} s"
        + (f"; {summary.resumed} layers were done before" if summary.resumed else "")
    )
    read = summary.calibration
    part = f"{read.seconds:.0f} of the {summary.seconds:.0f} s"
    print_line(f"{read.path}: calibrated on {read.samples} validation samples, {part}")
    _tell_too_few(read)


def calibrate(
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    run: RunDir = DEFAULT_RUN,
    views: ViewsOf = None,
    vary: Vary = None,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compute from the validation samples what explanations compare with: codebook.h5 → codebook.calibration.h5."""
    from fer_cli.artifacts import choose_device
    from fer_cli.calibration.calibrate import calibrate as calibrate_run
    from fer_cli.cli.terminal import CountView, progress_bar

    paths = RunPaths.in_folder(run, voxels=voxels, model=model, codebook=codebook)
    with progress_bar() as bar:
        summary = calibrate_run(
            paths,
            device=choose_device(device),
            views=views,
            vary=vary,
            force=force,
            report=CountView(bar, "calibrating"),
        )
    if as_json:
        print_json(summary)
        return
    print_line(
        f"{summary.path}: calibrated on {summary.samples} validation samples, {summary.correct} of them classified "
        f"correctly, {summary.seconds:.0f} s; {summary.views}"
    )
    _tell_too_few(summary)
    tell_next("evaluate", run=run, files={"voxels": voxels, "model": model, "codebook": codebook})


def _tell_too_few(summary: "CalibrationSummary") -> None:
    """Say so where an alarm cannot be raised for want of validation samples."""
    if not summary.enough:
        print_line(f"Too few validation samples ({summary.correct} classified correctly) for an alarm at p ≤ 0.05.")
