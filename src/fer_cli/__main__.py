"""The `fer` command, and `python -m fer_cli`."""

from typing import NoReturn

from fer_cli.cli import endings
from fer_cli.cli.app import main


def script() -> NoReturn:
    """Run the command line in a process of its own, which ends when the command does."""
    endings.allow_leaving()
    main()


if __name__ == "__main__":
    script()
