"""The generators of random numbers that a whole process shares."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unmoved_generators(device: torch.device | None = None) -> Iterator[None]:
    """A block after which the global generators of Python, NumPy and PyTorch go on as if it had not been.

    PyTorch's are those of the CPU and of `device`.
    """
    cuda = device if device is not None and device.type == "cuda" else None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    on_device = None if cuda is None else torch.cuda.get_rng_state(cuda)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None and on_device is not None:
            torch.cuda.set_rng_state(on_device, cuda)
