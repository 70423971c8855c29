"""The commands that read a finished run: probe, explain, evaluate, figures."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_cli import arguments
from fer_cli.arguments import file_name
from fer_cli.cli.options import (
    DEFAULT_RUN,
    AsJson,
    CodebookFile,
    Device,
    Filling,
    Model,
    RunDir,
    SampleName,
    Split,
    Voxels,
    print_json,
    print_rich,
)
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.storage.run_paths import RunPaths

if TYPE_CHECKING:
    from fer_cli.artifacts import RunArtifacts
    from fer_cli.diagnosis.diagnosis import Diagnosis
    from fer_cli.diagnosis.probe import Probe
    from fer_cli.execution.contention import Usage
    from fer_cli.reports.gallery_page import Explained


Layer = Annotated[str, typer.Option(help="Layer to probe; fer info on the codebook lists them.")]
Location = Annotated[str | None, typer.Option(help="x,y,z in the layer's feature map, counted from 0. Default: 0,0,0.")]
By = Annotated[Filling, typer.Option(help="What to decode: the sample's own feature, or the nearest centroid.")]
Code = Annotated[int | None, typer.Option(help="With --by centroid: number of the cluster. Default: the nearest.")]
AllLocations = Annotated[
    bool, typer.Option("--all-locations", help="Draw every location of the layer, one picture for each slice.")
]
Slices = Annotated[
    str | None, typer.Option(help="With --all-locations: only these horizontal slices (z), such as 7,8.")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder for the pictures. Default: a new one in RUN/probe.")
]
ProbeNifti = Annotated[bool, typer.Option("--nifti", help="Write field and reconstruction as NIfTI too, into nifti/.")]


def probe(
    sample: SampleName,
    layer: Layer,
    location: Location = None,
    by: By = "feature",
    code: Code = None,
    all_locations: AllLocations = False,
    slices: Slices = None,
    nifti: ProbeNifti = False,
    output: Output = None,
    run: RunDir = DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what one location of a layer, or every location of it, stands for (Algorithm 1)."""
    _expect(run, voxels, model, codebook)
    from fer_cli.diagnosis.probe import layer_locations, sweep
    from fer_cli.diagnosis.probe import probe as probe_location
    from fer_cli.pictures import mosaic
    from fer_cli.pictures.slices import view_of
    from fer_cli.reports.nifti import write_probe_nifti
    from fer_cli.reports.probe_files import write_probe

    if all_locations and nifti:
        raise UsageError("--nifti writes one location; give no --all-locations with it.")
    x, y, z = arguments.location(location or "0,0,0")
    chosen_slices = arguments.probe_choices(by, code, location, slices, all_locations=all_locations)
    opened = _opened(run, voxels, model, codebook, device)
    chosen = opened.sample(sample)
    centroids_of = opened.codebook if by == "centroid" else None
    asked = {"sample": chosen.name, "layer": layer, "by": by}
    filled = "" if by == "feature" else f"-centroid{'' if code is None else f'-{code}'}"
    if all_locations:
        places = layer_locations(opened.network.spec, layer, chosen_slices)
        mosaic.check_size(layer, len(places), opened.network.spec.map_shape(layer)[2])
        probes = sweep(opened.network, chosen.volume, layer, places, centroids_of=centroids_of)
        folder = output or run / "probe" / f"{file_name(chosen.name)}-{layer}-all{filled}"
        view = view_of(chosen, opened.network.spec.input)
        pictures, found = mosaic.write_sweep(probes, chosen.volume, folder, sample=chosen.name, by=by, view=view)
        if as_json:
            print_json({**asked, "locations": found, "images": pictures})
            return
        typer.echo(f"{layer}: {len(found)} locations, by {by}")
        for picture in pictures:
            typer.echo(f"picture: {picture}")
        return
    result = probe_location(opened.network, chosen.volume, layer, (x, y, z), centroids_of=centroids_of, code=code)
    folder = output or run / "probe" / f"{file_name(chosen.name)}-{layer}-{x}-{y}-{z}{filled}"
    written = write_probe(result, chosen.volume, folder, view_of(chosen, opened.network.spec.input))
    maps = write_probe_nifti(result, chosen, folder) if nifti else []
    if as_json:
        facts = {key: getattr(result, key) for key in ("location", "code", "receptive_field", "response_field", "kept")}
        files = {"reconstruction": written.reconstruction, "images": [written.picture]}
        print_json({**asked, **facts, **files, **({"nifti": maps} if nifti else {})})
        return
    _tell_location(result, written.picture)
    if maps:
        typer.echo(f"nifti: {maps[0].parent}")


def _tell_location(result: "Probe", picture: Path) -> None:
    """Print what a location sees, and where its picture is."""
    x, y, z = result.location
    box = " × ".join(f"[{low}, {high})" for low, high in result.receptive_field)
    count = len(result.response_field)
    sharing = "no other location shares any" if count == 1 else f"{count - 1} other locations share some"
    typer.echo(f"{result.layer} at {x},{y},{z} sees voxels {box}; {sharing} of them.")
    if result.code is not None:
        typer.echo(f"its centroid is that of code {result.code}; its neighbours hold their nearest centroids.")
    typer.echo(f"picture: {picture}")


