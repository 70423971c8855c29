"""`fer voxelize`: shapes become occupancy grids, volumes are stored as a network reads them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_cli.arguments import scaling, three_numbers
from fer_cli.cli import endings
from fer_cli.cli.next_step import tell_next
from fer_cli.cli.options import (
    DEFAULT_RUN,
    AsJson,
    Axis,
    Bounds,
    Fill,
    Force,
    RunDir,
    Scheduler,
    VolumeKind,
    Workers,
    print_json,
    print_rich,
)
from fer_cli.errors import UsageError

if TYPE_CHECKING:
    from fer_cli.data.occupancy import VoxelSettings
    from fer_cli.data.plan import Plan
    from fer_cli.data.preparation import PreparationSettings
    from fer_cli.data.store_volumes import StoredSummary
    from fer_cli.data.voxelize import VoxelizeSummary

Source = Annotated[
    Path, typer.Argument(help="Folder, .zip or file of shapes or volumes, .npz of many, or .csv that lists files.")
]
VoxelizeOutput = Annotated[Path | None, typer.Option("-o", "--output", help="File to write. Default: RUN/voxels.h5.")]
Resolution = Annotated[
    int | None, typer.Option(help="Voxels along each side of a shape's grid, 8 to 128. Default: 32.")
]
Padding = Annotated[int | None, typer.Option(help="Empty voxels around a mesh. Default: 1.")]
VoxelizeFill = Annotated[Fill, typer.Option(help="What of a mesh is occupied.")]
VoxelizeBounds = Annotated[
    Bounds, typer.Option(help="Vertices that a mesh is fitted to its grid by: those its faces use, or all, as binvox.")
]
VoxelizeUp = Annotated[
    Axis | None, typer.Option(help="Axis of the files that points up; shapes are turned so that it is z. Default: z.")
]
PerClass = Annotated[int | None, typer.Option(min=1, help="Most shapes of each class and split.")]
TestFraction = Annotated[
    float | None, typer.Option(help="Share of each class to test with, where folders tell no split.")
]
VoxelizeSeed = Annotated[int, typer.Option(min=0, help="Seed of the split that --test-fraction draws.")]
DropDuplicates = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave out training shapes identical to a test or training shape."),
]
Strict = Annotated[bool, typer.Option("--strict", help="End the run at the first file that cannot be used.")]
LayoutOf = Annotated[
    str | None,
    typer.Option("--layout", help="Folders, outermost first: class/split, split/class, class, */class/split, none."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show classes, splits and skipped files; write nothing.")]

Table = Annotated[
    Path | None, typer.Option(help="CSV that lists files of SOURCE: columns path, class, split, group, and others.")
]
Classes = Annotated[str | None, typer.Option(help="Names for the labels 0, 1, … of an .npz file, with commas.")]
KindOf = Annotated[VolumeKind | None, typer.Option("--kind", help="What volumes hold. Default: occupancy, if binary.")]
Threshold = Annotated[float | None, typer.Option(help="Make voxels of at least this value occupied.")]
Shape = Annotated[str | None, typer.Option(help="Crop or pad volumes around the centre to X,Y,Z voxels.")]
Spacing = Annotated[str | None, typer.Option(help="Resample volumes to voxels of X,Y,Z millimetres.")]
Orientation = Annotated[str | None, typer.Option(help="Turn volumes so that their axes point so, such as RAS.")]
Normalise = Annotated[str, typer.Option(help="Scale intensities: none, zscore, minmax or window:LO,HI.")]

_EXAMPLES = 6
"""Classes of which `--dry-run` shows a file of each split."""


def voxelize(
    source: Source,
    output: VoxelizeOutput = None,
    run: RunDir = DEFAULT_RUN,
    resolution: Resolution = None,
    padding: Padding = None,
    fill: VoxelizeFill = "surface",
    layout: LayoutOf = None,
    bounds: VoxelizeBounds = "used",
    up: VoxelizeUp = None,
    table: Table = None,
    classes: Classes = None,
    kind: KindOf = None,
    threshold: Threshold = None,
    shape: Shape = None,
    spacing: Spacing = None,
    orientation: Orientation = None,
    normalise: Normalise = "none",
    per_class: PerClass = None,
    test_fraction: TestFraction = None,
    seed: VoxelizeSeed = 0,
    drop_duplicates: DropDuplicates = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn shapes into occupancy grids, or store volumes as a network reads them: SOURCE → voxels.h5.

    NIfTI, NRRD, MetaImage, TIFF, DICOM and .npz files, and tables with such files, are volumes; other grids are with
    any of --kind, --threshold, --shape, --spacing, --orientation and --normalise.
    """
    from fer_cli.data.occupancy import VoxelSettings
    from fer_cli.data.plan import plan

    preparation = _preparation(kind, threshold, shape, spacing, orientation, normalise)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    drawn: dict[str, Any] = {"test_fraction": test_fraction, "seed": seed}
    listed: dict[str, Any] = {"layout": layout, "table": table, "classes": names, "per_class": per_class, **drawn}
    planned = plan(source, as_volumes=preparation.changes, **listed)
    if dry_run:
        _tell_plan(planned, strict=strict, as_json=as_json)
        return
    endings.goes_on()
    target = output or run / "voxels.h5"
    common: dict[str, Any] = {**drawn, "strict": strict, "force": force, "as_json": as_json}
    if planned.are_volumes:
        _refuse_for_volumes(
            source,
            {
                "--resolution": resolution is not None,
                "--padding": padding is not None,
                "--fill": fill != "surface",
                "--bounds": bounds != "used",
                "--up": up is not None,
                "--drop-duplicates": drop_duplicates,
                "--scheduler": scheduler is not None,
            },
        )
        _store_volumes(planned, target, preparation, **common)
        if not as_json:
            _tell_next(target, output, run)
        return
    settings = VoxelSettings(
        resolution=32 if resolution is None else resolution,
        padding=1 if padding is None else padding,
        fill=fill,
        bounds=bounds,
        up=up or "z",
    )
    for_shapes: dict[str, Any] = {"per_class": per_class, "drop_duplicates": drop_duplicates, "workers": workers}
    _voxelize_shapes(planned, target, settings, scheduler=scheduler, **for_shapes, **common)
    if not as_json:
        _tell_next(target, output, run)


