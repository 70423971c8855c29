import pytest

from fer_cli.studies.trust import FAILS, HOLDS, NOT_MEASURED, UNDECIDED, judge, share_interval, trust_card


@pytest.mark.parametrize(
    ("ends", "above", "word"),
    [
        ([0.1, 0.3], True, HOLDS),
        ([-0.3, -0.1], True, FAILS),
        ([-0.1, 0.3], True, UNDECIDED),
        ([0.1, 0.3], False, FAILS),
        ([-0.3, -0.1], False, HOLDS),
        ([-0.1, 0.3], False, UNDECIDED),
        (None, True, UNDECIDED),
    ],
)
def test_a_question_holds_where_the_whole_interval_is_on_the_good_side(ends, above, word):
    assert judge(0.0, ends, 0.0, above=above) == word


def difference(ours, theirs, ends):
    return {"ours": ours, "theirs": theirs, "why": "", "auroc": {"difference": sum(ends) / 2, "ci": ends}}


def evaluation(**changes):
    alarms = {
        score: {"rate": rate, "n": 800, "expected": [0.04, 0.06], "by_class": {}, "misclassified": [0.5, 80]}
        for score, rate in (("departure", 0.05), ("suspicion", 0.3), ("atypicality", 0.075))
    }
    return {
        "sanity": None,
        "comparisons": [
            difference("suspicion", "max_softmax", [0.01, 0.05]),
            difference("input_vs_code", "random_decoder", [-0.02, 0.05]),
        ],
        "planted": None,
        "cause_scores": None,
        "repair": None,
        "false_alarms": alarms,
    } | changes


def answers(**changes):
    return {row["question"]: row for row in trust_card(evaluation(**changes), local_layer="conv3")}


def said(rows, words):
    [row] = [row for question, row in rows.items() if words in question]
    return row


def test_what_was_not_measured_names_the_option_that_measures_it():
    rows = answers()
    for words, option in (
        ("untrained encoder", "--sanity"),
        ("features", "--planted"),
        ("weights", "--planted"),
        ("cause of planted", "--causes"),
        ("Grad-CAM", "--repair"),
        ("occlusion", "--repair"),
    ):
        row = said(rows, words)
        assert row["verdict"] == NOT_MEASURED
        assert option in row["follows"]


def test_alarm_and_p_values_are_judged_from_the_evaluation():
    rows = answers()
    assert said(rows, "maximum softmax")["verdict"] == HOLDS
    assert said(rows, "maximum softmax")["follows"] == ""
    assert said(rows, "trained decoder")["verdict"] == UNDECIDED
    assert said(rows, "trained decoder")["follows"].startswith("Perhaps: ")
    assert said(rows, "unusual by departure")["verdict"] == HOLDS
    assert said(rows, "unusual by suspicion")["verdict"] == FAILS
    assert said(rows, "unusual by suspicion")["follows"]
    assert said(rows, "unusual by atypicality")["verdict"] == UNDECIDED
    worse = answers(comparisons=[difference("suspicion", "max_softmax", [-0.05, -0.01])])
    assert said(worse, "maximum softmax")["verdict"] == FAILS
    assert "enough" in said(worse, "maximum softmax")["follows"]


def test_planted_layers_causes_repairs_and_sanity_are_judged():
    planted = {"answer": {"feature": {"all": [0.9, 100]}, "weight": {"all": [0.3, 100]}}}
    causes = {
        "planted": {"pose": {"n": 50, "right": 0.8, "ci": [0.7, 0.9]}, "none": {"n": 9, "right": 0.0, "ci": [0, 1]}}
    }
    ranking = {"ours_less": 0.2, "ours_less_ci": [0.1, 0.3]}
    repair = {
        "layers": {"conv3": {"donors": {"label": {"grad_cam": ranking, "occlusion": {"ours_less_ci": [None, None]}}}}}
    }
    checks = {"random_encoder": {"conv3": {"blame_correlation": 0.8}}}
    sanity = [{"checks": checks, "blame_interval": [0.7, 0.9]}]
    rows = answers(planted=planted, cause_scores=causes, repair=repair, sanity=sanity)
    assert said(rows, "features")["verdict"] == HOLDS
    assert said(rows, "features")["interval"] == share_interval(90, 100)
    assert said(rows, "weight")["verdict"] == FAILS
    assert said(rows, "cause of planted")["value"] == pytest.approx(0.8)
    assert said(rows, "cause of planted")["verdict"] == HOLDS
    assert said(rows, "Grad-CAM")["verdict"] == HOLDS
    assert not [question for question in rows if "occlusion" in question]
    assert said(rows, "untrained encoder")["verdict"] == FAILS


def test_a_cause_and_a_class_that_the_whole_hides_are_asked_for_by_themselves():
    planted = {
        "pose": {"n": 40, "right": 0.6, "ci": [0.45, 0.74]},
        "layer": {"n": 90, "right": 0.95, "ci": [0.9, 0.99]},
        "none": {"n": 9, "right": 0.0, "ci": [0, 1]},
    }
    alarms = evaluation()["false_alarms"]
    alarms["departure"]["by_class"] = {"bed": [0.4, 60], "sofa": [0.16, 40], "desk": [0.1, 60], "vase": [0.5, 20]}
    rows = answers(cause_scores={"planted": planted}, false_alarms=alarms)
    assert said(rows, "cause of planted")["verdict"] == HOLDS
    assert said(rows, "plantings where the pose is unusual")["verdict"] == UNDECIDED
    assert said(rows, "samples of bed called unusual by departure")["verdict"] == FAILS
    assert said(rows, "samples of sofa called unusual")["verdict"] == UNDECIDED
    assert not [question for question in rows if any(name in question for name in ("layer computes", "desk", "vase"))]