Samples = Annotated[
    list[str] | None,
    typer.Argument(metavar="SAMPLE", help="Files that hold a shape or a volume, or names of samples in the voxels."),
]
Errors = Annotated[bool, typer.Option("--errors", help="Explain all misclassified samples of a split.")]
ExplainSplit = Annotated[Split, typer.Option(help="With --errors: the split to search.")]
Label = Annotated[str | None, typer.Option(help="True class of the sample, if the run's voxels do not contain it.")]
LocalLayer = Annotated[str | None, typer.Option(help="Layer of the local reconstruction. Default: the middle one.")]
Images = Annotated[bool, typer.Option("--images/--no-images", help="Write pictures and the HTML report.")]
Vtk = Annotated[bool, typer.Option("--vtk", help="Write the shapes for ParaView too, as shapes.vti.")]
Nifti = Annotated[
    bool, typer.Option("--nifti", help="Write volumes and blame as NIfTI too, with the sample's affine, into nifti/.")
]
SingleFile = Annotated[
    bool, typer.Option("--single-file", help="Of several samples: let every page carry its pictures and script.")
]
ViewsAsked = Annotated[
    int | None, typer.Option("--views", help="Number of varied views whose mean predicts too, such as 24.")
]
ExplainOutput = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder, or NAME.html. Default: RUN/explain/SAMPLE, or RUN/explain for several.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that draw pictures. Default: one for each core.")]


