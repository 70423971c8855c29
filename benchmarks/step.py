"""One step of training as `fer train` takes it, for benchmarks that time steps."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from fer_cli.network.phases import FeedbackPhase, FeedforwardPhase, TrainingSettings


def training_step(
    phase: FeedforwardPhase | FeedbackPhase, settings: TrainingSettings, batches: Iterator[np.ndarray]
) -> Callable[[], None]:
    """A call that takes the next batch and makes one step of it, moving average included."""
    average = copy.deepcopy(phase.module).requires_grad_(False)
    parameters = [p for p in phase.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=settings.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        terms = phase.terms(phase.module, next(batches), generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        with torch.no_grad():
            states = [
                [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
                for net in (average, phase.module)
            ]
            torch._foreach_lerp_(*states, 0.005)

    return step
