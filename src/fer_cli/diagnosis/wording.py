"""Figures and nouns as parts of sentences."""

import re

_AN = re.compile(r"(?!eu|one\b|once|u[^aeiou\W\d_][aeiouy])[aeiou]|x(?![aeiouy])|(hour|heir|honest)|[fhlmnrsx]\d", re.I)
"""Beginnings of nouns that are spoken with a vowel: `airplane`, `xbox`, `f16`, but not `user` or `european`."""


def with_article(noun: str) -> str:
    """The noun behind `a` or `an`."""
    return f"{'an' if _AN.match(noun) else 'a'} {noun}"


def probability(value: float) -> str:
    """A probability with three decimals; what is not quite nothing, or not quite all, is said not to be."""
    if 0 < value < 0.0005:
        return "less than 0.001"
    if 0.9995 <= value < 1:
        return "more than 0.999"
    return f"{value:.3f}"


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
