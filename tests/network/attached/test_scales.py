"""A feedback network learns from its first steps on, whatever the scale and the width of its levels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fer_cli import save_volumes
from fer_cli.errors import ArtifactError
from fer_cli.network.attach import AttachSettings, attach
from fer_cli.network.attached.model_file import Origin, read_scales
from fer_cli.network.weights import load_network
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL

CPU = torch.device("cpu")
VOLUMES = (96, 1, 12, 8, 16)
CONVOLUTIONS = ("c1", "c2", "c3")


class Graded(nn.Module):
    """Convolutions whose features grow by `factor` from each level to the next; the last level is a vector."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.c1 = nn.Conv3d(1, 8, 4, 2, 1, bias=False)
        self.c2, self.c3 = nn.Conv3d(8, 12, 2, 2, bias=False), nn.Conv3d(12, 16, (3, 2, 4), bias=False)
        self.fc = nn.Linear(16, 2)
        with torch.no_grad():
            for weight, by in ((self.c2.weight, factor), (self.c3.weight, factor), (self.fc.weight, factor**-2)):
                weight.mul_(by)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c3(torch.relu(self.c2(self.c1(x)))).flatten(1))


class Wide(nn.Module):
    """Blocks of many filters with a residual connection, as a transformer has; no normalisation between them."""

    def __init__(self, filters: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, filters, 4, 4)
        self.blocks = nn.ModuleList(nn.Conv3d(filters, filters, 1) for _ in range(3))
        self.fc = nn.Linear(filters, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        for block in self.blocks:
            x = x + 4 * torch.relu(block(x))
        return self.fc(x.mean((2, 3, 4)))


def store(path: Path) -> None:
    generator = np.random.default_rng(0)
    waves = np.stack(np.meshgrid(*(np.linspace(0, 6, side) for side in VOLUMES[2:]), indexing="ij"))
    phases = generator.uniform(0, 6, (VOLUMES[0], 1, 3, 1, 1, 1))
    volumes = np.sin(waves + phases).mean(2).astype(np.float32)
    save_volumes(path, (volumes, np.arange(len(volumes)) % 2), classes=["a", "b"])


def attached(module: nn.Module, folder: Path, levels: tuple[str, ...], epochs: int) -> float:
    """The last epoch's distance of features, relative to their mean square."""
    settings = AttachSettings(levels=levels, feedback_epochs=epochs, batch_size=16)
    attach(folder / "voxels.h5", folder / "model.h5", module.eval(), settings, Origin(), device=CPU, force=True)
    with open_artifact(folder / "model.h5", MODEL) as artifact:
        last = read_history(artifact)[-1]
    assert last.feature_loss is not None
    return last.feature_loss / settings.feature_weight


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_levels_of_other_scales_than_their_neighbours_are_learnt(factor: float, tmp_path: Path) -> None:
    store(tmp_path / "voxels.h5")
    torch.manual_seed(0)
    assert attached(Graded(factor), tmp_path, CONVOLUTIONS, epochs=10) < 1  # predicting zero would give 1


def test_wide_levels_are_learnt(tmp_path: Path) -> None:
    store(tmp_path / "voxels.h5")
    torch.manual_seed(0)
    levels = ("patches", "blocks.0", "blocks.1", "blocks.2")
    # The mean of the last six of twelve steps. At one rate for layers of any width it is 10⁶.
    assert attached(Wide(), tmp_path, levels, epochs=2) < 1.5


def test_scales_are_stored_and_kept_by_what_starts_from_the_same_feedback_network(tmp_path: Path) -> None:
    store(tmp_path / "voxels.h5")
    torch.manual_seed(0)
    module = Graded(64.0)
    attached(module, tmp_path, CONVOLUTIONS, epochs=1)
    with open_artifact(tmp_path / "model.h5", MODEL) as artifact:
        first = read_scales(artifact)
        feedback = load_network(artifact, module=module).feedback
    assert feedback.scales == first
    assert first.keys() == set(CONVOLUTIONS)
    assert first["c2"] > first["c1"]
    with torch.no_grad():
        module.c2.weight.mul_(64)
    attached(module, tmp_path, CONVOLUTIONS, epochs=1)
    with open_artifact(tmp_path / "model.h5", MODEL) as artifact:
        assert read_scales(artifact) == first


def test_a_model_without_scales_decodes_as_it_did(tmp_path: Path) -> None:
    """Models attached before there were scales have none."""
    store(tmp_path / "voxels.h5")
    module = Graded(8.0)
    attached(module, tmp_path, CONVOLUTIONS, epochs=1)
    with open_artifact(tmp_path / "model.h5", MODEL) as artifact:
        copies = {"old": None, "zero": {"c1": 0.0}, "text": {"c1": "much"}, "list": [1.0]}
        for name, scales in copies.items():
            network = {key: value for key, value in artifact.config["network"].items() if key != "scales"}
            network |= {} if scales is None else {"scales": scales}
            config = {**artifact.config, "network": network}
            with ArtifactWriter(tmp_path / f"{name}.h5", MODEL, config=config, parents=artifact.parents) as writer:
                for each in artifact.names():
                    writer.write(each, artifact.read_text(each) if each == "history" else artifact.read(each))
    with open_artifact(tmp_path / "old.h5", MODEL) as artifact:
        old = load_network(artifact, module=module).feedback
    assert old.scales == {}
    feature = torch.randn(2, 12, 3, 2, 4)
    assert torch.equal(old.step("c2", feature), old.steps["c2"](feature))
    for name in ("zero", "text", "list"):
        with open_artifact(tmp_path / f"{name}.h5", MODEL) as artifact, pytest.raises(ArtifactError, match="damaged"):
            load_network(artifact, module=module)