def _tell_next(written: Path, output: Path | None, run: Path) -> None:
    """Print the next command: to train, or where there is nothing to train on, to look at what is there."""
    from fer_cli.storage.artifact import open_artifact

    with open_artifact(written) as artifact:
        can_train = "train" in artifact.read_text("split")
    if can_train:
        tell_next("train", run=run, files={"voxels": output})
    else:
        tell_next("info", str(written), run=DEFAULT_RUN)


def _refuse_for_volumes(source: Path, given: dict[str, bool]) -> None:
    """Raise UsageError for the first option given that is for shapes alone."""
    instead = {
        "--resolution": " Give --shape X,Y,Z to crop or pad, --spacing to resample.",
        "--up": " Give --orientation to turn their axes.",
    }
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(f"{option} is for shapes, but {source} holds volumes.{instead.get(option, '')}")


def _preparation(
    kind: VolumeKind | None,
    threshold: float | None,
    shape: str | None,
    spacing: str | None,
    orientation: str | None,
    normalise: str,
) -> "PreparationSettings":
    from fer_cli.data.preparation import PreparationSettings

    name, window = scaling(normalise)
    sides = None if shape is None else three_numbers(shape, "--shape")
    if sides is not None and any(side != int(side) for side in sides):
        raise UsageError(f"--shape takes whole numbers, got {shape!r}.")
    return PreparationSettings(
        kind=kind,
        threshold=threshold,
        shape=None if sides is None else (int(sides[0]), int(sides[1]), int(sides[2])),
        spacing=None if spacing is None else three_numbers(spacing, "--spacing"),
        orientation=None if orientation is None else orientation.upper(),
        scaling=name,
        window=window,
    )


def _voxelize_shapes(
    planned: "Plan", target: Path, settings: "VoxelSettings", *, as_json: bool, **options: Any
) -> None:
    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.data.voxelize import voxelize_source

    with progress_bar() as bar:
        summary = voxelize_source(
            planned.source,
            target,
            settings,
            listing=planned.listing,
            progress=CountView(bar, "voxelizing"),
            **options,
        )
    _tell_voxelized(summary, settings.fill, as_json=as_json)


def _store_volumes(
    planned: "Plan", target: Path, settings: "PreparationSettings", *, as_json: bool, **options: Any
) -> None:
    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.data.store_volumes import store_volumes

    with progress_bar() as bar:
        summary = store_volumes(
            planned.source,
            target,
            planned.listing,
            planned.collection,
            settings,
            progress=CountView(bar, "reading"),
            **options,
        )
    _tell_stored(summary, as_json=as_json)


