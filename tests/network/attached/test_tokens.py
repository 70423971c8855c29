"""Transformers: tokens are a map, and what is before them, such as a class token, stays the network's own."""

import pytest
import torch
from torch import Tensor, nn

from fer_cli.data.volumes import InputSpec
from fer_cli.network.attached.classifier import Attached, attach_backbone
from fer_cli.network.attached.hooks import as_map, shaped_as
from fer_cli.network.attached.survey import Candidate

SIDES = (8, 12, 8)


class Transformer(nn.Module):
    """Patches of 4³, four blocks; the logits are read from the first of `others` tokens, or from the mean of all."""

    def __init__(self, others: int = 1, *, by_convolution: bool = True) -> None:
        super().__init__()
        self.by_convolution = by_convolution
        self.patches = nn.Conv3d(1, 12, 4, 4) if by_convolution else nn.Linear(64, 12)
        self.others = nn.Parameter(torch.randn(1, others, 12)) if others else None
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(12, 2, 24, 0.0, batch_first=True) for _ in range(4))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_convolution:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
        else:
            parts = x.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4)
            tokens = self.patches(parts.reshape(len(x), -1, 64))
        if self.others is not None:
            tokens = torch.cat([self.others.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens.mean(1) if self.others is None else tokens[:, 0])


def attached(module: nn.Module, **given: object) -> tuple[Attached, tuple[Candidate, ...], Tensor]:
    torch.manual_seed(0)
    volumes = torch.rand(6, 1, *SIDES)
    spec = InputSpec(1, SIDES, "intensity")
    return *attach_backbone(module.eval(), volumes, spec, ("a", "b", "c"), **given), volumes  # type: ignore[arg-type]


def test_tokens_fill_a_map_with_z_fastest_and_leave_those_before_them() -> None:
    tokens = torch.arange(2 * 9 * 5, dtype=torch.float32).reshape(2, 9, 5)
    grid = as_map(tokens, (2, 2, 2))
    assert grid.shape == (2, 5, 2, 2, 2)
    assert torch.equal(grid[:, :, 1, 0, 1], tokens[:, 1 + 5])
    assert torch.equal(shaped_as(grid, tokens), tokens)
    replaced = shaped_as(torch.zeros_like(grid), tokens)
    assert torch.equal(replaced[:, 0], tokens[:, 0])
    assert not replaced[:, 1:].any()


@pytest.mark.parametrize("others", [1, 3])
def test_blocks_with_a_class_token_are_levels_that_are_no_cuts(others: int) -> None:
    torch.manual_seed(1)
    backbone, candidates, volumes = attached(Transformer(others))
    levels = {level.name: level for level in backbone.spec.levels}
    # The tokens of the last block, but the first, do not matter.
    assert list(levels) == ["patches", "blocks.0", "blocks.1", "blocks.2"]
    assert all(level.shape == (2, 3, 2) and level.filters == 12 for level in levels.values())
    assert [level.is_cut for level in levels.values()] == [True, False, False, False]
    assert levels["patches"].field == "exact"
    assert backbone.receptive_fields("patches")[1, 2, 0].tolist() == [[4, 8], [8, 12], [0, 4]]
    assert {candidate.tokens for candidate in candidates} >= {0, 12 + others}
    own, turned = backbone.logits(volumes), volumes.roll(1, 0)
    for level, feature in backbone.features(volumes, list(levels)).items():
        assert torch.equal(backbone.logits(volumes, patch={level: feature}), own)
        patched = backbone.logits(turned, patch={level: feature})
        assert torch.equal(patched, own) == levels[level].is_cut
        assert not torch.allclose(patched, backbone.logits(turned))


def test_blocks_without_a_class_token_are_cuts() -> None:
    torch.manual_seed(1)
    backbone, _, volumes = attached(Transformer(0))
    cuts = {level.name: level.is_cut for level in backbone.spec.levels}
    assert cuts == {"patches": True, "blocks.0": True, "blocks.1": True, "blocks.3": True}
    own, turned = backbone.logits(volumes), volumes.roll(1, 0)
    for level, feature in backbone.features(volumes, list(backbone.spec.layer_names[:-1])).items():
        assert torch.equal(backbone.logits(turned, patch={level: feature}), own)


def test_without_a_map_to_compare_with_patches_have_equal_sides() -> None:
    torch.manual_seed(1)
    backbone, _, _ = attached(Transformer(by_convolution=False), levels=["patches", "blocks.1"])
    patches, block = backbone.spec.levels
    assert patches.shape == block.shape == (2, 3, 2)
    assert (patches.is_cut, block.is_cut) == (True, False)
    assert backbone.receptive_fields("patches")[1, 0, 1].tolist() == [[4, 8], [0, 4], [4, 8]]
    assert block.field == "whole"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_monais_vit_has_levels_at_its_patches_and_blocks() -> None:
    pytest.importorskip("einops", reason="einops, which MONAI's ViT needs, is not installed: pip install '.[test]'")
    nets = pytest.importorskip("monai.networks.nets", reason="monai is not installed: pip install '.[test]'")
    sizes = {"hidden_size": 12, "mlp_dim": 24, "num_layers": 4, "num_heads": 2, "patch_size": 4, "img_size": SIDES}
    torch.manual_seed(1)
    module = nets.ViT(in_channels=1, classification=True, num_classes=3, post_activation="none", **sizes)
    backbone, _, _ = attached(module, output="0")
    names = [level.name for level in backbone.spec.levels]
    assert names == ["patch_embedding.patch_embeddings", "blocks.0", "blocks.1", "blocks.2"]
