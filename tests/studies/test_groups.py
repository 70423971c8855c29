import numpy as np
import pytest

from fer_cli.diagnosis.cause import CAUSES, Cause
from fer_cli.run import Run
from fer_cli.studies.causes import explain_mistakes
from fer_cli.studies.groups import alike, group_mistakes, remedy_of, title


def test_samples_that_fall_apart_are_divided_and_others_are_not():
    generator = np.random.default_rng(0)
    one = generator.normal(0, 1, (8, 200))
    two = np.concatenate([one, generator.normal(5, 1, (4, 200))])
    assert [len(part) for part in alike(one)] == [8]
    assert sorted(part.tolist() for part in alike(two)) == [list(range(8)), list(range(8, 12))]
    assert [part.tolist() for part in alike(two[6:10])] == [[0, 1, 2, 3]]  # too few to divide


def test_title_says_what_a_group_is():
    assert title(3, "airplane", "table", "gap", None) == f"3 × an airplane taken for a table: {CAUSES['gap']}"
    assert title(1, "bed", "xbox", "layer", "conv2") == "1 × a bed taken for an xbox: conv2 computes unusually"


def test_remedy_of_a_group_is_told_of_all_its_samples():
    gap = Cause("gap", "fair", "Add training samples of class bed like this one.")
    assert remedy_of([gap]) == gap.remedy
    assert remedy_of([gap, gap]) == "Add training samples of class bed like these."
    turned = [Cause("pose", "fair", f"Turn it 90° about {axis}, or train with such poses.") for axis in "xy"]
    assert remedy_of(turned) == "Turn each as its own report says, or train with such poses."
    assert remedy_of(turned[:1] * 2) == turned[0].remedy


@pytest.fixture
def mistakes(run: Run):
    names = run.mistakes()
    return explain_mistakes(run, np.array([run.voxels.index_of(name) for name in names]))


def test_every_mistake_is_in_one_group_of_its_kind(run: Run, mistakes) -> None:
    indices = run.voxels.indices("test")
    right = np.setdiff1d(indices, list(mistakes))
    groups = group_mistakes(run, mistakes, right)
    members = [name for group in groups for name in group["samples"]]
    assert sorted(members) == sorted(run.voxels.names[index] for index in mistakes)
    assert sum(group["share"] for group in groups) == pytest.approx(1)
    assert [group["size"] for group in groups] == sorted((group["size"] for group in groups), reverse=True)
    assert len({group["title"] for group in groups}) == len(groups)
    found = {run.voxels.names[index]: diagnosis for index, diagnosis in mistakes.items()}
    for group in groups:
        assert group["size"] == len(group["samples"])
        for name in group["samples"]:
            said = found[name]
            assert (said.label, said.predicted, said.cause.name) == (group["true"], group["predicted"], group["cause"])
        for name in group["counterexamples"]:
            index = run.voxels.index_of(name)
            assert index in right
            assert run.voxels.classes[run.voxels.labels[index]] == group["true"]
