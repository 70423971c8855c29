"""`fer info`: an artifact, a run's folder, or pictures of what a voxels.h5 holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fer_cli.cli.options import AsJson, print_json, print_line, print_rich
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.storage.run_paths import next_command

Described = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="Any artifact, such as voxels.h5, or the folder of a run. Default: the run."),
]
RunFolder = Annotated[Path | None, typer.Option("--run", envvar="FER_RUN", help="The folder of a run.")]
Page = Annotated[
    Path | None, typer.Argument(metavar="PAGE", help="With --sheet: file to write. Default: FILE.sheet.html.")
]
Sheet = Annotated[
    bool, typer.Option("--sheet", help="Write a page with pictures of some samples of each class of a voxels.h5.")
]


def info(
    file: Described = None, page: Page = None, run: RunFolder = None, sheet: Sheet = False, as_json: AsJson = False
) -> None:
    """Show where an artifact comes from and what it holds, or how far a run is."""
    file = file or run
    if file is None:
        raise UsageError("fer info shows an artifact or a run: name its file or folder.")
    if page is not None and not sheet:
        raise UsageError(f"{page} is one argument too many: fer info shows one file, or writes a page with --sheet.")
    if sheet:
        _write_sheet(file, page, as_json=as_json)
    elif file.is_dir():
        _tell_run(file, as_json=as_json)
    else:
        _tell_artifact(file, as_json=as_json)


def _write_sheet(file: Path, page: Path | None, *, as_json: bool) -> None:
    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.reports.contact_page import sheet_path, write_contact_page

    voxels = file / "voxels.h5" if file.is_dir() else file
    with progress_bar() as bar:
        written = write_contact_page(voxels, page or sheet_path(voxels), progress=CountView(bar, "drawing"))
    if as_json:
        print_json({"sheet": written})
    else:
        print_line(f"sheet: {written}")


def _tell_artifact(file: Path, *, as_json: bool) -> None:
    from fer_cli.codebooks.choice import choice_rows
    from fer_cli.codebooks.fitted_layer import layer_rows
    from fer_cli.reports.artifact_report import info_table, training_history
    from fer_cli.reports.attachment import level_rows
    from fer_cli.reports.info import describe
    from fer_cli.reports.inventory import inventory_table
    from fer_cli.storage.schema import VOXELS

    answer = describe(file)
    if as_json:
        print_json(answer)
        return
    history = answer["content"].pop("history", None)
    if network := answer["content"].get("network"):
        network["levels"] = level_rows(network["levels"])
        del answer["config"]["network"]["levels"]
    if layers := answer["content"].get("layers"):
        answer["content"]["layers"] = layer_rows(layers)
    if choice := answer["content"].pop("choice", None):
        answer["content"]["agreement of clusterings"] = choice_rows(choice)
    print_rich(inventory_table(answer) if answer["format"] == VOXELS.name else info_table(answer))
    if history:
        print_rich(training_history(history))


def _tell_run(folder: Path, *, as_json: bool) -> None:
    """Print how far a run is. Raises ArtifactError, behind all that is known, where an artifact cannot be used."""
    from fer_cli.reports.inventory import run_tables
    from fer_cli.reports.run_info import describe_run
    from fer_cli.reports.tables import printable

    answer: dict[str, Any] = describe_run(folder)
    answer["next"] = next_command(*answer["next"], run=folder)
    if as_json:
        print_json(answer)
    else:
        for part in run_tables(answer):
            print_rich(part)
        typer.echo(printable(f"Next: {answer['next']}"))
    if answer["problems"]:
        raise ArtifactError(answer["problems"][0])