def _tell_plan(planned: "Plan", *, strict: bool, as_json: bool) -> None:
    """Print what would be read; with `strict`, end where a file would be skipped."""
    from fer_cli.reports.inventory import counts_table, skipped_lines
    from fer_cli.reports.tables import printable

    planned.listing.require_whole(strict=strict)
    answer: dict[str, Any] = planned.to_json()
    if as_json:
        print_json(answer)
        return
    print_rich(counts_table(answer["classes"]))
    for name, of_split in list(answer["examples"].items())[:_EXAMPLES]:
        for split, path in of_split.items():
            typer.echo(f"{printable(name)}, {split}: {printable(path)}")
    for line in skipped_lines(answer["skipped"]):
        typer.echo(line)
    what = "volumes" if answer["volumes"] else "shapes"
    folders = f"; folders are read as {answer['layout']}" if answer["layout"] else ""
    typer.echo(
        f"{answer['source']}: {answer['samples']} {what} in {len(planned.listing.classes)} classes, "
        f"{len(answer['skipped'])} skipped{folders}; nothing is written"
    )


def _tell_stored(summary: "StoredSummary", *, as_json: bool) -> None:
    """Print what became of the volumes."""
    written = summary.written
    answer = {
        "output": str(summary.path),
        "samples": sum(sum(of_split.values()) for of_split in written.counts.values()),
        "classes": written.counts,
        "input": written.input.to_json(),
        "stored": written.stored,
        "skipped": [{"source": skip.path, "reason": skip.reason} for skip in summary.skipped],
        "duplicates": vars(written.duplicates),
        "dropped": 0,
        "enclosing_nothing": None,
        "remarks": [],
        "resumed": summary.n_resumed,
        "notes": list(summary.notes),
        "seconds": summary.seconds,
    }
    classes = len(written.counts.keys() - {"unlabelled"})
    what = f"volumes of {written.input} in {classes} classes, {written.input.kind} stored as {written.stored}"
    resumed = f"{summary.n_resumed} volumes had been done by an earlier run" if summary.n_resumed else None
    _tell(answer, what, (*summary.notes, resumed), as_json=as_json)


def _tell_voxelized(summary: "VoxelizeSummary", fill: str, *, as_json: bool) -> None:
    """Print what became of the shapes."""
    from fer_cli.reports.inventory import enclosed_line, group_reasons, remark_lines
    from fer_cli.reports.tables import printable

    warned = group_reasons([{"source": item.path, "reason": item.reason} for item in summary.warnings])
    answer = {
        "output": str(summary.path),
        "samples": summary.n_samples,
        "classes": summary.counts,
        "skipped": [{"source": skip.path, "reason": skip.reason} for skip in summary.skipped],
        "duplicates": vars(summary.duplicates),
        "dropped": summary.n_dropped,
        "enclosing_nothing": None if fill == "surface" else list(summary.enclosing_nothing),
        "warnings": warned,
        "remarks": summary.remarks,
        "resumed": summary.n_resumed,
        "seconds": summary.seconds,
    }
    resumed = f"{summary.n_resumed} shapes had been done by an earlier run" if summary.n_resumed else None
    odd = [f"{each['shapes']} shapes warned of, {each['example']} for one: {each['reason']}" for each in warned]
    remarks = remark_lines(summary.remarks, summary.n_samples)
    enclosing_nothing = enclosed_line(summary.enclosing_nothing, summary.n_samples)
    notes = (*remarks, enclosing_nothing, *map(printable, odd), resumed)
    _tell(answer, f"shapes in {summary.n_classes} classes", notes, hint=True, as_json=as_json)


def _tell(answer: dict[str, Any], what: str, notes: Iterable[str | None], *, as_json: bool, hint: bool = False) -> None:
    """Print the answer as JSON, or as a table, a line for each note, and how many there are of `what`."""
    from fer_cli.reports.inventory import counts_table, duplicates_line, skipped_lines

    if as_json:
        print_json(answer)
        return
    print_rich(counts_table(answer["classes"]))
    identical = duplicates_line(answer["duplicates"], answer["dropped"], hint=hint)
    for line in (*skipped_lines(answer["skipped"]), identical, *notes):
        if line:
            typer.echo(line)
    typer.echo(
        f"{answer['output']}: {answer['samples']} {what}, {len(answer['skipped'])} skipped, {answer['seconds']:.1f} s"
    )
