from typing import Any

from rich.console import Console, RenderableType

from fer_cli.reports.inventory import counts_table, duplicates_line, group_reasons, inventory_table, skipped_lines


def printed(renderable: RenderableType) -> str:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def lines(renderable: RenderableType) -> list[list[str]]:
    return [words for line in printed(renderable).splitlines() if (words := line.split()) and "─" not in line]


def test_classes_and_splits_are_counted_and_summed() -> None:
    table = counts_table({"sofa": {"train": 30, "test": 5}, "bed": {"train": 4}})
    assert lines(table) == [
        ["class", "train", "test"],
        ["bed", "4", "0"],
        ["sofa", "30", "5"],
        ["all", "34", "5"],
    ]
    assert lines(counts_table({"unlabelled": {"unlabelled": 1}})) == [["class", "unlabelled"], ["unlabelled", "1"]]


def skips(*reasons: str) -> list[dict[str, str]]:
    return [{"source": f"a/{i}.off", "reason": reason} for i, reason in enumerate(reasons)]


def test_few_skipped_shapes_are_listed_one_by_one() -> None:
    skipped = [{"source": "a\x1b[2J.off", "reason": "truncated"}, *skips("empty")]
    assert list(skipped_lines(skipped)) == ["skipped a�[2J.off: truncated", "skipped a/0.off: empty"]


def test_many_are_grouped_by_reason_whatever_its_figures_and_quotations() -> None:
    reasons = [f"face {i} names vertex {i * 7}, there are 8." for i in range(20)]
    reasons += [f"begins with '{letter}'." for letter in "abc"] + ["is empty."]
    groups = group_reasons(skips(*reasons))
    assert [(group["shapes"], group["example"]) for group in groups] == [
        (20, "a/0.off"),
        (3, "a/20.off"),
        (1, "a/23.off"),
    ]
    assert list(skipped_lines(skips(*reasons))) == [
        "skipped a/0.off and 19 more: face 0 names vertex 0, there are 8.",
        "skipped a/20.off and 2 more: begins with 'a'.",
        "skipped a/23.off: is empty.",
    ]


def test_rare_reasons_are_summed_up() -> None:
    reasons = [letter * 3 for letter in "abcdefghijklm"]
    assert list(skipped_lines(skips(*reasons)))[-1] == "skipped 3 more for 3 other reasons"


NONE = dict.fromkeys(("within_train", "within_test", "train_and_test", "of_unlabelled", "across_classes"), 0)


def test_duplicates_are_told_across_splits_first() -> None:
    assert duplicates_line(NONE, 0) is None
    found = NONE | {"train_and_test": 3, "within_train": 2, "across_classes": 1}
    said = "identical grids: 3 of test also in train, 2 repeated within train; 1 shared by more than one class"
    assert duplicates_line(found, 0) == said
    assert duplicates_line(found, 0, hint=True) == f"{said}; --drop-duplicates leaves them out of train"
    assert duplicates_line(found, 5, hint=True) == f"{said}; 5 training samples dropped"
    only_test = NONE | {"within_test": 1}
    assert duplicates_line(only_test, 0, hint=True) == "identical grids: 1 repeated within test"


def info(n_skipped: int, enclosed: float | None) -> dict[str, Any]:
    record = {
        "class": "sofa",
        "split": "train",
        "samples": 4,
        "median_faces": 2676.0,
        "open_share": 0.25,
        "warned_share": 0.5,
        "enclosed_share": enclosed,
        "occupied_share": 0.0585,
    }
    return {
        "format": "fer-voxels",
        "content": {
            "samples": 4,
            "classes": {"sofa": {"train": 4}},
            "records": [record],
            "duplicates": NONE,
            "dropped": [],
            "remarks": [],
            "skipped": skips(*["is empty."] * n_skipped),
        },
    }


def test_info_of_voxels_is_a_table_by_class_and_split() -> None:
    shown = lines(inventory_table(info(2, 0.75)))
    assert ["class", "split", "samples", "faces", "open", "warned", "enclosed", "occupied"] in shown
    assert ["sofa", "train", "4", "2676", "0.2500", "0.5000", "0.7500", "0.0585"] in shown
    assert ["a/1.off", "is", "empty."] in shown
    assert not any("enclosed" in words for words in lines(inventory_table(info(2, None))))


def test_info_groups_many_skipped_shapes() -> None:
    shown = lines(inventory_table(info(11, None)))
    assert ["shapes", "11"] in shown
    assert ["is", "empty.", "a/0.off", "11"] in shown
