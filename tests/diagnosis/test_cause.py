from dataclasses import replace

import pytest

from fer_cli.calibration.departure import Departure
from fer_cli.calibration.outliers import Outlyingness
from fer_cli.data.statistics import OFF_CENTRE, statistic_names
from fer_cli.diagnosis.cause import CAUSES, Around, PoseFound, Signs, find_cause
from fer_cli.diagnosis.repair import RepairTest

AROUND = Around({"desk": 0.9, "table": 0.1, "bed": 0.0}, p_far=0.5, p_predicted=0.6, overlap=0.0, nearest=("d1", "t1"))
MISTAKE = Signs(
    predicted="desk",
    label="table",
    probabilities={"desk": 0.7, "table": 0.2, "bed": 0.1},
    suspicion=0.2,
    outlyingness=Outlyingness(0.4, ()),
    departure=Departure("conv2", 1.0, 0.2, 0.5),
    around=AROUND,
    unlikely=0.02,
)
REPAIR = RepairTest("conv3", 8, 64, "table", "label", "table_1", "table", 0.9, 3.0, 0.025)
ODD = {"outlyingness": Outlyingness(0.01, ("number of pieces 40, usually 1 to 3",))}
POSE = {"pose": PoseFound("90° about x", "table", 0.9, is_usual=True, is_nearer=True)}
LAYER = {"departure": Departure("conv2", 9.0, 4.0, 0.005)}
LABEL = {
    "probabilities": {"desk": 0.98, "table": 0.01, "bed": 0.01},
    "around": replace(AROUND, votes={"desk": 1.0, "table": 0.0}),
}
GAP = {"around": replace(AROUND, p_far=0.02, p_predicted=0.03)}
OVERLAP = {"around": replace(AROUND, votes={"desk": 0.6, "table": 0.4}, overlap=0.1)}
PART = {"repair": REPAIR}


@pytest.mark.parametrize(
    ("changes", "name", "strength"),
    [
        ({}, "none", "none found"),
        (ODD, "input", "fair"),
        (POSE, "pose", "fair"),
        (LAYER, "layer", "strong"),
        (LABEL, "label", "strong"),
        (GAP, "gap", "fair"),
        ({"around": replace(AROUND, votes={"desk": 1.0, "table": 0.0}, p_far=0.02)}, "gap", "fair"),
        (OVERLAP, "overlap", "strong"),
        (PART, "part", "fair"),
        (ODD | POSE | LAYER | LABEL | PART, "pose", "fair"),
        (ODD | LAYER | LABEL | PART, "input", "fair"),
        (LAYER | LABEL | PART, "layer", "strong"),
        (OVERLAP | PART, "overlap", "strong"),
    ],
)
def test_the_first_rule_that_holds_names_the_cause(changes, name, strength):
    found = find_cause(replace(MISTAKE, **changes))
    assert (found.name, found.strength) == (name, strength)
    assert found.remedy.endswith(".")
    assert bool(found.evidence) == (name != "none")
    assert found.words == CAUSES[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"pose": PoseFound("90° about x", "table", 0.79, is_usual=True, is_nearer=True)},
        {"pose": PoseFound("90° about x", "table", 0.99, is_usual=False, is_nearer=True)},
        {"pose": PoseFound("90° about x", "table", 0.99, is_usual=True, is_nearer=False)},
        {"outlyingness": Outlyingness(0.021, ("mean 3, usually 1 to 2",))},
        {"departure": Departure("conv2", 9.0, 4.0, 0.06)},
        {"around": replace(AROUND, votes={"desk": 1.0, "table": 0.0}, p_far=0.21)},
        {"around": replace(AROUND, p_far=0.3, p_predicted=0.21)},
        {"around": replace(AROUND, p_far=0.51, p_predicted=0.02)},
        {"sure": 0.7, "pose": PoseFound("90° about x", "table", 0.69, is_usual=True, is_nearer=True)},
        {"repair": replace(REPAIR, predicted="bed")},
        {"repair": replace(REPAIR, p_value=0.1)},
    ],
)
def test_what_falls_short_of_a_threshold_is_no_cause(changes):
    assert find_cause(replace(MISTAKE, **changes)).name == "none"


