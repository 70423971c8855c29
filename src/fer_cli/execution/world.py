"""The processes that train one network together, usually one, and the layers that have to know of them.

`torchrun` starts the processes and tells each its number through the environment. Every process draws the same
random numbers for a whole batch and takes its own rows of it, and batch norm and dropout act on the whole batch, so
that the same run comes out, up to the order of sums, whatever the number of processes.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fer_cli.errors import ResourceError, UsageError, first_line, reasons
from fer_cli.execution.transfer import moved


@dataclass(frozen=True)
class World:
    """Number of this process, and how many there are. Every batch is dealt out row by row."""

    rank: int = 0
    size: int = 1

    @property
    def rows(self) -> slice:
        """The rows of a batch that are this process's."""
        return slice(self.rank, None, self.size)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and tells how the run goes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.size == 1:
            return values
        return _total(values)

    def agrees(self, value: object) -> bool:
        """Whether every process has the same `value`, as it prints."""
        if self.size == 1:
            return True
        values: list[str | None] = [None] * self.size
        distributed.all_gather_object(values, repr(value))
        return len(set(values)) == 1

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module as it is called in training: its gradients become those of the whole batch.

        Its batch norm and dropout are made to act on the whole batch. Parameters and buffers stay the module's own.
        """
        if self.size == 1:
            return module
        for child in list(module.modules()):
            if isinstance(child, SharedDropout):
                child.world = self
            for name, grandchild in child.named_children():
                if isinstance(grandchild, nn.BatchNorm3d):
                    setattr(child, name, SharedBatchNorm3d.like(grandchild))
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)


ALONE = World()
"""One process by itself."""


@contextmanager
def join_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """The world that `torchrun` started this process in, or one of its own, and this process's device.

    Processes on GPUs take one each and talk by NCCL, those on CPUs by Gloo.

    Raises ResourceError where the others cannot be reached, or are lost within the block; UsageError where there are
    fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs; start at most one a GPU."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # DDP imports this module. If a process group exists by then, functions of the module keep it as a default argument,
    # its Gloo threads never stop, and the process may abort when the interpreter exits.
    from torch import _dynamo  # noqa: F401

    try:
        # Counts and scores are summed on the CPU even where the network is on a GPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"cannot join the other processes: {first_line(error)}.") from error
    try:
        with warnings.catch_warnings():
            # Of kernels with one filter below, whose filters are innermost in any order; it costs nothing there.
            warnings.filterwarnings("ignore", "Grad strides do not match")
            yield World(distributed.get_rank(), distributed.get_world_size()), device
    except BaseException as error:
        # `torchrun` tells the others to end as soon as it sees that one has gone, often amid the unwinding of the loss.
        if not any(is_lost_connection(reason) for reason in reasons(error)):
            raise
        raise ResourceError(
            "another process of the run has gone. What was done up to the last checkpoint is kept: "
            "start the same command again with --resume."
        ) from error
    finally:
        distributed.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process went away."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text
    )


def _total(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


class _Total(torch.autograd.Function):
    """The sum over all processes of a value whose gradient is wanted: that of the sum of their losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _total(gradient)


class SharedDropout(nn.Module):
    """Dropout of (sample, feature) whose mask is that of the whole batch, in every process.

    The mask is drawn on the CPU from PyTorch's global generator, row after row of the whole batch.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.world = ALONE

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        if not self.training or not self.probability:
            return feature
        # One draw from the global generator, whatever this process's share; rows of one seed do not depend on how
        # many follow.
        seed = int(torch.randint(2**62, (1,)))
        rows = len(feature) * self.world.size
        chances = torch.rand(rows, feature.shape[1], generator=torch.Generator().manual_seed(seed))
        kept = moved(chances[self.world.rows] >= self.probability, feature.device).to(feature)
        return feature * kept / (1 - self.probability)

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"p={self.probability}"


class SharedBatchNorm3d(nn.BatchNorm3d):
    """Batch norm whose statistics in training are those of the whole batch, over all processes, on any device."""

    @classmethod
    def like(cls, norm: nn.BatchNorm3d) -> "SharedBatchNorm3d":
        """A layer that shares the parameters and statistics of `norm`."""
        shared_norm = cls(norm.num_features, norm.eps, norm.momentum)
        shared_norm.weight, shared_norm.bias = norm.weight, norm.bias
        shared_norm.running_mean, shared_norm.running_var = norm.running_mean, norm.running_var
        shared_norm.num_batches_tracked = norm.num_batches_tracked
        return shared_norm.train(norm.training)

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        if not self.training:
            return super().forward(feature)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        values = feature.float()
        axes = (0, 2, 3, 4)
        count = torch.tensor([values.numel() / values.shape[1]], device=values.device)
        sums: Tensor = _Total.apply(torch.cat([values.sum(axes), count]))  # type: ignore[no-untyped-call]
        count = sums[-1]
        mean = sums[:-1] / count
        centred = values - mean[:, None, None, None]
        variance: Tensor = _Total.apply(centred.square().sum(axes)) / count  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result = centred * scale[:, None, None, None] + self.bias[:, None, None, None]
        return result.to(feature.dtype)
