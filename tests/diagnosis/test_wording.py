import pytest

from fer_cli.diagnosis.wording import percentage


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
