"""What a collection of shapes became, for a terminal: classes and splits, what was skipped and why, duplicates."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fer_cli.reports.artifact_report import info_table
from fer_cli.reports.tables import open_table, printable

_SPLITS = ("train", "val", "test", "unlabelled")
_LISTED = 10
"""So many skipped shapes are listed one by one; more are grouped by reason."""
_NAMED = 3
"""So many samples are named for each kind of remark."""
_HEADS = {
    "class": "class",
    "split": "split",
    "samples": "samples",
    "median_faces": "faces",
    "open_share": "open",
    "warned_share": "warned",
    "enclosed_share": "enclosed",
    "occupied_share": "occupied",
}
"""Of a table of 80 columns: median faces, and shares of samples and of voxels."""

Skipped = Mapping[str, str]


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """Samples of each class and split, with their sums."""
    splits = [split for split in _SPLITS if any(split in of_split for of_split in counts.values())]
    table = open_table("class", *splits)
    for name in sorted(counts):
        table.add_row(Text(printable(name)), *(str(counts[name].get(split, 0)) for split in splits))
    if len(counts) > 1:
        table.add_section()
        sums = (sum(of_split.get(split, 0) for of_split in counts.values()) for split in splits)
        table.add_row("all", *map(str, sums))
    return table


def skipped_lines(skipped: Sequence[Skipped]) -> Iterator[str]:
    """One line for each skipped shape, or for each reason where there are many, the most frequent first."""
    if len(skipped) <= _LISTED:
        for item in skipped:
            yield f"skipped {printable(item['source'])}: {printable(item['reason'])}"
        return
    groups = group_reasons(skipped)
    for group in groups[:_LISTED]:
        others = f" and {group['shapes'] - 1} more" if group["shapes"] > 1 else ""
        yield f"skipped {printable(group['example'])}{others}: {printable(group['reason'])}"
    if rest := groups[_LISTED:]:
        yield f"skipped {sum(group['shapes'] for group in rest)} more for {len(rest)} other reasons"


class Reason(TypedDict):
    """A reason with how many shapes were skipped for it, and the first of them."""

    shapes: int
    reason: str
    example: str


def group_reasons(skipped: Sequence[Skipped]) -> list[Reason]:
    """Reasons that differ in nothing but figures and quotations: how many shapes, and the first of them."""
    groups: dict[str, Reason] = {}
    for item in skipped:
        key = re.sub(r"'[^']*'|\"[^\"]*\"|-?\d[\d.,e+×-]*", "…", item["reason"])
        group = groups.setdefault(key, {"shapes": 0, "reason": item["reason"], "example": item["source"]})
        group["shapes"] += 1
    return sorted(groups.values(), key=lambda group: -group["shapes"])


def duplicates_line(duplicates: Mapping[str, int], dropped: int, *, hint: bool = False) -> str | None:
    """One line on identical grids, or None if there are none; `hint` adds the option that leaves them out."""
    found = [
        f"{duplicates[key]} {words}"
        for key, words in (
            ("train_and_test", "of test also in train"),
            ("within_train", "repeated within train"),
            ("within_test", "repeated within test"),
            ("of_unlabelled", "unlabelled"),
        )
        if duplicates[key]
    ]
    if not found:
        return None
    shared = duplicates["across_classes"]
    line = f"identical grids: {', '.join(found)}" + (f"; {shared} shared by more than one class" if shared else "")
    if dropped:
        return f"{line}; {dropped} training samples dropped"
    removable = hint and (duplicates["train_and_test"] or duplicates["within_train"])
    return line + ("; --drop-duplicates leaves them out of train" if removable else "")


def enclosed_line(enclosing_nothing: Sequence[str], n_samples: int) -> str | None:
    """One line on the samples that the fill `solid` left as they were, or None if there are none."""
    if not enclosing_nothing:
        return None
    named = ", ".join(map(printable, enclosing_nothing[:_LISTED]))
    others = len(enclosing_nothing) - _LISTED
    return f"{len(enclosing_nothing)} of {n_samples} shapes enclose nothing: {named}" + (
        f" and {others} more" if others > 0 else ""
    )


def remark_lines(remarks: Sequence[Mapping[str, str]], n_samples: int) -> Iterator[str]:
    """One line for each kind of what is odd about samples, with the first of them."""
    kinds: dict[str, list[str]] = {}
    for remark in remarks:
        kinds.setdefault(remark["kind"], []).append(f"{printable(remark['sample'])} ({remark['remark']})")
    for kind, named in kinds.items():
        others = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        yield f"{kind}: {len(named)} of {n_samples} shapes: {', '.join(named[:_NAMED])}{others}"


def run_tables(told: Mapping[str, Any]) -> Iterator[RenderableType]:
    """`fer info`'s summary of a run: how many samples of each class and split, then what each stage made."""
    facts: dict[str, Any] = {"run": told["run"]}
    for name in ("voxels", "model", "codebook", "calibration"):
        made = told[name]
        if made is None:
            facts[name] = "not made yet"
            continue
        left_out = ("path", "classes", "has_feedback", "problem" if made["problem"] is None else "")
        facts[name] = {key.replace("_", " "): value for key, value in made.items() if key not in left_out}
        if name == "voxels" and "classes" in made:
            facts[name] |= {"classes": len(made["classes"].keys() - {"unlabelled"})}
        if name == "codebook" and "k" in made:
            facts[name]["k"] = [f"{layer} {k}" for layer, k in made["k"].items()]
    evaluations = [
        {key: each[key] for key in ("split", "n", "n_errors", "accuracy")}
        | ({} if each["of_this_model"] else {"remark": "of another model"})
        for each in told["evaluations"]
    ]
    facts["evaluations"] = evaluations or "not made yet"
    facts["explained samples"] = told["explained"]
    if told["voxels"] and "classes" in told["voxels"]:
        yield counts_table(told["voxels"]["classes"])
    yield info_table(facts)


def inventory_table(info: Mapping[str, Any]) -> RenderableType:
    """`fer info`'s summary of a voxels.h5: a table by class and split, another of what was skipped."""
    content = {key: value for key, value in info["content"].items() if key != "classes"}
    known = [key for key in _HEADS if any(record[key] is not None for record in content["records"])]
    content["records"] = [{_HEADS[key]: record[key] for key in known} for record in content["records"]]
    if len(content["skipped"]) > _LISTED:
        content["skipped"] = {"shapes": len(content["skipped"]), "reasons": group_reasons(content["skipped"])}
    content["remarks"] = list(remark_lines(content["remarks"], content["samples"])) or None
    if len(content["dropped"]) > _LISTED:
        content["dropped"] = len(content["dropped"])
    return info_table({**info, "content": content})
