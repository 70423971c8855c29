"""What several processes do in the tests of `world`: run by `torchrun`, or spawned.

These processes do not import `tiny`, because that takes each of them seconds. Array shapes are checked at run time
only in `fer_cli.execution`.
"""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

if "tiny" not in sys.modules:
    install_import_hook("fer_cli.execution", "beartype.beartype")

import torch
from torch import Tensor, distributed, nn

from fer_cli.data.augmentation import Augmentation
from fer_cli.execution.world import SharedBatchNorm3d, SharedDropout, World, join_world
from fer_cli.network import phases
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from tiny_layers import TINY_LAYERS

BATCHES = {"even": 6, "uneven": 5, "one has nothing": 1}
"""Rows of a batch that two processes share."""


def settings() -> TrainingSettings:
    augmentation = Augmentation(shift=1, mirror=True)
    return TrainingSettings(
        "tiny", epochs=3, feedback_epochs=3, batch_size=17, dropout=0.2, augmentation=augmentation, seed=1
    )


def float32(device: torch.device) -> torch.autocast:
    """In place of `phases.mixed_precision`: no rounding that would hide an error."""
    return torch.autocast(device.type, enabled=False)


def whole(rows: int) -> tuple[Tensor, Tensor]:
    """A batch, and the gradient of its result."""
    generator = torch.Generator().manual_seed(rows)
    feature, gradient = torch.randn(2, rows, 3, 4, 3, 2, generator=generator)
    return feature * 3 + 100, gradient


def norm() -> nn.BatchNorm3d:
    result = nn.BatchNorm3d(3)
    with torch.no_grad():
        result.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        result.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    return result


def share(rank: int, size: int, folder: Path) -> None:
    """What one of several processes makes of its share of each batch, saved to `folder`."""
    from torch import _dynamo  # noqa: F401  # before there is a group: see `join_world`

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    world = World(rank, size)
    said: dict[str, object] = {
        "sum": world.sum(torch.tensor([rank + 1.0, 10.0])),
        "agrees": (world.agrees(("same", 1)), world.agrees(rank)),
    }
    for name, rows in BATCHES.items():
        feature, gradient = (values[world.rows] for values in whole(rows))
        feature = feature.clone().requires_grad_()
        layer = SharedBatchNorm3d.like(norm())
        result = layer(feature)
        result.backward(gradient)
        gradients = [world.sum(p.grad) for p in (layer.weight, layer.bias) if p.grad is not None]
        said[name] = (result.detach(), feature.grad, *gradients, layer.running_mean, layer.running_var)
    said["module"] = module_step(world)
    torch.save(said, folder / f"{rank}.pt")
    distributed.destroy_process_group()
    assert not group_threads()


def group_threads() -> list[str]:
    """Names of this process's threads that belong to a process group."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def module_step(world: World) -> list[Tensor]:
    """Gradients of one step of a small network with batch norm and dropout, on this process's share of a batch."""
    torch.manual_seed(7)
    module = nn.Sequential(
        nn.Conv3d(3, 4, 2, bias=False), nn.BatchNorm3d(4), nn.Flatten(), SharedDropout(0.4), nn.Linear(24, 2)
    )
    called = world.parallel(module, torch.device("cpu"))
    feature, _ = whole(7)
    torch.manual_seed(8)
    loss = called(feature[world.rows] - 100).square().sum() / len(feature)
    torch.autograd.backward(loss * world.size)
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


if __name__ == "__main__":
    PRESETS["tiny"] = TINY_LAYERS
    phases.mixed_precision = float32
    with join_world(torch.device("cpu")) as (joined, own_device):
        assert group_threads()
        train(Path(sys.argv[1]), Path(sys.argv[2]), settings(), device=own_device, world=joined)
    # If threads of the process group still ran now, the process could abort when the interpreter exits.
    assert not group_threads()
