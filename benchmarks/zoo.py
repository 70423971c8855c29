"""Nine networks that nobody here designed, each through all steps: attach, cluster, calibrate, explain, probe.

    make attach-zoo                                             (all of them; writes docs/networks.md)
    python benchmarks/zoo.py resnet18 vit --output table.md     (some)

Each is built by its package's own constructor, at the size that its package gives it. Networks without weights are trained
for a few steps on the samples, so that their logits do not vanish. Samples: AdrenalMNIST3D at 28³ in a box of 32³ (100
for training, 24 for validation, 24 for testing); ModelNet10 at 30³ for the VoxNet; made-up densities for gnina's network.

Checked for every level, at the middle location and three others: its own activation patched in gives the same logits,
bit for bit; no voxel outside the stated field changes it, under 200 random perturbations; some voxel on each face of the
field does.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

import fer_cli as fer
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.attach import AttachSettings
from fer_cli.network.attached.classifier import Attached, attach_backbone
from fer_cli.network.attached.forms import parse_network
from fer_cli.network.attached.weights_file import fit_state, read_state
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL
from machine import run_command

HERE = Path(__file__).parent
DATA = Path(os.environ.get("FER_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
PERTURBATIONS = 200
LOCATIONS = 4


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: what `fer attach` is given, and its samples."""

    title: str
    network: str
    samples: str = "adrenal"
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    options: tuple[str, ...] = ()


_VIT = {"in_channels": 1, "img_size": [32, 32, 32], "patch_size": [8, 8, 8], "classification": True, "num_classes": 2}
_RESNET = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}
ZOO = {
    "resnet18": Entry("MONAI ResNet-18", "monai.networks.nets:resnet18", kwargs=_RESNET),
    "resnet50": Entry(
        "MONAI ResNet-50, shortcut B", "monai.networks.nets:resnet50", kwargs=_RESNET | {"shortcut_type": "B"}
    ),
    "densenet121": Entry(
        "MONAI DenseNet121",
        "monai.networks.nets:DenseNet121",
        kwargs={"spatial_dims": 3, "in_channels": 1, "out_channels": 2},
    ),
    "seresnet50": Entry(
        "MONAI SEResNet50",
        "monai.networks.nets:SEResNet50",
        kwargs={"spatial_dims": 3, "in_channels": 1, "num_classes": 2},
    ),
    "efficientnet": Entry(
        "MONAI EfficientNet-B0",
        "monai.networks.nets:EfficientNetBN",
        kwargs={
            "model_name": "efficientnet-b0",
            "pretrained": False,
            "spatial_dims": 3,
            "in_channels": 1,
            "num_classes": 2,
        },
    ),
    "vit": Entry(
        "MONAI ViT-B, patches of 8³",
        "monai.networks.nets:ViT",
        kwargs=_VIT | {"post_activation": "none"},
        options=("--output", "0"),
    ),
    "r3d18": Entry(
        "r3d_18", f"{HERE / 'zoo_networks.py'}:R3D18", samples="adrenal, 3 channels", kwargs={"num_classes": 2}
    ),
    "voxnet": Entry(
        "VoxNet of another project",
        f"{HERE / 'attach_voxnet.py'}:VoxNet",
        samples="modelnet10",
        weights="voxnet30_state_dict.pt",
    ),
    "gnina": Entry(
        "gnina's dense network",
        f"{HERE / 'zoo_networks.py'}:GninaDense",
        samples="densities",
        weights="gnina-dense-state_dict.pt",
        options=("--output", "0"),
    ),
}


@dataclass
class Steps:
    """Seconds of wall time and the largest resident size of `fer` by step."""

    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)

    def fer(self, step: str, *arguments: object) -> Any:
        """Run a command and give its JSON; exits where it fails."""
        done = run_command([sys.executable, "-m", "fer_cli", step, *map(str, arguments), "--json"])
        self.seconds[step], self.megabytes[step] = done.seconds, done.peak_bytes / 1e6
        return json.loads(done.output)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Of " + ", ".join(ZOO))] = None,
    output: Annotated[Path | None, typer.Option(help="Markdown to write; default: print.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where runs are kept; default: a temporary folder.")] = None,
) -> None:
    """Take networks through all steps."""
    with tempfile.TemporaryDirectory() as temporary:
        base = folder or Path(temporary)
        os.environ["XDG_CONFIG_HOME"] = str(base / "config")
        parts = []
        for name in names or list(ZOO):
            print(f"{name} …", file=sys.stderr, flush=True)
            parts.append(section(ZOO[name], base / name))
            print(parts[-1], flush=True)
    if output is not None:
        before = output.read_text(encoding="utf-8").partition("<!-- measured -->")[0] if output.exists() else ""
        output.write_text(f"{before}<!-- measured -->\n\n" + "\n".join(parts), encoding="utf-8")


