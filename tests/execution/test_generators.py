"""The shared generators of random numbers go on as if nothing had drawn from them."""

import random

import numpy as np
import pytest
import torch

from fer_cli.execution.generators import unmoved_generators


def test_draws_within_the_block_are_forgotten_also_after_an_error() -> None:
    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    @unmoved_generators()
    def draw_and_fail() -> None:
        drawn.append(draw())
        raise RuntimeError

    drawn: list[tuple[float, ...]] = []
    state = random.getstate()
    for _ in range(2):
        random.setstate(state)  # checks of types draw too
        with pytest.raises(RuntimeError):
            draw_and_fail()
    assert drawn[0] == drawn[1]
