"""Parse structured option values; make file names safe."""

import re
from typing import Literal, get_args

from fer_cli.errors import UsageError


def file_name(sample: str) -> str:
    """A sample's name as one safe component of a path."""
    return re.sub(r"[^\w.+-]+", "_", sample).strip(".") or "sample"


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas between them. Raises UsageError that names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers with commas between them, got {text!r}.") from None


def three_numbers(text: str, option: str) -> tuple[float, float, float]:
    """Three numbers with commas between them, or one for all. Raises UsageError that names the option."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) == 1:
        found *= 3
    if len(found) != 3:
        raise UsageError(f"{option} takes X,Y,Z or one number for all three, got {text!r}.")
    return (found[0], found[1], found[2])


Scaling = Literal["none", "zscore", "minmax", "window"]


def scaling(text: str) -> tuple[Scaling, tuple[float, float] | None]:
    """The name and the window of `--normalise`. Raises UsageError for anything else."""
    name, _, ends = text.partition(":")
    try:
        window = [float(end) for end in ends.split(",")] if ends else []
    except ValueError:
        window = [0.0]
    for known in get_args(Scaling):
        if name == known and len(window) == (2 if known == "window" else 0):
            return known, (window[0], window[1]) if window else None
    raise UsageError(f"--normalise takes none, zscore, minmax or window:LO,HI, got {text!r}.")


def location(text: str) -> tuple[int, int, int]:
    """The x,y,z of `--location`. Raises UsageError for anything else."""
    places = numbers(text, "--location")
    if len(places) != 3:
        raise UsageError(f"--location takes x,y,z, got {text!r}.")
    return (places[0], places[1], places[2])


def probe_choices(
    by: str, code: int | None, location: str | None, slices: str | None, *, all_locations: bool
) -> tuple[int, ...] | None:
    """The slices of `--slices`. Raises UsageError where the options of `fer probe` do not fit one another."""
    if by not in ("feature", "centroid"):
        raise UsageError(f"--by takes feature or centroid, got {by!r}.")
    if code is not None and by != "centroid":
        raise UsageError("--code names a centroid: give --by centroid with it.")
    if slices is not None and not all_locations:
        raise UsageError("--slices is for --all-locations; for one location give --location.")
    if all_locations and location is not None:
        raise UsageError("--all-locations and --location exclude one another. Give one of the two.")
    if all_locations and code is not None:
        raise UsageError("--code is for one location: each has codes of its own. Leave out --all-locations.")
    return None if slices is None else numbers(slices, "--slices")


def size_in_bytes(text: str) -> int:
    """Parse `--memory` into bytes, with decimal units. Raises UsageError for anything else."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    unit = match and (match[2] if match[2].endswith("B") or not match[2] else f"{match[2]}B")
    if not match or unit not in units or float(match[1]) <= 0:
        raise UsageError(f"--memory takes a size such as 500MB or 2GB, got {text!r}.")
    return int(float(match[1]) * units[unit])


def scheduler_address(text: str | None) -> str | None:
    """The address of a scheduler, if one is given. Raises UsageError if it is none."""
    if text is not None and not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", text):
        raise UsageError(f"--scheduler takes an address such as tcp://127.0.0.1:8786, got {text!r}.")
    return text
