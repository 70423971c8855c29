from typing import get_args

import pytest

from fer_cli.cli.options import CauseName
from fer_cli.diagnosis.cause import CAUSES
from fer_cli.diagnosis.explain import explain, suspicion_of
from fer_cli.errors import UsageError
from fer_cli.reports.selection import Selection, misclassified, select
from fer_cli.run import Run


def chosen(run: Run, selection: Selection) -> list[str]:
    return select(run, selection, progress=lambda *_: None)


def test_misclassified_are_those_of_the_split_that_the_network_gets_wrong(run: Run) -> None:
    wrong = []
    for index in run.voxels.indices("test").tolist():
        predicted = int(run.network.backbone(run.voxels.tensor([index])).argmax())
        if predicted != run.voxels.labels[index]:
            wrong.append(run.voxels.names[index])
    assert misclassified(run, "test") == chosen(run, Selection()) == wrong
    assert 0 < len(wrong) < 18
    with pytest.raises(UsageError, match="no labelled sample in the split 'other'"):
        misclassified(run, "other")


def test_pairs_choose_by_true_and_predicted_class(run: Run) -> None:
    by_pair: dict[str, list[str]] = {}
    for name in misclassified(run, "test"):
        diagnosis = explain(run, run.sample(name))
        by_pair.setdefault(f"{diagnosis.label},{diagnosis.predicted}", []).append(name)
    assert len(by_pair) > 1
    for pair, names in by_pair.items():
        assert chosen(run, Selection(pairs=(pair,))) == names
    both = tuple(by_pair)[:2]
    assert sorted(chosen(run, Selection(pairs=both))) == sorted(by_pair[both[0]] + by_pair[both[1]])
    swapped = ",".join(reversed(both[0].split(",")))
    assert chosen(run, Selection(pairs=(swapped,))) == by_pair.get(swapped, [])


def test_a_limit_takes_the_most_suspicious_first(run: Run) -> None:
    scores = {name: suspicion_of(run, run.sample(name)).score for name in misclassified(run, "test")}
    assert {name: explain(run, run.sample(name)).suspicion.score for name in scores} == scores
    ranked = sorted(scores, key=lambda name: -scores[name])
    assert chosen(run, Selection(limit=2)) == ranked[:2]
    assert chosen(run, Selection(limit=100)) == list(scores)


def test_a_cause_chooses_by_what_the_diagnosis_finds(run: Run) -> None:
    causes = {name: explain(run, run.sample(name)).cause.name for name in misclassified(run, "test")}
    for cause in CAUSES:
        assert chosen(run, Selection(cause=cause)) == [name for name, found in causes.items() if found == cause]
    cause = next(iter(causes.values()))
    [first] = chosen(run, Selection(cause=cause, limit=1))
    assert causes[first] == cause


def test_what_is_unknown_is_refused_with_what_is_known(run: Run) -> None:
    with pytest.raises(UsageError, match=r"--pair takes TRUE,PREDICTED, .* got 'beam'"):
        Selection(pairs=("beam",))
    with pytest.raises(UsageError, match=r"there is no class 'bean'; near: beam"):
        chosen(run, Selection(pairs=("pole,bean",)))
    assert get_args(CauseName) == tuple(CAUSES)


def test_selection_is_said_in_words() -> None:
    assert Selection("val").words == "misclassified samples of the split val"
    assert Selection(pairs=("a,b", "c,d"), cause="gap", limit=3).words == (
        "misclassified samples of the split test, a taken for b or c taken for d, "
        "hardly any training sample is like it, the most suspicious"
    )
