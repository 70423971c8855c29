"""Writes the option tables of `docs/cli.md` from the commands themselves.

Run: .venv/bin/python docs/make_cli.py

Replaces what stands between `<!-- options: COMMAND -->` and `<!-- end -->`; the rest of the page is written by hand.
`tests/test_docs.py` fails where the page and this script's output differ.
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from fer_cli.cli.app import app

PAGE = Path(__file__).parent / "cli.md"
_TYPES = {Path: "path", str: "text", int: "whole number", float: "number", list[str]: "texts", list[Path]: "paths"}
_BLOCK = re.compile(r"(<!-- options: (?P<command>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite the tables in place."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str) -> str:
    """The page with fresh tables. Raises KeyError for a command that does not exist."""
    described = commands()
    return _BLOCK.sub(lambda match: match[1] + table(match["command"], described[match["command"]]) + match[3], page)


def commands() -> dict[str, Any]:
    """Every command by name; `fer` is the program itself."""
    root: Any = typer.main.get_command(app)
    return {"fer": root, **root.commands}


def table(name: str, command: Any) -> str:
    """Help, synopsis, example and option table of one command, as Markdown."""
    is_program = name == "fer"
    arguments = [shown_names(parameter)[0] for parameter in command.params if not is_option(parameter)]
    synopsis = "fer [OPTIONS] COMMAND" if is_program else " ".join(["fer", name, *arguments, "[OPTIONS]"])
    lines = ["", command.help, "", "```sh", synopsis]
    if not is_program:
        lines += [command.epilog.removeprefix("Example: ")]
    lines += ["```", "", "| option | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *map(row, command.params), "", ""])


def is_option(parameter: Any) -> bool:
    """Whether a parameter is an option rather than an argument."""
    return str(parameter.opts[0]).startswith("-")


def shown_names(parameter: Any) -> list[str]:
    """Names that a user types for an option, or the placeholder of an argument."""
    if is_option(parameter):
        return [*parameter.opts, *parameter.secondary_opts]
    shown = parameter.metavar or parameter.name.upper()
    if not parameter.required:
        shown = f"[{shown}]"
    return [f"{shown}..." if parameter.nargs < 0 else shown]


def row(parameter: Any) -> str:
    """One line of an option table."""
    names = ", ".join(f"`{name}`" for name in shown_names(parameter))
    annotation = parameter.type_descriptor.annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    kind = "flag" if is_option(parameter) and parameter.is_flag else _TYPES.get(annotation, "")
    kind = kind or ", ".join(f"`{choice}`" for choice in choices)
    if parameter.min is not None:
        kind += f" ≥ {parameter.min}"
    if parameter.required:
        default = "required"
    elif parameter.default is None or parameter.default is False:
        default = "–"
    else:
        default = "on" if parameter.default is True else f"`{parameter.default}`"
    words = parameter.help + (f" Environment: `{parameter.envvar}`." if parameter.envvar else "")
    return f"| {names} | {kind} | {default} | {words} |".replace("\n", " ")


if __name__ == "__main__":
    main()
