"""Figures as parts of sentences."""


def percentage(share: float) -> str:
    """A share between 0 and 1 in whole per cent; what is not quite nothing, or not quite all, is said not to be.

    Raises ValueError if it is outside.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share")
    if 0 < share < 0.005:
        return "less than 1%"
    if 0.995 <= share < 1:
        return "more than 99%"
    return f"{share:.0%}"