def explain(
    samples: Samples = None,
    errors: Errors = False,
    split: ExplainSplit = "test",
    label: Label = None,
    local_layer: LocalLayer = None,
    images: Images = True,
    vtk: Vtk = False,
    nifti: Nifti = False,
    views: ViewsAsked = None,
    single_file: SingleFile = False,
    output: ExplainOutput = None,
    run: RunDir = DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Explain how samples were recognised, or where the wrong class came in; for several, write a gallery too."""
    given = samples or []
    if errors and (given or label):
        raise UsageError("--errors finds the samples and their classes itself; give no SAMPLE and no --label with it.")
    if not errors and not given:
        raise UsageError("Missing argument 'SAMPLE', or --errors for all misclassified ones. Try 'fer explain --help'.")
    paths = _expect(run, voxels, model, codebook)
    from fer_cli.execution.contention import Usage
    from fer_cli.pictures.drawing import open_drawing

    began = Usage.now()

    soon = images and _holds_shapes(paths.voxels)
    with open_drawing(workers, soon=soon) if images else nullcontext() as drawing:
        # Imported while other processes get ready to draw.
        from fer_cli.cli.terminal import CountView, complain, progress_bar
        from fer_cli.reports.evaluation_page import join_evaluation
        from fer_cli.reports.gallery import Wanted, explain_one, explain_several, misclassified, other_label
        from fer_cli.reports.report import diagnosis_table

        opened = _opened(run, voxels, model, codebook, device, began=began)
        wanted = Wanted(
            label, local_layer, drawing, volumes=vtk, nifti=nifti, views=views, single_file=single_file, split=split
        )
        if len(given) == 1:
            one, diagnosis = explain_one(opened, given[0], output, wanted, parent=run / "explain")
            if known := other_label(opened, given[0], label):
                complain(f"the voxels say {known} of {given[0]}; it is explained as {label}, as --label says.")
            _tell_explained(one, diagnosis, as_json=as_json)
            return
        names, folder = given or misclassified(opened, split), output or run / "explain"
        what = f"misclassified samples of the split {split}" if errors else "samples"
        with progress_bar() as bar:
            several = explain_several(
                opened, names, folder, wanted, what=what, complain=complain, progress=CountView(bar, "explaining")
            )
        if images:
            join_evaluation(run, split, opened.model.id)
    if as_json:
        print_json(several.json)
    else:
        print_rich(diagnosis_table([each.json for each in several.explained]))
        if several.gallery:
            typer.echo(f"gallery: {several.gallery}")
    if several.failed:
        raise typer.Exit(several.failed[0].error.exit_code)


def _tell_explained(one: "Explained", diagnosis: "Diagnosis", *, as_json: bool) -> None:
    """Print the diagnosis of one sample, and where its files are."""
    from fer_cli.reports.report import terminal_report

    if as_json:
        print_json(one.json)
        return
    print_rich(terminal_report(diagnosis))
    for kind, written in one.files.items():
        typer.echo(f"{kind}: {written}")
    if "nifti" not in one.files:
        return
    if not diagnosis.is_placed:
        typer.echo("The sample's file tells no place in millimetres: these files fit each other, not a scan.")
    if diagnosis.sees_everything:
        typer.echo(f"{diagnosis.places.layer} sees the whole volume: blame.nii.gz holds one value everywhere.")


Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RUN", help="Folders of runs on the same voxels, to pool. Default: --run."),
]
EvaluateSplit = Annotated[Split, typer.Option(help="Split to evaluate.")]
Votes = Annotated[int | None, typer.Option(help="Number of turned views of each sample that vote too, such as 12.")]
Sanity = Annotated[bool, typer.Option("--sanity", help="Compare trained with randomised networks; takes longer.")]
Repair = Annotated[
    bool, typer.Option("--repair", help="Replace what rankings blame by a donor's features; takes longer.")
]
Planted = Annotated[
    bool, typer.Option("--planted", help="Plant faults of known layer and place, and look for them; takes longer.")
]
PlantedCauses = Annotated[
    bool, typer.Option("--causes", help="Plant causes of mistakes, and see which are named; takes longer.")
]
EvaluateOutput = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder. Default: RUN/evaluate of the first run.")
]


def evaluate(
    runs: Runs = None,
    split: EvaluateSplit = "test",
    votes: Votes = None,
    views: ViewsAsked = None,
    sanity: Sanity = False,
    repair: Repair = False,
    planted: Planted = False,
    causes: PlantedCauses = False,
    output: EvaluateOutput = None,
    run: RunDir = DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure accuracy, reconstructions, the paper's claims, and how well scores detect misclassification."""
    from fer_cli.cli.terminal import StageView, progress_bar
    from fer_cli.reports.evaluation_page import write_evaluation_page
    from fer_cli.reports.evaluation_report import evaluation_report
    from fer_cli.reports.group_pictures import write_group_pictures
    from fer_cli.studies.evaluate import evaluate as evaluate_runs
    from fer_cli.studies.evaluate import write_evaluation

    folders = runs or [run]
    if len(folders) > 1 and (voxels or model or codebook):
        raise UsageError("--voxels, --model and --codebook name an artifact of one run; give one RUN with them.")
    opened = [_opened(folder, voxels, model, codebook, device, in_memory=True) for folder in folders]
    with progress_bar() as bar:
        evaluation = evaluate_runs(
            *opened,
            split=split,
            votes=votes,
            views=views,
            sanity=sanity,
            repair=repair,
            planted=planted,
            causes=causes,
            report=StageView(bar),
        )
    path = write_evaluation(evaluation, output or folders[0] / "evaluate")
    if groups := evaluation["groups"]:
        write_group_pictures(opened[0], groups, path.parent)
    page = write_evaluation_page(evaluation, path.with_suffix(".html"), folders[0])
    if as_json:
        print_json(evaluation)
        return
    print_rich(evaluation_report(evaluation))
    typer.echo(f"written to {path} and {page.name}")


FiguresSplit = Annotated[Split, typer.Option(help="Split to take samples from.")]
FiguresOutput = Annotated[Path | None, typer.Option("-o", "--output", help="Folder. Default: RUN/figures.")]


def figures(
    split: FiguresSplit = "test",
    output: FiguresOutput = None,
    run: RunDir = DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw the paper's Figs 2 to 7 and Table I for this run, on samples that a written rule picks."""
    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.pictures.figures import write_figures
    from fer_cli.reports.report import figures_table

    opened = _opened(run, voxels, model, codebook, device)
    with progress_bar() as bar:
        answer = write_figures(opened, output or run / "figures", split=split, report=CountView(bar, "reading"))
    if as_json:
        print_json(answer)
        return
    print_rich(figures_table(answer))


def _expect(folder: Path, voxels: Path | None, model: Path | None, codebook: Path | None) -> RunPaths:
    """Have the artifacts of a run vetted while the libraries are imported, and say where they are."""
    from fer_cli.storage.artifact import expect

    paths = RunPaths.in_folder(folder, voxels=voxels, model=model, codebook=codebook)
    expect((paths.voxels, paths.model, paths.codebook))
    return paths


def _holds_shapes(voxels: Path) -> bool:
    """Whether samples are shapes, which other processes draw; True where the file cannot be read, which shows later."""
    from fer_cli.storage.artifact import open_artifact

    with suppress(ArtifactError):
        return "occupancy" in open_artifact(voxels)
    return True


def _opened(
    folder: Path,
    voxels: Path | None,
    model: Path | None,
    codebook: Path | None,
    device: str,
    *,
    in_memory: bool = False,
    began: "Usage | None" = None,
) -> "RunArtifacts":
    """The run in a folder, with any artifact named taken from there instead.

    PyTorch then computes with as many threads as other programs have left cores free since the command `began`, or
    since now.
    """
    from fer_cli.execution.contention import Usage, fit_threads

    began = began or Usage.now()
    from fer_cli.artifacts import RunArtifacts, choose_device
    from fer_cli.cli.terminal import complain
    from fer_cli.network.weights import stale_weights

    paths = RunPaths.in_folder(folder, voxels=voxels, model=model, codebook=codebook)
    chosen = choose_device(device)
    fit_threads(chosen, began)
    run = RunArtifacts(paths, device=chosen, in_memory=in_memory)
    if changed := stale_weights(run.model):
        complain(
            f"{changed} has changed since {paths.model} was attached; the run explains the former weights. Run "
            "'fer attach' with --force for the new ones."
        )
    return run
