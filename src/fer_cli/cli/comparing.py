"""`fer compare`: what changes from one run to another."""

from pathlib import Path
from typing import Annotated

import typer

from fer_cli.cli.opening import open_run
from fer_cli.cli.options import AsJson, Device, Split, print_json, print_rich

Before = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the first run.")]
After = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run to compare with it.")]
CompareSplit = Annotated[Split, typer.Option(help="Split to compare on.")]
Causes = Annotated[
    bool, typer.Option("--causes/--no-causes", help="Name the likely cause of each mistake that one run makes.")
]
CompareOutput = Annotated[Path | None, typer.Option("-o", "--output", help="Folder. Default: the second RUN/compare.")]


def compare(
    before: Before,
    after: After,
    split: CompareSplit = "test",
    causes: Causes = True,
    output: CompareOutput = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare two runs: which mistakes the second mends, which it makes, and why."""
    import json

    from fer_cli.cli.terminal import CountView, progress_bar
    from fer_cli.reports.comparison import comparison_report, write_comparison_page
    from fer_cli.storage.disk import write_whole
    from fer_cli.studies.comparison import compare as compare_runs

    runs = [open_run(folder, None, None, None, device) for folder in (before, after)]
    with progress_bar() as bar:
        found = compare_runs(*runs, split=split, causes=causes, report=CountView(bar, "explaining"))
    path = (output or after / "compare") / f"{split}.json"
    write_whole(path, json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    page = write_comparison_page(found, path.with_suffix(".html"))
    if as_json:
        print_json(found)
        return
    print_rich(comparison_report(found))
    typer.echo(f"written to {path} and {page.name}")