def section(entry: Entry, run: Path) -> str:
    """One network's part of the page, after all steps and checks."""
    shutil.rmtree(run, ignore_errors=True)
    volumes, labels, classes = samples(entry.samples)
    parts = np.split(np.random.default_rng(0).permutation(len(volumes)), [len(volumes) - 48, len(volumes) - 24])
    train, val, test = ((volumes[part], labels[part]) for part in parts)
    fer.save_volumes(run / "voxels.h5", train, val=val, test=test, classes=classes)
    source = parse_network(entry.network, json.dumps(entry.kwargs) if entry.kwargs else None)
    torch.manual_seed(0)
    module = source.build()
    if entry.weights is None:
        weights = run / "weights.pt"
        _warm_up(module, torch.from_numpy(train[0]).float(), torch.from_numpy(train[1]))
        torch.save(module.state_dict(), weights)
    else:
        weights = DATA / "weights" / entry.weights
        fit_state(module, read_state(weights), weights)
    chosen_in = _choose(module, entry, volumes, classes)
    steps = Steps()
    kwargs = ("--kwargs", json.dumps(entry.kwargs)) if entry.kwargs else ()
    run_option = ("--run", run)
    training = ("--weights", weights, "--feedback-epochs", 2, "--batch-size", 16)
    attached = steps.fer("attach", entry.network, *kwargs, *training, *entry.options, *run_option)
    with open_artifact(run / "model.h5", MODEL) as artifact:
        last = read_history(artifact)[-1]
    steps.fer("cluster", *run_option)
    steps.fer("calibrate", "--force", *run_option)
    steps.fer("explain", "test_00000", *run_option)
    level = attached["levels"][len(attached["levels"]) // 2]
    middle = ",".join(str(side // 2) for side in level["shape"])
    steps.fer("probe", "test_00000", "--layer", level["name"], "--location", middle, *run_option)
    backbone = fer.load_run(run).network.backbone
    assert isinstance(backbone, Attached)
    checked = list(check(backbone, torch.from_numpy(test[0]).float()))
    return _page(entry, attached, steps, chosen_in, checked, module, last)


def samples(kind: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Volumes (sample, channel, x, y, z), labels and classes."""
    random = np.random.default_rng(0)
    if kind == "modelnet10":
        arrays = np.load(DATA / "modelnet10-voxnet30.npz")
        labels = arrays["y_train"].reshape(-1)
        chosen = np.concatenate([random.permutation(np.flatnonzero(labels == k))[:15] for k in range(10)])
        volumes, labels = arrays["X_train"][chosen], labels[chosen]
        volumes = volumes if volumes.ndim == 5 else volumes[:, None]
        return volumes.astype(np.float32), labels.astype(np.int64), [str(k) for k in range(10)]
    if kind == "densities":  # soft balls of random radius, of few channels in a bad pose
        axis = np.arange(48, dtype=np.float32)
        labels = np.arange(148) % 2
        volumes = np.zeros((148, 28, 48, 48, 48), np.float32)
        for volume, label in zip(volumes, labels, strict=True):
            for channel in random.permutation(28)[: 6 if label else 3]:
                x, y, z = (np.exp(-((axis - random.uniform(12, 36)) ** 2) / random.uniform(8, 60)) for _ in range(3))
                volume[channel] = x[:, None, None] * y[:, None] * z
        return volumes, labels, ["bad", "good"]
    arrays = np.load(DATA / "adrenalmnist3d.npz")
    chosen = random.permutation(len(arrays["train_images"]))[:148]
    volumes = np.pad(arrays["train_images"][chosen, None] / np.float32(255), [(0, 0), (0, 0), *[(2, 2)] * 3])
    channels = 3 if "3 channels" in kind else 1
    return (
        np.repeat(volumes, channels, 1),
        arrays["train_labels"][chosen, 0].astype(np.int64),
        ["normal", "hyperplasia"],
    )


def _warm_up(module: nn.Module, volumes: Tensor, labels: Tensor, steps: int = 12) -> None:
    """A few steps of training, after which logits and running statistics are of these samples.

    The statistics are measured again at the end: with EfficientNet's momentum of 0.01, twelve steps leave them close to
    their initial values.
    """
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    module.train()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randperm(len(volumes), generator=generator)[:16]
        returned = module(volumes[chosen])
        loss = functional.cross_entropy(returned[0] if isinstance(returned, tuple) else returned, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in volumes.split(20) if norms else ():
            module(part)
    module.eval()


def _choose(module: nn.Module, entry: Entry, volumes: np.ndarray, classes: list[str]) -> float:
    """Seconds in which levels are chosen and their fields measured."""
    from fer_cli.data.volumes import InputSpec

    _, channels, x, y, z = volumes.shape
    element = entry.options[1] if entry.options else None
    started = time.monotonic()
    first = torch.from_numpy(volumes[:8]).float()
    attach_backbone(module.eval(), first, InputSpec(channels, (x, y, z), "intensity"), classes, output=element)
    return time.monotonic() - started


def check(backbone: Attached, volumes: Tensor) -> Iterator[tuple[str, bool, int, int, int]]:
    """By level: whether its own activation patched in changes no bit; perturbations outside of fields, and how many of
    them changed the location; faces of fields of which no voxel changes it.
    """
    generator = torch.Generator().manual_seed(0)
    batch = volumes[:8]
    own = backbone.logits(batch)
    for level in backbone.spec.levels:
        feature = backbone.features(batch, [level.name])[level.name]
        identical = torch.equal(backbone.logits(batch, patch={level.name: feature}), own)
        fields = backbone.receptive_fields(level.name)
        places = {tuple(side // 2 for side in level.shape)}
        while len(places) < min(LOCATIONS, level.locations):
            places.add(tuple(int(torch.randint(side, (), generator=generator)) for side in level.shape))
        outside = changed = dead = 0
        for place in sorted(places):
            box = fields[place]
            tried, hits = _outside(backbone, batch, level.name, place, box, generator)
            outside, changed = outside + tried, changed + hits
            dead += sum(not _face(backbone, volumes, level.name, place, face, generator) for face in _faces(box))
        yield level.name, identical, outside, changed, dead


def _outside(
    backbone: Attached, batch: Tensor, level: str, place: tuple[int, ...], box: np.ndarray, generator: torch.Generator
) -> tuple[int, int]:
    """Perturbations of voxels outside the box, and how many of them changed the location; none of a whole volume."""
    inside = torch.zeros(batch.shape[2:], dtype=torch.bool)
    inside[tuple(slice(low, high) for low, high in box)] = True
    if inside.all():
        return 0, 0
    at = (slice(None), slice(None), *place)
    before = backbone.features(batch, [level])[level][at]
    hits = tried = 0
    for _ in range(PERTURBATIONS // LOCATIONS // len(batch) + 1):
        noise = torch.randn(batch.shape, generator=generator) * 3
        after = backbone.features(torch.where(inside, batch, noise), [level])[level][at]
        hits += int((before != after).flatten(1).any(1).sum())
        tried += len(batch)
    return tried, hits


def _faces(box: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """The six faces of a box, as indices of voxels."""
    whole = [slice(low, high) for low, high in box]
    for axis, (low, high) in enumerate(box):
        for at in (low, high - 1):
            yield (*whole[:axis], slice(at, at + 1), *whole[axis + 1 :])


def _face(
    backbone: Attached,
    volumes: Tensor,
    level: str,
    place: tuple[int, ...],
    face: tuple[slice, ...],
    generator: torch.Generator,
) -> bool:
    """Whether some voxel of a face changes the location, in some volume of noise or of the samples."""
    at = (slice(None), slice(None), *place)
    for base in (volumes[:8], torch.rand(8, *volumes.shape[1:], generator=generator)):
        before = backbone.features(base, [level])[level][at]
        for _ in range(10):
            changed = base.clone()
            part = changed[(slice(None), slice(None), *face)]
            part += torch.randn(part.shape, generator=generator) * 3
            if bool((backbone.features(changed, [level])[level][at] != before).any()):
                return True
    return False


def _page(
    entry: Entry,
    attached: Any,
    steps: Steps,
    chosen_in: float,
    checked: list[tuple[str, bool, int, int, int]],
    module: nn.Module,
    last: EpochRecord,
) -> str:
    parameters = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    levels = {level["name"]: level for level in attached["levels"]}
    # Paths of this machine are no matter of the page.
    shown = re.sub(r"^.*/benchmarks/", "benchmarks/", entry.network)
    lines = [
        f"## {entry.title}",
        "",
        f"`fer attach {shown}"
        + (f" --kwargs '{json.dumps(entry.kwargs)}'" if entry.kwargs else "")
        + f"`: {parameters:.1f} M parameters, {attached['parameters'] / 1e6:.1f} M with the feedback network. "
        f"{len(levels)} levels of {len(levels) + len(attached['other_levels'])} activations, chosen and measured in "
        f"{chosen_in:.1f} s. After two epochs the distance of feedback features to the network's is "
        f"{(last.feature_loss or 0) / AttachSettings().feature_weight:.2f} of the latter's mean square.",
        "",
        "| level | filters | map | cut | field of the middle location | found by | own activation patched in | "
        "perturbations outside that changed it | faces without effect |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, identical, outside, changed, dead in checked:
        level = levels[name]
        sides = "×".join(str(high - low) for low, high in level["receptive_field"])
        shape = "–" if level["shape"] == [1, 1, 1] else "×".join(map(str, level["shape"]))
        lines.append(
            f"| {name} | {level['filters']} | {shape} | {'yes' if level['is_cut'] else 'no'} | {sides} | "
            f"{level['field']} | {'identical' if identical else '**differs**'} | "
            f"{f'{changed} of {outside}' if outside else 'no voxel is outside'} | {dead} |"
        )
    lines += [
        "",
        "| | " + " | ".join(steps.seconds) + " |",
        "| --- |" + " --- |" * len(steps.seconds),
        "| seconds | " + " | ".join(f"{value:.0f}" for value in steps.seconds.values()) + " |",
        "| memory, MB | " + " | ".join(f"{value:.0f}" for value in steps.megabytes.values()) + " |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
