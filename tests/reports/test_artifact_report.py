import re

from rich.console import Console

from fer_cli.reports import artifact_report


def printed(renderable, width=80):
    console = Console(width=width, force_terminal=False, file=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def record(phase, epoch, **changes):
    terms = {"class_loss": 2.0} if phase == "feedforward" else {"voxel_loss": 0.171, "feature_loss": 0.159}
    return {
        "phase": phase,
        "epoch": epoch,
        "training_loss": 2.0 - epoch / 10,
        **dict.fromkeys(("class_loss", "voxel_loss", "feature_loss")),
        **terms,
        "validation_loss": 0.5,
        "validation_score": epoch / 10,
        "seconds": 117.24,
        **changes,
    }


def test_training_history_fits_a_terminal_and_its_curves_rise_and_fall_as_the_values():
    history = [*(record("feedforward", epoch) for epoch in range(1, 9)), record("feedback", 1)]
    text = printed(artifact_report.training_history(history))
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text
    assert re.search(r"^loss +█▇▆▅▄▃▂▁ 1\.900 → 1\.200 *$", text, re.MULTILINE)
    assert re.search(r"^validation loss +▁{8} 0\.500 → 0\.500 *$", text, re.MULTILINE)
    assert re.search(r"^score +▁ 0\.100 → 0\.100 *$", text, re.MULTILINE)
    # The terms of a loss only where it has several.
    assert re.search(r"^epoch +loss +validation loss +score +seconds *$", text, re.MULTILINE)
    assert re.search(r"^epoch +loss +voxel +feature +validation loss +score +seconds *$", text, re.MULTILINE)
    assert re.search(r"^ +1 +1\.900 +0\.1710 +0\.1590 +0\.5000 +0\.1000 +117\.2 *$", text, re.MULTILINE)
    many = [record("feedforward", epoch, training_loss=float(epoch)) for epoch in range(1000)]
    assert max(map(len, printed(artifact_report.training_history(many)).split("\n"))) <= 80


def test_info_table_indents_nested_parts_and_shortens_lists():
    text = printed(
        artifact_report.info_table(
            {
                "format": "fer-codebook",
                "version": 1,
                "parents": {"model": "9bc2"},
                "config": {"k": list(range(40)), "seed": 0, "memory": None, "rate": 0.002},
                "content": {"share": 0.123456789, "classes": ["bed", "[red]chair"], "skipped": []},
            }
        )
    )
    assert re.search(r"^format +fer-codebook", text, re.MULTILINE)
    assert re.search(r"^  model +9bc2", text, re.MULTILINE)
    assert "… (40)" in text
    assert re.search(r"^  share +0\.1235", text, re.MULTILINE)
    assert re.search(r"^  rate +0\.002", text, re.MULTILINE)
    assert "bed, [red]chair" in text
    assert re.search(r"^  memory +–", text, re.MULTILINE)
    assert re.search(r"^  skipped +–", text, re.MULTILINE)


def test_info_table_shows_records_as_rows_with_as_many_decimals_as_they_need():
    layers = [
        {"k": 60, "layer": "[red]conv1", "used": 49.3298, "explained": 0.83339},
        {"k": 50, "layer": "conv2", "used": 50.0, "explained": None},
    ]
    text = printed(artifact_report.info_table({"id": "3fa1", "content": {"layers": layers}}))
    lines = [line.split() for line in text.split("\n") if "─" not in line]
    start = lines.index(["layers"])
    assert lines[start + 1 : start + 4] == [
        ["layer", "k", "used", "explained"],
        ["[red]conv1", "60", "49.33", "0.8334"],
        ["conv2", "50", "50.00", "–"],
    ]


def test_info_table_shows_records_with_names_as_rows():
    text = printed(
        artifact_report.info_table({"classes": {"bed": {"train": 515, "test": 100}, "sofa": {"train": 680}}})
    )
    lines = [line.split() for line in text.split("\n") if "─" not in line]
    assert lines[1:4] == [["train", "test"], ["bed", "515", "100"], ["sofa", "680", "–"]]
    apart = printed(artifact_report.info_table({"config": {"network": {"k": 1}, "training": {"seed": 0}}}))
    assert re.search(r"^    seed +0", apart, re.MULTILINE)
