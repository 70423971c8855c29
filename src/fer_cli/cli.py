"""The `fer` command: each subcommand parses, calls one function, and prints.

Results go to stdout, progress and errors to stderr; how a command ends is in `endings`. A stage is imported inside its
command, so that help and usage errors are quick.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fer_cli import __version__, arguments, endings
from fer_cli.arguments import file_name, numbers, size_in_bytes
from fer_cli.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from fer_cli.run import Run

app = typer.Typer(
    name="fer",
    help="Explains how a 3D convolutional network recognises a shape, and why it fails.",
    epilog="A run: fer voxelize ModelNet10.zip → fer train → fer cluster → fer evaluate → fer explain chair_0891",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunDir = Annotated[Path, typer.Option("--run", envvar="FER_RUN", help="Folder that holds the run's artifacts.")]
Voxels = Annotated[Path | None, typer.Option(help="Voxels to use instead of the run's voxels.h5.")]
Model = Annotated[Path | None, typer.Option(help="Model to use instead of the run's model.h5.")]
CodebookFile = Annotated[Path | None, typer.Option(help="Codebook to use instead of the run's codebook.h5.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, …")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes or threads; all cores by default.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Dask scheduler whose workers do the work, such as tcp://127.0.0.1:8786.")
]
SampleName = Annotated[
    str,
    typer.Argument(metavar="SAMPLE", help="A file that holds a shape, or the name of a sample in the voxels."),
]
_DEFAULT_RUN = Path("fer-run")


@app.command(epilog="Example: fer download modelnet10 -o archives")
def download(
    dataset: Annotated[str, typer.Argument(help="modelnet10 or modelnet40.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to download into.")] = Path(),
    url: Annotated[str | None, typer.Option(help="Where to download from instead of the authors' server.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Download the archive of a data set, or the rest of it where an earlier download broke off."""
    from fer_cli.download import download_dataset
    from fer_cli.terminal import CountView, progress_bar

    endings.goes_on()
    with progress_bar(of_bytes=True) as bar:
        result = download_dataset(dataset, output, url=url, force=force, progress=CountView(bar, dataset))
    record = result.record
    if as_json:
        _print_json({"output": str(result.path), "fetched": result.fetched, **vars(record)})
        return
    said = "downloaded" if result.fetched else "was there already"
    typer.echo(f"{result.path} {said}: {record.bytes} bytes, SHA-256 {record.sha256}")