def test_a_label_is_not_questioned_where_the_network_hesitates_or_classes_overlap():
    hesitating = LABEL | {"probabilities": {"desk": 0.9, "table": 0.05, "bed": 0.05}}
    assert find_cause(replace(MISTAKE, **hesitating)).name == "none"
    overlapping = LABEL | {"around": replace(LABEL["around"], overlap=0.2)}
    assert find_cause(replace(MISTAKE, **overlapping)).name == "overlap"
    assert find_cause(replace(MISTAKE, **overlapping, least=0.01)).name == "overlap"
    unlike_mistakes = find_cause(replace(MISTAKE, **overlapping, least=0.011))
    assert (unlike_mistakes.name, unlike_mistakes.strength) == ("label", "fair")
    assert "nine of ten" in unlike_mistakes.evidence[-1]


def test_a_pose_has_to_reach_what_correct_samples_do_where_that_is_less():
    turned = {"pose": PoseFound("90° about x", "table", 0.71, is_usual=True, is_nearer=True)}
    assert find_cause(replace(MISTAKE, **turned)).name == "none"
    assert find_cause(replace(MISTAKE, **turned, sure=0.7)).name == "pose"


def test_a_mistake_among_its_own_is_an_overlap_where_the_classes_overlap():
    among = replace(GAP["around"], votes={"desk": 0.6, "table": 0.4})
    assert find_cause(replace(MISTAKE, around=among)).name == "gap"
    assert find_cause(replace(MISTAKE, around=replace(among, overlap=0.1))).name == "overlap"


def test_an_input_off_the_middle_is_to_be_moved_there():
    off_centre = next(name for name in statistic_names("occupancy") if name.startswith(OFF_CENTRE))
    figures = (f"{off_centre} 0.25, usually 0 to 0.03", "number of pieces 40, usually 1 to 3")
    for first, mend in ((figures, "move it to the middle"), (figures[::-1], "mend or reject it")):
        found = find_cause(replace(MISTAKE, outlyingness=Outlyingness(0.01, first)))
        assert found.remedy == f"Look at the input, and {mend}: {first[0]}."


def test_a_correct_sample_has_a_cause_only_where_input_or_computation_is_unusual():
    correct = replace(MISTAKE, label="desk", **POSE, **OVERLAP, **PART)
    assert find_cause(correct).name == "none"
    assert find_cause(correct).remedy == "Nothing needs to be done."
    assert find_cause(replace(correct, **ODD)).name == "input"
    assert find_cause(replace(correct, **LAYER)).name == "layer"


def test_without_a_label_the_pose_and_the_overlap_are_told_of_suspicious_samples_alone():
    unknown = replace(MISTAKE, label=None, **OVERLAP)
    assert find_cause(unknown).name == "none"
    assert find_cause(replace(unknown, suspicion=0.01)).name == "overlap"
    assert "table" in find_cause(replace(unknown, suspicion=0.01)).remedy
    assert find_cause(replace(unknown, suspicion=0.01, **POSE)).name == "pose"


def test_remedies_name_what_to_look_at():
    assert "number of pieces 40, usually 1 to 3" in find_cause(replace(MISTAKE, **ODD)).remedy
    assert "90° about x" in find_cause(replace(MISTAKE, **POSE)).remedy
    assert "conv2" in find_cause(replace(MISTAKE, **LAYER)).remedy
    assert "d1" in find_cause(replace(MISTAKE, **LABEL)).remedy
    assert "t1" in find_cause(replace(MISTAKE, **GAP)).remedy


def test_long_odds_are_not_told_closely():
    [_, near] = find_cause(replace(MISTAKE, **LAYER)).evidence
    assert "54.6 to 1" in near
    [_, far] = find_cause(replace(MISTAKE, departure=Departure("conv2", 9.0, 15.0, 0.005))).evidence
    assert far.endswith("over 1000 to 1.")


def test_a_gap_by_its_own_class_alone_tells_the_neighbours():
    alone = {"around": replace(AROUND, votes={"desk": 0.9, "table": 0.1}, p_far=0.02)}
    assert "10% are of class table" in find_cause(replace(MISTAKE, **alone)).evidence[-1]
    assert len(find_cause(replace(MISTAKE, **GAP)).evidence) == 2
