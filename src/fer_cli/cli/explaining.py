"""`fer explain`: samples, the files of folders, or the mistakes of a split."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_cli.cli.next_step import tell_next
from fer_cli.cli.opening import expect_run, holds_shapes, leave_soon, open_run
from fer_cli.cli.options import (
    DEFAULT_RUN,
    AsJson,
    CauseName,
    CodebookFile,
    Device,
    Model,
    RunDir,
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
    from fer_cli.artifacts import RunArtifacts
    from fer_cli.diagnosis.diagnosis import Diagnosis
    from fer_cli.reports.explained import Explained
    from fer_cli.reports.gallery import Several, Wanted
    from fer_cli.reports.selection import Selection

Samples = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SAMPLE",
        help="Files that hold a shape or a volume, folders of such files, or names of samples in the voxels.",
    ),
]
Errors = Annotated[bool, typer.Option("--errors", help="Explain all misclassified samples of a split.")]
ExplainSplit = Annotated[Split, typer.Option(help="With --errors: the split to search.")]
Pair = Annotated[
    list[str] | None,
    typer.Option(metavar="TRUE,PREDICTED", help="With --errors: only these two classes; may be repeated."),
]
CauseOf = Annotated[
    CauseName | None,
    typer.Option(
        "--cause",
        metavar="NAME",
        help="With --errors: only this likely cause: label, overlap, gap, pose, input, part, layer or none.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="With --errors: only so many, the most suspicious.")]
Label = Annotated[str | None, typer.Option(help="True class of the sample, if the run's voxels do not contain it.")]
LocalLayer = Annotated[str | None, typer.Option(help="Layer of the local reconstruction. Default: the middle one.")]
Images = Annotated[
    bool, typer.Option("--images/--no-images", help="Write pictures and the HTML report, or diagnosis.json alone.")
]
Vtk = Annotated[bool, typer.Option("--vtk", help="Write the shapes for ParaView too, as shapes.vti.")]
Nifti = Annotated[
    bool, typer.Option("--nifti", help="Write volumes and blame as NIfTI too, with the sample's affine, into nifti/.")
]
SingleFile = Annotated[
    bool, typer.Option("--single-file", help="Of several samples: let every page carry its pictures and scripts.")
]
ExplainOutput = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder, or NAME.html. Default: RUN/explain/SAMPLE, or RUN/explain for several.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that draw pictures. Default: one for each core; for several samples half as many."
    ),
]


_FEW = 4
"""Samples up to which reading the voxels file at each look-up is quicker than holding all its grids in memory."""


def explain(
    samples: Samples = None,
    errors: Errors = False,
    split: ExplainSplit = "test",
    pair: Pair = None,
    cause: CauseOf = None,
    limit: Limit = None,
    label: Label = None,
    up: Up = None,
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
    _check(given, errors=errors, label=label, up=up, selecting=bool(pair or cause or limit))
    paths = expect_run(run, voxels, model, codebook)
    from fer_cli.execution.collecting import imports_unsearched
    from fer_cli.execution.contention import Usage, usable_cores, wait_passively
    from fer_cli.execution.deferring import defer_meta_kernels
    from fer_cli.pictures.drawing import open_drawing

    defer_meta_kernels()
    began = Usage.now()
    wait_passively()
    many = errors or len(given) > _FEW
    if many and workers is None:  # the network's threads take the other half
        workers = max(1, len(usable_cores()) // 2)
    files = {"voxels": voxels, "model": model, "codebook": codebook}
    soon = images and holds_shapes(paths.voxels)
    with open_drawing(workers, soon=soon) if images else nullcontext() as drawing:
        # Imported while other processes get ready to draw.
        with imports_unsearched():
            from fer_cli.data.sample_files import is_sample_folder
            from fer_cli.reports.gallery import Wanted, explain_one
            from fer_cli.reports.selection import Selection

            if images:
                import fer_cli.reports.site  # noqa: F401

        selection = Selection(split, tuple(pair or ()), cause, limit) if errors else None
        opened = open_run(run, voxels, model, codebook, device, in_memory=many, began=began)
        wanted = Wanted(
            label,
            local_layer,
            drawing,
            volumes=vtk,
            nifti=nifti,
            views=views,
            single_file=single_file,
            split=split,
            summary=True,
            up=up,
        )
        if len(given) == 1 and not is_sample_folder(Path(given[0])):
            one, diagnosis = explain_one(opened, given[0], output, wanted, parent=run / "explain")
            leave_soon(opened)
            _point_out([one])
            _tell_explained(one, diagnosis, as_json=as_json)
            if not as_json:
                tell_next(*_probe_of(one, opened, given[0], up), run=run, files=files)
            return
        several = _explain_several(opened, selection or given, output or run / "explain", wanted)
        leave_soon(opened)
        if images:
            from fer_cli.reports.evaluation_page import join_evaluation

            join_evaluation(run, split, opened.model.id)
    _tell_several(several, as_json=as_json)
    if selection and not several.explained and not as_json:
        print_line(f"no {selection.words}")
    if several.explained and not as_json:
        most = max(several.explained, key=lambda each: each.suspicion.score)
        named = str(most.json["source"] or most.json["sample"])
        tell_next(*_probe_of(most, opened, named, up), run=run, files=files)
    if several.failed:
        raise typer.Exit(several.failed[0].error.exit_code)


def _check(given: list[str], *, errors: bool, label: str | None, up: str | None, selecting: bool) -> None:
    """Raise UsageError where samples and options do not go together."""
    if errors and (given or label):
        raise UsageError("--errors finds the samples and their classes itself; give no SAMPLE and no --label with it.")
    if errors and up:
        raise UsageError("--up is for files; the samples that --errors finds are turned as the run's shapes are.")
    if not errors and selecting:
        raise UsageError("--pair, --cause and --limit choose among misclassified samples; give --errors with them.")
    if not errors and not given:
        raise UsageError("Missing argument 'SAMPLE', or --errors for all misclassified ones. Try 'fer explain --help'.")


def _explain_several(
    opened: "RunArtifacts", asked: "list[str] | Selection", folder: Path, wanted: "Wanted"
) -> "Several":
    """Explain the samples named, or the mistakes selected; what cannot be explained is complained of."""
    from fer_cli.cli.terminal import CountView, complain, progress_bar
    from fer_cli.reports.gallery import explain_several
    from fer_cli.reports.selection import select

    called: dict[str, str] = {}
    with progress_bar() as bar:
        if isinstance(asked, list):
            names, what = _files_in(asked, opened, called), "samples"
        else:
            names = select(opened, asked, views=wanted.views, progress=CountView(bar, "choosing"))
            what = asked.words
        several = explain_several(
            opened,
            names,
            folder,
            wanted,
            what=what,
            complain=complain,
            progress=CountView(bar, "explaining"),
            called=called,
        )
    _point_out(several.explained)
    return several


def _files_in(given: list[str], opened: "RunArtifacts", called: dict[str, str]) -> list[str]:
    """The samples, with the files in a folder for its name; `called` gets what these files are called."""
    from fer_cli.data.sample_files import is_sample_folder, sample_files

    names: list[str] = []
    for name in given:
        if not is_sample_folder(Path(name)):
            names.append(name)
            continue
        found = sample_files(Path(name), of_any_format=opened.has_transform)
        called.update(found)
        names += found
    return names


def _point_out(explained: "list[Explained]") -> None:
    """Say on stderr of which samples the voxels have another label than --label."""
    from fer_cli.cli.terminal import complain

    for each in explained:
        if own := each.json["own_label"]:
            named, label = each.json["sample"], each.json["label"]
            complain(f"the voxels say {own} of {named}; it is explained as {label}, as --label says.")


def _probe_of(one: "Explained", opened: "RunArtifacts", sample: str, up: str | None) -> list[str]:
    """The words of the command that looks at the first place which a diagnosis points at, else at the middle."""
    places, spec = one.places, opened.network.spec
    layer = (places and places.layer) or spec.local_layer
    location = places.locations[0] if places and places.locations else [side // 2 for side in spec.map_shape(layer)]
    turned = ["--up", up] if up else []
    return ["probe", sample, "--layer", layer, "--location", ",".join(map(str, location)), *turned]


def _tell_explained(one: "Explained", diagnosis: "Diagnosis", *, as_json: bool) -> None:
    """Print the diagnosis of one sample, and where its files are."""
    if as_json:
        print_json(one.json)
        return
    from fer_cli.reports.report import terminal_report

    print_rich(terminal_report(diagnosis))
    for kind, written in one.files.items():
        print_line(f"{kind}: {written}")
    if "nifti" not in one.files:
        return
    if not diagnosis.is_placed:
        print_line("The sample's file tells no place in millimetres: these files fit each other, not a scan.")
    if diagnosis.sees_everything:
        print_line(f"{diagnosis.places.layer} sees the whole volume: blame.nii.gz holds one value everywhere.")


def _tell_several(several: "Several", *, as_json: bool) -> None:
    """Print several diagnoses, a line each, and where the gallery is."""
    if as_json:
        print_json(several.json)
        return
    from fer_cli.reports.report import diagnosis_table, trained_on_line

    answers: list[dict[str, Any]] = [each.json for each in several.explained]
    print_rich(diagnosis_table(answers))
    if line := trained_on_line(answers):
        print_rich(line)
    if several.gallery:
        print_line(f"gallery: {several.gallery}")
