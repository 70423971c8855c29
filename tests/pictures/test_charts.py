import json

import numpy as np

from fer_cli.pictures.charts import depth_chart, error_chart, rank_sentence

LAYERS = ("conv1", "conv2", "fc6")


def test_depth_chart_has_a_line_for_each_class_and_marks_the_layer_named() -> None:
    chart = depth_chart(LAYERS, [0.1, 0.5, 2.0], [1.0, -0.5, -1.0], names=("a", "b"), span=(-3.0, 5.0), named="conv2")
    assert [(line["name"], line["x"], line["y"]) for line in chart["data"]] == [
        ("a", list(LAYERS), [0.1, 0.5, 2]),
        ("b", list(LAYERS), [1, -0.5, -1]),
    ]
    first, second = chart["data"]
    for part, key in (("line", "dash"), ("line", "color"), ("marker", "symbol")):  # apart without colour, too
        assert first[part][key] != second[part][key]
    low, high = chart["layout"]["yaxis"]["range"]
    assert low < -3 < 5 < high
    (shape,), (note,) = chart["layout"]["shapes"], chart["layout"]["annotations"]
    assert (shape["x0"] < 1 < shape["x1"], note["x"], note["text"]) == (True, 1, "turns")
    assert json.loads(json.dumps(chart)) == chart
    chart = depth_chart(
        LAYERS, [0.1, 0.5, 2.0], [1.0, -0.5, -1.0], names=("a", "b"), span=(0.0, 2.0), named="conv2", because="unusual"
    )
    assert [note["text"] for note in chart["layout"]["annotations"]] == ["unusual"]


def test_depth_chart_of_a_correct_sample_marks_nothing() -> None:
    chart = depth_chart(LAYERS, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], names=("a", "b"), span=(0.0, 0.0), named=None)
    assert "shapes" not in chart["layout"]
    low, high = chart["layout"]["yaxis"]["range"]
    assert low < 0 < high


def test_names_cannot_be_markup_or_templates() -> None:
    chart = depth_chart(
        LAYERS, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], names=("<b>&%{x}", '<a href="x">'), span=(0.0, 1.0), named=None
    )
    assert chart["data"][0]["name"] == "&lt;b&gt;&amp;% {x}"
    assert "<a" not in json.dumps(chart)


def test_error_chart_holds_the_line_against_both_outcomes() -> None:
    chart = error_chart(7.5, np.array([1.23456, 2, 3]), np.array([9.0]))
    assert {box["name"]: box["x"] for box in chart["data"]} == {"correct": [1.235, 2, 3], "wrong": [9]}
    (line,) = chart["layout"]["shapes"]
    assert line["x0"] == line["x1"] == 7.5
    assert json.loads(json.dumps(chart)) == chart


def test_rank_is_the_share_of_smaller_errors() -> None:
    groups = {"correct": np.arange(10.0), "misclassified": np.array([3.0, 5.0])}
    said = "Larger than that of 50% of the 10 correct and of 50% of the 2 misclassified validation samples."
    assert rank_sentence(5.0, groups) == said
    assert rank_sentence(5.0, {"correct": np.zeros(0), "misclassified": np.array([1.0])}) == (
        "Larger than that of 100% of the 1 misclassified validation samples."
    )
    assert rank_sentence(5.0, {"correct": np.zeros(0)}) == ""
