"""The commands that read a finished run, beside `explain`: probe, evaluate, figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_cli import arguments
from fer_cli.arguments import file_name
from fer_cli.cli.next_step import tell_next
from fer_cli.cli.opening import expect_run, leave_soon, open_run
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
    Up,
    ViewsAsked,
    Voxels,
    print_json,
    print_line,
    print_rich,
)
from fer_cli.errors import UsageError

if TYPE_CHECKING:
    from fer_cli.diagnosis.probe import Probe
    from fer_cli.evaluation.results import Evaluation


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
    up: Up = None,
    output: Output = None,
    run: RunDir = DEFAULT_RUN,
    voxels: Voxels = None,
    model: Model = None,
    codebook: CodebookFile = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what one location of a layer, or every location of it, stands for (Algorithm 1)."""
    expect_run(run, voxels, model, codebook)
    from fer_cli.execution.collecting import imports_unsearched
    from fer_cli.execution.deferring import defer_meta_kernels

    defer_meta_kernels()
    with imports_unsearched():
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
    opened = open_run(run, voxels, model, codebook, device)
    chosen = opened.sample(sample, up=up)
    named, turned = {"voxels": voxels, "model": model, "codebook": codebook}, ("--up", up) if up else ()
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
        leave_soon(opened)
        if as_json:
            print_json({**asked, "locations": found, "images": pictures})
            return
        print_line(f"{layer}: {len(found)} locations, by {by}")
        for picture in pictures:
            print_line(f"picture: {picture}")
        tell_next("explain", sample, *turned, run=run, files=named)
        return
    result = probe_location(opened.network, chosen.volume, layer, (x, y, z), centroids_of=centroids_of, code=code)
    folder = output or run / "probe" / f"{file_name(chosen.name)}-{layer}-{x}-{y}-{z}{filled}"
    written = write_probe(result, chosen.volume, folder, view_of(chosen, opened.network.spec.input))
    maps = write_probe_nifti(result, chosen, folder) if nifti else []
    leave_soon(opened)
    if as_json:
        facts = {key: getattr(result, key) for key in ("location", "code", "receptive_field", "response_field", "kept")}
        files = {"reconstruction": written.reconstruction, "images": [written.picture]}
        print_json({**asked, **facts, **files, **({"nifti": maps} if nifti else {})})
        return
    _tell_location(result, written.picture)
    if maps:
        print_line(f"nifti: {maps[0].parent}")
    if by == "feature":
        words = ("--layer", layer, "--location", f"{x},{y},{z}", "--by", "centroid")
        tell_next("probe", sample, *words, *turned, run=run, files=named)
    else:
        tell_next("explain", sample, *turned, run=run, files=named)


def _tell_location(result: "Probe", picture: Path) -> None:
    """Print what a location sees, and where its picture is."""
    x, y, z = result.location
    box = " × ".join(f"[{low}, {high})" for low, high in result.receptive_field)
    count = len(result.response_field)
    sharing = "no other location shares any" if count == 1 else f"{count - 1} other locations share some"
    print_line(f"{result.layer} at {x},{y},{z} sees voxels {box}; {sharing} of them.")
    if result.code is not None:
        print_line(f"its centroid is that of code {result.code}; its neighbours hold their nearest centroids.")
    print_line(f"picture: {picture}")


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
    opened = [open_run(folder, voxels, model, codebook, device, in_memory=True) for folder in folders]
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
    print_line(f"written to {path} and {page.name}")
    words = _most_suspicious(evaluation) or opened[0].voxels.names[int(opened[0].voxels.indices(split)[0])]
    tell_next("explain", words, run=folders[0], files={"voxels": voxels, "model": model, "codebook": codebook})


def _most_suspicious(evaluation: "Evaluation") -> str | None:
    """The first run's mistake that is the most suspicious; None where it made none."""
    mistakes = [mistake for mistake in evaluation["misclassified"] if mistake["run"] == 0]
    return max(mistakes, key=lambda mistake: mistake["suspicion"])["sample"] if mistakes else None


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

    opened = open_run(run, voxels, model, codebook, device)
    with progress_bar() as bar:
        answer = write_figures(opened, output or run / "figures", split=split, report=CountView(bar, "reading"))
    if as_json:
        print_json(answer)
        return
    print_rich(figures_table(answer))