@app.command(epilog="Example: fer voxelize modelnet10-binvox.zip --run my-run")
def voxelize(
    source: Annotated[Path, typer.Argument(help="Folder, .zip or single file of meshes, point clouds or voxel grids.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; RUN/voxels.h5.")] = None,
    run: RunDir = _DEFAULT_RUN,
    resolution: Annotated[int, typer.Option(help="Voxels along each side, 8 to 128.")] = 32,
    padding: Annotated[int, typer.Option(help="Empty voxels around a mesh.")] = 1,
    fill: Annotated[str, typer.Option(help="What of a mesh is occupied: surface or solid.")] = "surface",
    per_class: Annotated[int | None, typer.Option(min=1, help="At most so many shapes a class and split.")] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of each class to test with, where folders tell no split.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split that --test-fraction draws.")] = 0,
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Leave out training shapes identical to a test or training shape."),
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End the run at the first shape that cannot be used.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn shapes into occupancy grids: SOURCE → voxels.h5."""
    from fer_cli.inventory import counts_table, duplicates_line, enclosed_line, skipped_lines
    from fer_cli.occupancy import VoxelSettings
    from fer_cli.terminal import CountView, progress_bar
    from fer_cli.voxelize import voxelize_source

    settings = VoxelSettings(resolution=resolution, padding=padding, fill=fill)  # type: ignore[arg-type]
    endings.goes_on()
    with progress_bar() as bar:
        summary = voxelize_source(
            source,
            output or run / "voxels.h5",
            settings,
            per_class=per_class,
            test_fraction=test_fraction,
            seed=seed,
            drop_duplicates=drop_duplicates,
            workers=workers,
            scheduler=scheduler,
            strict=strict,
            force=force,
            progress=CountView(bar, "voxelizing"),
        )
    skipped = [{"source": skip.path, "reason": skip.reason} for skip in summary.skipped]
    duplicates = vars(summary.duplicates)
    if as_json:
        _print_json(
            {
                "output": str(summary.path),
                "samples": summary.n_samples,
                "classes": summary.counts,
                "skipped": skipped,
                "duplicates": duplicates,
                "dropped": summary.n_dropped,
                "enclosing_nothing": None if fill == "surface" else list(summary.enclosing_nothing),
                "resumed": summary.n_resumed,
                "seconds": summary.seconds,
            }
        )
        return
    _print_rich(counts_table(summary.counts))
    for line in skipped_lines(skipped):
        typer.echo(line)
    if identical := duplicates_line(duplicates, summary.n_dropped, hint=True):
        typer.echo(identical)
    if left_alone := enclosed_line(summary.enclosing_nothing, summary.n_samples):
        typer.echo(left_alone)
    if summary.n_resumed:
        typer.echo(f"{summary.n_resumed} shapes had been done by an earlier run")
    typer.echo(
        f"{summary.path}: {summary.n_samples} shapes in {summary.n_classes} classes, {len(skipped)} skipped, "
        f"{summary.seconds:.1f} s"
    )


@app.command(epilog="Example: fer train --preset compact --run my-run")
def train(
    voxels: Voxels = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; RUN/model.h5.")] = None,
    run: RunDir = _DEFAULT_RUN,
    preset: Annotated[str, typer.Option(help="Network size: paper, compact or smoke.")] = "compact",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the classifier; the preset's.")] = None,
    feedback_epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the feedback network.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Shapes a step; the preset's.")] = None,
    seed: Seed = 0,
    encoder: Annotated[
        Path | None, typer.Option(help="Model whose classifier to keep; only the feedback network is trained.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train the classifier, then the feedback network on it: voxels.h5 → model.h5.

    With several processes or machines, start it by torchrun -m fer_cli train; see docs/scaling.md.
    """
    from fer_cli.run import choose_device
    from fer_cli.terminal import TrainingView, training_bar
    from fer_cli.training import preset_settings
    from fer_cli.training import train as train_networks
    from fer_cli.world import join_world

    if encoder and epochs:
        raise UsageError("--epochs trains a classifier, but --encoder brings one. Give one of the two.")
    settings = preset_settings(preset, epochs=epochs, feedback_epochs=feedback_epochs, batch_size=batch_size, seed=seed)
    endings.goes_on("what was done is kept: run the same command with --resume to go on from there.")
    with join_world(choose_device(device)) as (world, own_device):
        with training_bar(shown=world.leads) as bar:
            summary = train_networks(
                voxels or run / "voxels.h5",
                output or run / "model.h5",
                settings,
                device=own_device,
                encoder=encoder,
                resume=resume,
                force=force,
                report=TrainingView(bar) if world.leads else _say_nothing,
                world=world,
            )
        if not world.leads:
            return
    if as_json:
        _print_json({**vars(summary), "path": str(summary.path), "curve": str(summary.curve)})
        return
    typer.echo(
        f"{summary.path}: {summary.parameters / 1e6:.1f} M parameters, validation accuracy {summary.accuracy:.4f}, "
        f"voxel IoU {summary.voxel_iou:.3f} on {summary.validation_samples} held-out samples, {summary.seconds:.0f} s"
    )
    typer.echo(f"learning curve: {summary.curve}")


@app.command(epilog="Example: fer cluster --k 60,50,40,30,30,20,20 --memory 2GB --run my-run")
def cluster(
    voxels: Voxels = None,
    model: Model = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; RUN/codebook.h5.")] = None,
    run: RunDir = _DEFAULT_RUN,
    k: Annotated[
        str, typer.Option(help="Codes of conv1 … fc7, or auto; the output has one a class.")
    ] = "60,50,40,30,30,20,20",
    memory: Annotated[str, typer.Option(help="Features held at once, such as 500MB or 2GB.")] = "2GB",
    scratch: Annotated[Path | None, typer.Option(help="Folder for features beyond that; the output's own.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Cluster every location of every layer, in both paths: model.h5 → codebook.h5."""
    from fer_cli.choice import choice_rows
    from fer_cli.clustering import cluster_network
    from fer_cli.report import info_table
    from fer_cli.run import choose_device
    from fer_cli.terminal import ClusteringView, progress_bar

    endings.goes_on()
    with progress_bar() as bar:
        summary = cluster_network(
            voxels or run / "voxels.h5",
            model or run / "model.h5",
            output or run / "codebook.h5",
            k=None if k == "auto" else numbers(k, "--k"),
            memory=size_in_bytes(memory),
            scratch=scratch,
            workers=workers,
            scheduler=scheduler,
            seed=seed,
            device=choose_device(device),
            force=force,
            report=ClusteringView(bar),
        )
    layers, choice = ([vars(each) for each in records] for records in (summary.layers, summary.choice))
    if as_json:
        _print_json({**vars(summary), "path": str(summary.path), "layers": layers, "choice": choice})
        return
    if choice:
        _print_rich(info_table({"agreement of clusterings": choice_rows(choice)}))
    locations = sum(layer.locations for layer in summary.layers)
    typer.echo(
        f"{summary.path}: {locations} locations of {len(summary.layers)} layers clustered over {summary.samples} "
        f"training samples, {summary.seconds:.0f} s"
        + (f"; {summary.resumed} layers were done before" if summary.resumed else "")
    )


@app.command(epilog="Example: fer probe chair_0891 --layer conv3 --location 2,2,2 --run my-run")
def probe(
    sample: SampleName,
    layer: Annotated[str, typer.Option(help="Layer of the location: conv1 … conv5, fc6, fc7.")],
    location: Annotated[str | None, typer.Option(help="x,y,z in the layer's feature map, from 0; 0,0,0.")] = None,
    by: Annotated[
        str, typer.Option(help="What fills the response field: the sample's feature, or its centroid.")
    ] = "feature",
    code: Annotated[
        int | None, typer.Option(help="With --by centroid: the location's code; the nearest unless given.")
    ] = None,
    all_locations: Annotated[
        bool, typer.Option("--all-locations", help="Draw every location of the layer, a sheet a slice.")
    ] = False,
    slices: Annotated[
        str | None, typer.Option(help="With --all-locations: only these horizontal slices (z), such as 7,8.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the pictures.")] = None,
    run: RunDir = _DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what one location of one layer, or every one, stands for (Algorithm 1)."""
    from fer_cli import mosaic
    from fer_cli.page import write_probe
    from fer_cli.probe import layer_locations, sweep
    from fer_cli.probe import probe as probe_location

    x, y, z = arguments.location(location or "0,0,0")
    chosen_slices = arguments.probe_choices(by, code, location, slices, all_locations=all_locations)
    opened = _opened(run, voxels, model, codebook, device)
    chosen = opened.sample(sample)
    centroids_of = opened.codebook if by == "centroid" else None
    answer: dict[str, Any] = {"sample": chosen.name, "layer": layer, "by": by}
    filled = "" if by == "feature" else f"-centroid{'' if code is None else f'-{code}'}"
    if all_locations:
        places = layer_locations(opened.network.config, layer, chosen_slices)
        mosaic.check_size(layer, len(places), opened.network.config.level_shape(layer)[3])
        probes = sweep(opened.network, chosen.grid, layer, places, centroids_of=centroids_of)
        folder = output or run / "probe" / f"{file_name(chosen.name)}-{layer}-all{filled}"
        pictures, found = mosaic.write_sweep(probes, chosen.grid, folder, sample=chosen.name, by=by)
        answer |= {"locations": found, "images": [str(picture) for picture in pictures]}
        if as_json:
            _print_json(answer)
            return
        typer.echo(f"{layer}: {len(found)} locations, by {by}")
        for picture in pictures:
            typer.echo(f"picture: {picture}")
        return
    result = probe_location(opened.network, chosen.grid, layer, (x, y, z), centroids_of=centroids_of, code=code)
    folder = output or run / "probe" / f"{file_name(chosen.name)}-{layer}-{x}-{y}-{z}{filled}"
    written = write_probe(result, chosen.grid, folder)
    answer |= {
        "location": [x, y, z],
        "code": result.code,
        "receptive_field": [list(span) for span in result.receptive_field],
        "response_field": [list(place) for place in result.response_field],
        "reconstruction": str(written.reconstruction),
        "images": [str(written.picture)],
    }
    if as_json:
        _print_json(answer)
        return
    box = " × ".join(f"[{low}, {high})" for low, high in result.receptive_field)
    count = len(result.response_field)
    sharing = "no other location shares any" if count == 1 else f"{count - 1} other locations share some"
    typer.echo(f"{layer} at {x},{y},{z} sees voxels {box}; {sharing} of them.")
    if result.code is not None:
        typer.echo(f"its centroid is that of code {result.code}; its neighbours hold their nearest centroids.")
    typer.echo(f"picture: {written.picture}")


@app.command(epilog="Example: fer explain broken_chair.off --label chair --run my-run")
def explain(
    samples: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SAMPLE]...", help="Files that hold a shape, or names of samples in the voxels."),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Explain all misclassified samples of a split.")] = False,
    split: Annotated[str, typer.Option(help="The split of --errors: test or train.")] = "test",
    label: Annotated[str | None, typer.Option(help="The true class, where the voxels do not tell it.")] = None,
    local_layer: Annotated[str, typer.Option(help="Layer of the local reconstruction.")] = "conv3",
    images: Annotated[bool, typer.Option("--images/--no-images", help="Write pictures and the HTML report.")] = True,
    vtk: Annotated[bool, typer.Option("--vtk", help="Write the shapes for ParaView too, as shapes.vti.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; RUN/explain/SAMPLE, or RUN/explain of several.")
    ] = None,
    run: RunDir = _DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that draw; all cores by default.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Explain how shapes were recognised, or where the wrong class came in; of several, with a gallery."""
    from fer_cli.drawing import open_drawing

    given = samples or []
    if errors and (given or label):
        raise UsageError("--errors finds the samples and their classes itself; give no SAMPLE and no --label with it.")
    if not errors and not given:
        raise UsageError("Missing argument 'SAMPLE', or --errors for all misclassified ones. Try 'fer explain --help'.")
    with open_drawing(workers) if images else nullcontext() as drawing:
        # Imported while other processes get ready to draw.
        from fer_cli.gallery import Wanted, explain_one, explain_several, misclassified
        from fer_cli.report import diagnosis_table, terminal_report
        from fer_cli.terminal import CountView, complain, progress_bar

        opened = _opened(run, voxels, model, codebook, device)
        wanted = Wanted(label, local_layer, drawing, volumes=vtk)
        if len(given) == 1:
            one, diagnosis = explain_one(opened, given[0], output, wanted, parent=run / "explain")
            if as_json:
                _print_json(one.json)
                return
            _print_rich(terminal_report(diagnosis))
            for kind, written in one.files.items():
                typer.echo(f"{kind}: {written}")
            return
        names = given or misclassified(opened, split)
        folder = output or run / "explain"
        what = f"misclassified samples of the split {split}" if errors else "samples"
        with progress_bar() as bar:
            several = explain_several(
                opened, names, folder, wanted, what=what, complain=complain, progress=CountView(bar, "explaining")
            )
    if as_json:
        _print_json(several.json)
    else:
        _print_rich(diagnosis_table([each.json for each in several.explained]))
        if several.gallery:
            typer.echo(f"gallery: {several.gallery}")
    if several.failed:
        raise typer.Exit(several.failed[0].error.exit_code)


@app.command(epilog="Example: fer evaluate --split test --json --run my-run")
def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Folders of runs on the same voxels, to put together; --run alone."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate: test or train.")] = "test",
    votes: Annotated[
        int | None, typer.Option(help="Let so many turned views of each shape vote too, such as 12.")
    ] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Hold randomised networks against the trained ones; takes longer.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace what rankings blame by a donor's features; takes longer.")
    ] = False,
    planted: Annotated[
        bool, typer.Option("--planted", help="Plant faults of known layer and place, and look for them; takes longer.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; RUN/evaluate, of several runs the first's.")
    ] = None,
    run: RunDir = _DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure accuracy, reconstructions, the paper's claims, and how well scores detect misclassification."""
    from fer_cli.evaluate import evaluate as evaluate_runs
    from fer_cli.evaluate import write_evaluation
    from fer_cli.evaluation_page import write_evaluation_page
    from fer_cli.evaluation_report import evaluation_report
    from fer_cli.terminal import StageView, progress_bar

    folders = runs or [run]
    if len(folders) > 1 and (voxels or model or codebook):
        raise UsageError("--voxels, --model and --codebook name an artifact of one run; give one RUN with them.")
    opened = [_opened(folder, voxels, model, codebook, device) for folder in folders]
    with progress_bar() as bar:
        evaluation = evaluate_runs(
            *opened, split=split, votes=votes, sanity=sanity, repair=repair, planted=planted, report=StageView(bar)
        )
    path = write_evaluation(evaluation, output or folders[0] / "evaluate")
    page = write_evaluation_page(evaluation, path.with_suffix(".html"))
    if as_json:
        _print_json(evaluation)
        return
    _print_rich(evaluation_report(evaluation))
    typer.echo(f"written to {path} and {page.name}")


@app.command(epilog="Example: fer figures --run my-run")
def figures(
    split: Annotated[str, typer.Option(help="Split to take samples from: test or train.")] = "test",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; RUN/figures.")] = None,
    run: RunDir = _DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw the paper's Figs 2 to 7 and Table I for this run, on samples that a written rule picks."""
    from fer_cli.figures import write_figures
    from fer_cli.report import figures_table
    from fer_cli.terminal import CountView, progress_bar

    opened = _opened(run, voxels, model, codebook, device)
    with progress_bar() as bar:
        answer = write_figures(opened, output or run / "figures", split=split, report=CountView(bar, "reading"))
    if as_json:
        _print_json(answer)
        return
    _print_rich(figures_table(answer))


@app.command(epilog="Example: fer info my-run/voxels.h5")
def info(
    file: Annotated[Path, typer.Argument(help="Any artifact: voxels.h5, model.h5, codebook.h5.")],
    as_json: AsJson = False,
) -> None:
    """Show where an artifact comes from and what it holds."""
    from fer_cli.choice import choice_rows
    from fer_cli.fitted_layer import layer_rows
    from fer_cli.info import describe
    from fer_cli.inventory import inventory_table
    from fer_cli.report import info_table, training_history
    from fer_cli.schema import VOXELS

    answer = describe(file)
    if as_json:
        _print_json(answer)
    else:
        history = answer["content"].pop("history", None)
        if layers := answer["content"].get("layers"):
            answer["content"]["layers"] = layer_rows(layers)
        if choice := answer["content"].pop("choice", None):
            answer["content"]["agreement of clusterings"] = choice_rows(choice)
        _print_rich(inventory_table(answer) if answer["format"] == VOXELS.name else info_table(answer))
        if history:
            _print_rich(training_history(history))


@app.command(epilog="Example: fer doctor --run my-run")
def doctor(
    run: RunDir = _DEFAULT_RUN,
    as_json: AsJson = False,
) -> None:
    """Try what fer needs on this machine, and say what is missing."""
    from fer_cli.doctor import examination_lines, examine

    examination = examine(run)
    if as_json:
        _print_json(examination.as_json())
    else:
        for line in examination_lines(examination):
            typer.echo(line)
    if count := len(examination.problems):
        raise ResourceError(
            f"{count} thing{'s' if count > 1 else ''} that fer needs {'do' if count > 1 else 'does'} "
            "not work; see the problems above."
        )


@app.command(epilog="Example: fer demo --run fer-demo")
def demo(
    run: RunDir = Path("fer-demo"),
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Run the whole pipeline on synthetic furniture and explain one mistake."""
    from fer_cli.demo import run_demo
    from fer_cli.page import write_report
    from fer_cli.report import terminal_report
    from fer_cli.run import choose_device
    from fer_cli.terminal import TrainingView, console, training_bar

    with training_bar() as bar:
        result = run_demo(
            run,
            seed=seed,
            device=choose_device(device),
            force=force,
            announce=lambda stage: console.print(f"[bold]{stage}[/bold]", soft_wrap=True),
            training_report=TrainingView(bar),
        )
    report = write_report(result.diagnosis, run / "explain" / file_name(result.diagnosis.sample))
    _print_rich(terminal_report(result.diagnosis))
    typer.echo(
        f"accuracy on {result.evaluation['n']} test shapes {result.evaluation['accuracy']:.3f}, "
        f"{result.evaluation['n_errors']} mistakes"
    )
    typer.echo(f"{result.diagnosis.label} taken for {result.diagnosis.predicted}; report: {report.resolve()}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Explains how a 3D convolutional network recognises a shape, and why it fails."""


def main() -> NoReturn:
    """Run the command line; every error ends as one line on stderr and an exit code."""
    endings.run(_invoke)


def _invoke() -> object:
    """The exit code that typer gives, if any; its own errors become those of fer."""
    try:
        return app(standalone_mode=False)
    except typer.TyperException as error:  # unknown command or option, value that does not parse
        message = getattr(error, "format_message", error.__str__)()
        if not message:  # `fer` alone, which has shown the help
            return UsageError.exit_code
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{end} Try 'fer --help'.") from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error


def _opened(folder: Path, voxels: Path | None, model: Path | None, codebook: Path | None, device: str) -> "Run":
    """The run in a folder, with any artifact named taken from there instead."""
    from fer_cli.run import Run, RunPaths, choose_device

    paths = RunPaths.in_folder(folder, voxels=voxels, model=model, codebook=codebook)
    return Run(paths, device=choose_device(device))


def _say_nothing(_: object) -> None:
    """Take what a stage reports, for a process that is not to show it."""


def _print_json(answer: Any) -> None:
    text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
    text = text.encode(errors="replace").decode()  # names of files need not be UTF-8, but JSON is
    if not sys.stdout.encoding.lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=2)  # which escapes what the encoding may not have
    print(text)


def _print_rich(renderable: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(renderable)
