import re

import pytest

from fer_cli.calibration.typicality import Atypicality
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.categories import CATEGORIES, Category, categorise

NOBODY = Blame(None, (), ())
TYPICAL = Atypicality(0.5, "conv2", 0.4)
SURE = {"bed": 0.05, "sofa": 0.94, "desk": 0.01}
CLOSE = {"bed": 0.3, "sofa": 0.6, "desk": 0.1}


def category(
    probabilities: dict[str, float] = SURE,
    label: str | None = "sofa",
    *,
    atypicality: Atypicality = TYPICAL,
    suspicion: float = 0.5,
    blame: Blame = NOBODY,
) -> Category:
    return categorise(probabilities, label, atypicality=atypicality, suspicion=suspicion, blame=blame)


@pytest.mark.parametrize(
    ("found", "name", "criterion"),
    [
        (category(), "consistent and correct", r"^sofa is right, and suspicion has p = 0\.500 > 0\.05$"),
        (category(suspicion=0.05), "correct but suspicious", r"p = 0\.050 ≤ 0\.05$"),
        (category(label=None), "consistent", r"^suspicion has p = 0\.500 > 0\.05$"),
        (category(label=None, suspicion=0.01), "suspicious", r"^suspicion has p = 0\.010 ≤ 0\.05$"),
        (
            category(atypicality=Atypicality(3.21, "conv5", 0.0125)),
            "atypical input",
            r"^it lies 3\.2 standard deviations farther .* p = 0\.013 ≤ 0\.05$",
        ),
        (
            category(CLOSE, "bed", blame=Blame("conv1", (), (), 1.0)),
            "ambiguous between two classes",
            r"^the calibrated odds of sofa to bed are 2\.0 : 1, below 9 : 1$",
        ),
        (category(CLOSE), "ambiguous between two classes", "sofa to bed"),
        (category(CLOSE, None), "ambiguous between two classes", "sofa to bed"),
        (
            category(label="bed", blame=Blame("conv4", (), (), 2.5)),
            "features look like another class",
            r"^calibrated evidence is for sofa rather than bed from conv4 on, 2\.5 nats ahead of the next best layer$",
        ),
        (
            category(label="bed", blame=Blame("output", (), (), 0.25)),
            "features right, final layer wrong",
            r"^at no layer does calibrated evidence turn from bed to sofa, 0\.2 nats ahead",
        ),
        (
            category(label="bed", blame=Blame("conv4", (), (), 0.04)),
            "features look like another class",
            r"for sofa rather than bed from conv4 on, hardly ahead of the next best layer$",
        ),
    ],
)
def test_each_rule_has_its_category_and_tells_its_numbers(found: Category, name: str, criterion: str) -> None:
    assert found.name == name
    assert CATEGORIES[found.id] == name
    assert re.search(criterion, found.criterion), found.criterion


def test_rules_are_tried_in_order() -> None:
    far = Atypicality(9.0, "fc7", 0.003)
    blamed = Blame("conv4", (), (), 2.5)
    assert category(CLOSE, "desk", atypicality=far, suspicion=0.01, blame=blamed).name == "atypical input"
    # Neither of the two close classes is the true one: what is ambiguous does not explain the mistake.
    assert category(CLOSE, "desk", suspicion=0.01, blame=blamed).name == "features look like another class"
    assert category(CLOSE, suspicion=0.01).name == "ambiguous between two classes"


def test_certainty_itself_is_no_error() -> None:
    assert category({"bed": 0.0, "sofa": 1.0, "desk": 0.0}).name == "consistent and correct"
