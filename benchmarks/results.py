"""Evaluate finished runs of one data set together, and write their section of docs/results.md.

    .venv/bin/python benchmarks/results.py --title "ModelNet10, preset compact" RUN RUN RUN
    .venv/bin/python benchmarks/results.py --title PSB12 RUN --evaluation RUN/evaluate/test.json

Every figure comes from `fer evaluate RUN… --json`, or from the file that it wrote.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from machine import run_command

FER = Path(sys.executable).with_name("fer")
RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
HEAD = """# Results

The test split was read by `fer evaluate` alone; nothing was fitted on it. How voxelization compares with its peers is in
[voxelize.md](voxelize.md)."""
NOTES = "## What was tried"
_MOST_SCORES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--title", required=True, help="heading of the section")
    parser.add_argument("--evaluation", type=Path, help="what fer evaluate has written of these runs")
    parser.add_argument(
        "--options", default="", help="further options of fer evaluate in one string, such as --options=--sanity"
    )
    parser.add_argument(
        "--sanity-alone", action="store_true", help="write of an evaluation with --sanity that part only"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    options = arguments.options.split()
    if arguments.evaluation:
        evaluation = json.loads(arguments.evaluation.read_text(encoding="utf-8"))
    else:
        evaluation = json.loads(run_command([FER, "evaluate", *arguments.runs, *options, "--json"]).output)
    parts = [
        f"## {arguments.title}",
        f"From `fer evaluate {' '.join(['RUN'] * len(arguments.runs))}{''.join(f' {word}' for word in options)}`.",
        *(sanity_parts(evaluation["sanity"]) if arguments.sanity_alone else evaluation_parts(evaluation)),
    ]
    replace_section(arguments.output, "\n\n".join(parts) + "\n")


def replace_section(page: Path, section: str) -> None:
    """Put a section in the place of the one of the same heading, or before the notes at the page's end."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{HEAD}\n"
    heading = section.partition("\n")[0]
    before, *parts = [part.strip() for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)]
    headings = [part.partition("\n")[0] for part in parts]
    if heading in headings:
        parts[headings.index(heading)] = section.strip()
    else:
        parts.insert(headings.index(NOTES) if NOTES in headings else len(parts), section.strip())
    page.write_text("\n\n".join([before, *parts]) + "\n", encoding="utf-8")
    print(f"written to {page}")


def evaluation_parts(evaluation: dict[str, Any]) -> list[str]:
    """What `fer evaluate` found, as Markdown."""
    parts = [
        *recognition_parts(evaluation),
        "### Table I",
        "Euclidean norms a sample, means; `ratio` is input_vs_code over input_vs_local, of the means. The paper gives "
        "19.185, 22.610, 26.467, 35.837 on misclassified samples, ratio 1.87; by their size these are norms.",
        table1(evaluation["errors_norm"], 1),
        "Summed squared errors, means:",
        table1(evaluation["table1"], 0),
        "### The paper's claims",
        "A claim is borne out where its whole 95 % interval lies within the bounds, not borne out where it lies outside, "
        "undecided otherwise. Errors are Euclidean norms. *By construction* follows from the predicted probabilities alone.",
        claims(evaluation["claims"]),
    ]
    if evaluation["undefined"]:
        return [*parts, evaluation["undefined"].capitalize()]
    return [
        *parts,
        "### Detection of misclassification",
        f"The {_MOST_SCORES} scores of the highest AUROC, and the paper's; 95 % intervals by a bootstrap over shapes. AURC and AUGRC in "
        "thousandths (lower is better); FPR95 is the share of errors still accepted when 95 % of correct samples are; "
        "*distinct* leaves out shapes whose grid is that of a training shape.",
        detection(evaluation["detection"], evaluation["without_duplicates"]["detection"]),
        "Paired differences over the same draws:",
        differences(evaluation["comparisons"]),
        "Added to maximum softmax, by a logistic stack of both that is cross-fitted on this very split:",
        added(evaluation["added_to_softmax"]),
        *(repair_parts(evaluation["repair"]) if evaluation["repair"] else ()),
        *(planted_parts(evaluation["planted"]) if evaluation["planted"] else ()),
        *(["### Sanity", *sanity_parts(evaluation["sanity"])] if evaluation["sanity"] else ()),
    ]


