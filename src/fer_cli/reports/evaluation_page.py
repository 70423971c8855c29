"""`fer evaluate`'s results as one self-contained page: accuracy, failure detection, repair, planted faults, claims.

Nothing is computed here; every figure is in the JSON beside the page. Without script the tables say what the charts
show.
"""

from pathlib import Path
from urllib.parse import quote

from fer_cli.evaluation.results import Evaluation
from fer_cli.pictures.evaluation_charts import auroc_chart, risk_chart, roc_chart
from fer_cli.pictures.viewer import embedded_json, packed_library
from fer_cli.reports.group_pictures import PICTURED, PICTURED_CORRECT
from fer_cli.reports.page import SHARED_POLICY, environment
from fer_cli.reports.report import ERRORS, FIDELITY, claims_by_head, detectors, fidelity_scores, said_of
from fer_cli.reports.site import Joined, evaluation_page, joined, read_evaluation
from fer_cli.storage.disk import write_whole
from fer_cli.storage.run_paths import next_command

_MOST_ROWS = 40


def write_evaluation_page(evaluation: Evaluation, page: Path, run: Path | None = None) -> Path:
    """Write the page of an evaluation, as `evaluate` gives it, and an `index.html` beside it that leads there.

    It shows the pictures that lie beside it and links to the reports and the gallery in the folder of its `run`, as far
    as they are there. Raises ResourceError where it cannot be written.
    """
    detection = {name: row for name, row in detectors(evaluation["detection"]).items() if row["auroc"] is not None}
    ranked = sorted(detection, key=lambda name: -(detection[name]["auroc"] or 0.0))
    charts = {}
    split = evaluation["split"]
    if detection:
        drawn = {name: detection[name] for name in ranked[:_MOST_ROWS]}
        charts = {
            "chart-auroc": auroc_chart(drawn),
            "chart-roc": roc_chart(evaluation["curves"]),
            "chart-risk": risk_chart(evaluation["curves"]),
        }
    template = environment().get_template("evaluation.html.j2")
    text = template.render(
        evaluation=evaluation,
        title=_title(evaluation),
        classes=list(evaluation["per_class_accuracy"]),
        ranked=ranked,
        claims=claims_by_head(evaluation["claims"]),
        said_of=said_of,
        charted=min(len(ranked), _MOST_ROWS),
        fidelity={key: FIDELITY[key] for key in fidelity_scores(evaluation["reconstruction"])},
        error_heads={key: head for key, (head, _, _) in ERRORS.items()},
        policy=SHARED_POLICY,
        joined=Joined() if run is None else joined(evaluation, page, run),
        command=run and next_command("explain", "--errors", *(() if split == "test" else ("--split", split)), run=run),
        pictured=PICTURED,
        pictured_correct=PICTURED_CORRECT,
        facts=embedded_json({"charts": charts}),
        library=packed_library() if charts else "",
    )
    write_whole(page, text)
    write_whole(page.with_name("index.html"), environment().get_template("leads.html.j2").render(page=quote(page.name)))
    return page


def join_evaluation(run: Path, split: str, model: str) -> Path | None:
    """Write the page of a run's evaluation again, with links to the reports there are now; None if there is no page.

    Raises ResourceError where it cannot be written.
    """
    page = evaluation_page(run, split)
    evaluation = None if page is None else read_evaluation(page, model)
    if page is None or evaluation is None:
        return None
    return write_evaluation_page(evaluation, page, run)


def _title(evaluation: Evaluation) -> str:
    runs = len(evaluation["runs"])
    several = f" of {runs} runs" if runs > 1 else ""
    return f"{evaluation['split']}: {evaluation['n_errors']} of {evaluation['n']} samples{several} misclassified"
