"""What the two phases of training minimise and measure: the classifier's, and the feedback network's.

A phase gives the loss of a batch and the validation of a module; the loop that drives it is in `training`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.activations import FEEDBACK, FEEDFORWARD, batches
from fer_cli.dataset import VoxelSet, augment
from fer_cli.errors import UsageError
from fer_cli.model import LOCAL_LAYER, OUTPUT, PRESETS, Features, FERNet


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the outcome of a training run, beside the voxels and the machine.

    `shift` is in voxels; `average_decay` a step; `gate_probability` that a skip gate is open for a sample;
    `feature_weight` weighs the feature-matching terms of the feedback loss against cross-entropy.
    """

    preset: str = "compact"
    epochs: int = 30
    feedback_epochs: int = 16
    batch_size: int = 32
    learning_rate: float = 2e-3
    feedback_learning_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.4
    shift: int = 2
    mirror: bool = True
    average_decay: float = 0.995
    gate_probability: float = 0.25
    feature_weight: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"there is no preset {self.preset!r}; the presets are {', '.join(PRESETS)}.")
        if min(self.epochs, self.feedback_epochs) < 1 or self.batch_size < 2:
            raise UsageError("training needs at least one epoch of each phase and a batch size of 2.")


@dataclass(frozen=True)
class TrainingData:
    """The samples of a run, by index into the voxel set, and the device they are wanted on."""

    voxels: VoxelSet
    training: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    device: torch.device

    def batch(self, indices: Int[np.ndarray, " batch"]) -> tuple[Float[Tensor, "batch 1 x y z"], Int[Tensor, " batch"]]:
        """Grids and labels of the given samples, on the device."""
        labels = torch.from_numpy(self.voxels.labels[indices])
        return self.voxels.tensor(indices).to(self.device), labels.to(self.device)


class FeedforwardPhase:
    """Cross-entropy with label smoothing on augmented shapes."""

    name = FEEDFORWARD
    frozen_encoder: nn.Module | None = None

    def __init__(self, data: TrainingData, settings: TrainingSettings, encoder: nn.Module) -> None:
        self.data = data
        self.settings = settings
        self.module = encoder
        self.epochs = settings.epochs
        self.learning_rate = settings.learning_rate

    def loss(self, indices: Int[np.ndarray, " batch"], generator: torch.Generator) -> Tensor:
        """Loss of a batch of training samples."""
        settings = self.settings
        grids, labels = self.data.batch(indices)
        grids = augment(grids, generator, shift=settings.shift, mirror=settings.mirror)
        with mixed_precision(self.data.device):
            logits = self.module(grids)
        return functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> tuple[float, float]:
        """Cross-entropy and accuracy."""
        module.eval()
        loss = correct = 0.0
        for indices in batches(self.data.validation):
            grids, labels = self.data.batch(indices)
            with mixed_precision(self.data.device):
                logits = module(grids).float()
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            correct += float((logits.argmax(1) == labels).sum())
        return loss / len(self.data.validation), correct / len(self.data.validation)


class FeedbackPhase:
    """Weighted voxel cross-entropy of two chains, and the distance of their features to the encoder's."""

    name = FEEDBACK

    def __init__(self, data: TrainingData, settings: TrainingSettings, network: FERNet) -> None:
        self.data = data
        self.settings = settings
        self.network = network
        self.module: nn.Module = network.feedback
        self.frozen_encoder: nn.Module | None = network.encoder
        self.epochs = settings.feedback_epochs
        self.learning_rate = settings.feedback_learning_rate
        sample = data.training[:: max(1, len(data.training) // 512)]
        share = float(data.voxels.grids(sample).mean())
        # The square root lies between calibrated probabilities (weight 1) and balanced classes.
        self.occupied_weight = torch.tensor(((1 - share) / max(share, 1e-6)) ** 0.5, device=data.device)

    def loss(self, indices: Int[np.ndarray, " batch"], generator: torch.Generator) -> Tensor:
        """Loss of a batch of training samples; entry level and gates are drawn from `generator`."""
        settings = self.settings
        grids, _ = self.data.batch(indices)
        grids = augment(grids, generator, shift=0, mirror=settings.mirror)
        levels = self.network.config.layer_names[:-1]
        entry_index = int(torch.randint(0, len(levels), (1,), generator=generator))
        entry = levels[entry_index]
        with mixed_precision(self.data.device):
            with torch.no_grad():
                targets = self.network.encoder.features(grids)
            skips = {
                level: _gated(targets[level], settings.gate_probability, generator) for level in levels[:entry_index]
            }

            def join(level: str, feature: Tensor) -> Tensor:
                # From the entry down, the class-code chain and the local chain are one batch.
                return torch.cat([feature, targets[entry].to(feature.dtype)]) if level == entry else feature

            decoding = self.network.feedback.decode(targets[OUTPUT], OUTPUT, skips=skips, edit=join)
        voxel_loss = functional.binary_cross_entropy_with_logits(
            decoding.logits.float(), torch.cat([grids, grids]), pos_weight=self.occupied_weight
        )
        return voxel_loss + settings.feature_weight * _feature_distance(decoding.features, targets, entry)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> tuple[float, float]:
        """Voxel cross-entropy and IoU of the reconstruction from conv3, every gate shut."""
        module.eval()
        loss = 0.0
        ious: list[float] = []
        for indices in batches(self.data.validation):
            grids, _ = self.data.batch(indices)
            with mixed_precision(self.data.device):
                features = self.network.encoder.features(grids)
                decoding = module.decode(features[LOCAL_LAYER], LOCAL_LAYER)  # type: ignore[operator]
            logits = decoding.logits.float()
            loss += float(
                functional.binary_cross_entropy_with_logits(logits, grids, pos_weight=self.occupied_weight)
            ) * len(indices)
            ious.extend(voxel_iou(decoding.occupancy, grids[:, 0]).tolist())
        return loss / len(self.data.validation), float(np.mean(ious))


Phase = FeedforwardPhase | FeedbackPhase


def voxel_iou(
    occupancy: Float[Tensor, "sample x y z"], truth: Float[Tensor, "sample x y z"]
) -> Float[Tensor, " sample"]:
    """Intersection over union of the voxels at probability 0.5 or more with the true ones; 1 where both are empty."""
    found, wanted = occupancy >= 0.5, truth >= 0.5
    union = (found | wanted).flatten(1).sum(1)
    return torch.where(union > 0, (found & wanted).flatten(1).sum(1) / union.clamp(min=1), 1.0)


def _feature_distance(features: Features, targets: Features, entry: str) -> Tensor:
    """Mean over levels of the squared error to the encoder's feature over that feature's mean square."""
    terms = []
    for level, feature in features.items():
        target = targets[level].float()
        if feature.shape[0] == 2 * target.shape[0]:
            # Below the entry the batch holds both chains; at the entry its second half is the target itself.
            feature = feature[: target.shape[0]] if level == entry else feature
            target = target if level == entry else torch.cat([target, target])
        terms.append((feature.float() - target).square().mean() / target.square().mean().clamp(min=1e-8))
    return torch.stack(terms).mean()


def _gated(feature: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Skip features for the joined batch: shut for the class-code chain, open at random for the local chain."""
    gates = torch.rand(feature.shape[0], generator=generator) < probability
    local = feature * gates.to(feature)[:, None, None, None, None]
    return torch.cat([torch.zeros_like(local), local])


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware has it; elsewhere float32 throughout."""
    fast = device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