def recognition_parts(evaluation: dict[str, Any]) -> list[str]:
    """Accuracies, and how faithfully shapes are reconstructed from every level."""
    return [
        "### Recognition and reconstruction",
        accuracy(evaluation),
        table(
            ["class", "accuracy"],
            [[name, f"{value:.3f}"] for name, value in evaluation["per_class_accuracy"].items()],
        ),
        "Reconstruction of the shapes from each level: voxel IoU, and mean squared error a voxel.",
        table(
            ["from", "IoU, gates shut", "IoU, gates open", "error, gates shut", "error, gates open"],
            [
                [
                    layer,
                    *(f"{by_gates[gates]['iou']:.3f}" for gates in ("shut", "open")),
                    *(f"{by_gates[gates]['mse']:.4f}" for gates in ("shut", "open")),
                ]
                for layer, by_gates in evaluation["reconstruction"].items()
            ],
        ),
    ]


def sanity_parts(sanity: list[dict[str, Any]]) -> list[str]:
    """What is left of blame and scores when what was learned is randomised, run by run."""
    keys = ["feedforward_score_correlation", "feedforward_auroc", "feedback_score_correlation", "feedback_auroc"]
    parts = []
    for check in sanity:
        rows = [
            [name.replace("_", " "), layer, *(number(found[key], 2) for key in ("blame_correlation", *keys))]
            for name, layers in check["checks"].items()
            for layer, found in layers.items()
        ]
        parts += [
            f"{check['n']} samples, {check['n_errors']} misclassified; every network clustered on {check['clustered']} training samples. Rank "
            "correlation of blame over locations, and of the layer's evidence margin, with the trained network's; AUROC of "
            "that margin.",
            table(
                ["network", "layer", "blame", "feedforward margin", "its AUROC", "feedback margin", "its AUROC"], rows
            ),
            " ".join(check["findings"]),
        ]
    return parts


def repair_parts(repair: dict[str, Any]) -> list[str]:
    """Causal repair, layer by layer."""
    parts = [
        "### Causal repair",
        f"{repair['n_errors']} mistakes. Share that becomes right when the features at the m locations blamed are replaced by those of a "
        "donor, the nearest correctly classified training sample of the true class; normalised: area over m, 0 for random places, 1 "
        "for the best that a greedy search finds. `donor_path` is what `fer explain` blames by. The class that the evidence "
        f"implies, without the label, is the true one for {number(repair['implied_class_is_true'], 2)} "
        f"({interval(repair['implied_class_is_true_ci'], 2)}).",
    ]
    for layer, row in repair["layers"].items():
        rankings, labelless = row["donors"]["label"], row["donors"]["evidence"]
        heads = ["normalised", "95 % interval", "ours less this", "95 % interval", "normalised, class by evidence"]
        parts.append(f"**{layer}**, {row['locations']} locations")
        parts.append(
            table(
                ["blame by", *(f"m = {m}" for m in row["m"]), *heads],
                [
                    [
                        name,
                        *(number(rate, 2) for rate in found["rate"]),
                        number(found.get("normalised"), 2),
                        interval(found.get("normalised_ci"), 2),
                        number(found.get("ours_less"), 2),
                        interval(found.get("ours_less_ci"), 2),
                        number(labelless[name].get("normalised"), 2),
                    ]
                    for name, found in rankings.items()
                ]
                + [
                    [f"*{words} {name}*", *(number(rate, 2) for rate in found["rate"]), *[""] * len(heads)]
                    for what, words in (
                        ("wrong_class_repairs", "repaired by a wrong class's donor, by"),
                        ("correct_broken", "correct samples broken, donor:"),
                    )
                    for name, found in row["specificity"][what].items()
                ],
            )
        )
    return parts


