"""`fer evaluate`'s results as one self-contained page: accuracy, failure detection, repair, planted faults, claims.

Nothing is computed here; every figure is in the JSON beside the page. Without script the tables say what the charts
show.
"""

from pathlib import Path

from fer_cli.evaluation.results import Evaluation
from fer_cli.pictures.evaluation_charts import auroc_chart, risk_chart, roc_chart
from fer_cli.pictures.viewer import embedded_json, packed_library
from fer_cli.reports.page import POLICY, environment
from fer_cli.reports.report import ERRORS, FIDELITY, claims_by_head, fidelity_scores, said_of
from fer_cli.storage.disk import write_whole

_MOST_ROWS = 40


def write_evaluation_page(evaluation: Evaluation, page: Path) -> Path:
    """Write the page of an evaluation, as `evaluate` gives it. Raises ResourceError where it cannot be written."""
    detection = {name: row for name, row in evaluation["detection"].items() if row["auroc"] is not None}
    ranked = sorted(detection, key=lambda name: -(detection[name]["auroc"] or 0.0))
    charts = {}
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
        policy=POLICY,
        facts=embedded_json({"charts": charts}),
        library=packed_library() if charts else "",
    )
    write_whole(page, text)
    return page


def _title(evaluation: Evaluation) -> str:
    runs = len(evaluation["runs"])
    several = f" of {runs} runs" if runs > 1 else ""
    return f"{evaluation['split']}: {evaluation['n_errors']} of {evaluation['n']} samples{several} misclassified"
