import pytest

from fer_cli.diagnosis.wording import percentage, probability


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0%"),
        (1e-9, "less than 1%"),
        (0.00499, "less than 1%"),
        (0.0051, "1%"),
        (0.12, "12%"),
        (0.994, "99%"),
        (0.995, "more than 99%"),
        (0.9999, "more than 99%"),
        (1.0, "100%"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(share, said):
    assert percentage(share) == said


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="no share"):
        percentage(share)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0.000"),
        (1e-9, "less than 0.001"),
        (0.0006, "0.001"),
        (0.25, "0.250"),
        (0.9996, "more than 0.999"),
        (1.0, "1.000"),
    ],
)
def test_a_probability_is_never_rounded_to_none_or_all(value, said):
    assert probability(value) == said