def planted_parts(planted: dict[str, Any]) -> list[str]:
    """Layers of planted faults."""
    return [
        "### Planted faults",
        "Faults put into the features or the weights of one layer, which turn the prediction: share whose layer is the one at which "
        "the computation departs from its usual course with p ≤ 0.05 (label-free), and share whose layer is the blamed one. *Named "
        "elsewhere*: share of the faults at other layers for which this layer is named.",
        table(
            [
                "fault",
                "at",
                "n",
                "departure",
                "95 % interval",
                "within one layer",
                "named elsewhere",
                "blame",
                "95 % interval",
                "within one layer",
                "named elsewhere",
            ],
            [
                [
                    kind,
                    layer,
                    str(row["n"]),
                    *(
                        cell
                        for rule in ("departure_", "")
                        for cell in (
                            number(row[f"{rule}hit"], 2),
                            interval(row[f"{rule}hit_ci"], 2),
                            number(row[f"{rule}near"], 2),
                            number(row[f"{rule or 'hit_'}chance"], 2),
                        )
                    ),
                ]
                for kind, layers in planted["layer"].items()
                for layer, row in layers.items()
            ],
        ),
        *dose_parts(planted["weights_by_dose"]),
        *unplanted_parts(planted),
        *(part for kind, layers in planted["location"].items() for part in location_parts(kind, layers)),
    ]


def dose_parts(rows: list[dict[str, Any]]) -> list[str]:
    """How often the layer of faulty weights is found, by the dose of the noise."""
    if not rows:
        return []
    layers = list(rows[0]["by_layer"])
    return [
        "Noise on the weights of one layer, in standard deviations of these weights: share of correctly classified samples, whatever becomes of "
        "the prediction, whose computation departs at that layer with p ≤ 0.05.",
        table(
            ["dose", "n", "all layers", "95 % interval", "named elsewhere", "prediction turns", *layers],
            [
                [
                    f"{row['dose']:g}",
                    str(row["n"]),
                    number(row["rate"], 2),
                    interval(row["rate_ci"], 2),
                    number(row["chance"], 2),
                    number(row["turned"], 2),
                    *(number(row["by_layer"][layer], 2) for layer in layers),
                ]
                for row in rows
            ],
        ),
    ]


def unplanted_parts(planted: dict[str, Any]) -> list[str]:
    """Departures where nothing was planted, and how many grafts turned."""
    grafts = [
        [kind, part, str(count["tried"]), str(count["turned"])]
        for kind, counts in planted["grafts"].items()
        for part, count in counts.items()
    ]
    return [
        table(
            ["nothing planted", "n", "departure at 5 %", "95 % interval"],
            [
                [kind, str(row["n"]), number(row["significant"], 2), interval(row["significant_ci"], 2)]
                for kind, row in planted["unplanted"].items()
            ],
        ),
        *([table(["graft", "part", "tried", "turned"], grafts)] if grafts else []),
    ]


def location_parts(kind: str, layers: dict[str, Any]) -> list[str]:
    """IoU and mean rank of the true locations by ranking, a column a layer."""
    names = next(iter(layers.values()))["rankings"]
    rows = [
        ["chance", *(f"{number(row['chance_iou'], 2)}, {number(row['chance_rank'], 2)}" for row in layers.values())]
    ]
    for name in names:
        found = [row["rankings"][name] for row in layers.values()]
        rows.append([name, *(f"{number(each['iou'], 2)}, {number(each['rank'], 2)}" for each in found)])
    heads = [f"{layer} (n = {row['n']})" for layer, row in layers.items()]
    return [f"**{kind}**: IoU and mean rank (0 first) of the places at fault", table([f"{kind}, by", *heads], rows)]


def accuracy(evaluation: dict[str, Any]) -> str:
    """Of all runs, of each, and without shapes that training has too."""
    rest, runs = evaluation["without_duplicates"], evaluation["runs"]
    said = (
        f"Accuracy: **{evaluation['accuracy']:.4f}** ({evaluation['n_errors']} errors in {evaluation['n']}), mean of classes "
        f"{evaluation['class_accuracy']:.4f}."
    )
    if len(runs) > 1:
        by_run = ", ".join(f"{run['accuracy']:.4f} (seed {run['seed']})" for run in runs)
        said += f" By run: {by_run}; standard deviation {np.std([run['accuracy'] for run in runs], ddof=1):.4f}."
    if rest["n"] == evaluation["n"]:
        return f"{said} No shape's grid is that of a training shape."
    return (
        f"{said} Without the {evaluation['n'] - rest['n']} samples whose grid is that of a training shape: "
        f"{rest['accuracy']:.4f} ({rest['n_errors']} errors in {rest['n']})."
    )


def table1(rows: dict[str, dict[str, float] | None], digits: int) -> str:
    """Table I, split by correct and misclassified."""
    names = ["input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"]
    return table(
        ["samples", *names, "ratio"],
        [
            [kind, *(f"{row[name]:.{digits}f}" for name in names), f"{row['ratio']:.2f}"] if row else [kind, *["–"] * 5]
            for kind, row in rows.items()
        ],
    )


def claims(rows: list[dict[str, Any]]) -> str:
    """The claims with their verdicts."""
    return table(
        ["claim", "layer", "in Figs 4, 6", "measure", "value", "95 % interval", "bound", "verdict"],
        [
            [
                row["claim"],
                row["layer"] or "",
                {True: "yes", False: "no", None: ""}[row["in_figures"]],
                row["measure"],
                number(row["value"], 2),
                interval(row["ci"], 2),
                row["bound"],
                f"{row['verdict'] or '–'}{', by construction' if row['by_construction'] else ''}",
            ]
            for row in rows
        ],
    )


def detection(rows: dict[str, dict[str, Any]], distinct: dict[str, dict[str, Any]]) -> str:
    """The best scores, and the paper's."""
    ordered = sorted(rows, key=lambda name: -rows[name]["auroc"])
    chosen = [name for place, name in enumerate(ordered) if place < _MOST_SCORES or name.startswith("input_vs")]
    return table(
        [
            "score",
            "kind",
            "AUROC",
            "95 % interval",
            "AURC",
            "AUGRC",
            "FPR95",
            "coverage at 5 % risk",
            "AUROC, distinct",
        ],
        [
            [
                name,
                rows[name]["kind"],
                number(rows[name]["auroc"], 3),
                interval(rows[name]["auroc_ci"], 3),
                *(f"{1000 * rows[name][key]:.1f}" for key in ("aurc", "augrc")),
                number(rows[name]["fpr95"], 3),
                number(rows[name]["coverage_at_5"], 3),
                number(distinct[name]["auroc"], 3),
            ]
            for name in chosen
        ],
    )


def differences(rows: list[dict[str, Any]]) -> str:
    """Pairs of scores."""
    return table(
        ["score", "less", "AUROC", "95 % interval", "AUGRC × 1000", "95 % interval"],
        [[row["ours"], f"{row['theirs']} ({row['why']})", *_changes(row)] for row in rows],
    )


def added(rows: list[dict[str, Any]]) -> str:
    """What scores add."""
    return table(
        ["score", "AUROC", "95 % interval", "AUGRC × 1000", "95 % interval"],
        [[row["score"], *_changes(row)] for row in rows],
    )


def _changes(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['auroc']['difference']:+.4f}",
        interval(row["auroc"]["ci"], 4),
        f"{1000 * row['augrc']['difference']:+.2f}",
        interval(row["augrc"]["ci"] and [1000 * end for end in row["augrc"]["ci"]], 2),
    ]


def number(value: float | None, digits: int) -> str:
    """A dash for what is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ends: list[float] | None, digits: int) -> str:
    """Both ends."""
    return "–" if not ends or ends[0] is None else f"{ends[0]:.{digits}f} – {ends[1]:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main()
