"""What the two phases of training minimise and measure: the classifier's, and the feedback network's.

A phase gives the loss of a batch and the validation of a module; the loop that drives it is in `training`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VolumeSet
from fer_cli.data.loading import Loader
from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.transfer import moved
from fer_cli.execution.world import ALONE, World
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, batches
from fer_cli.network.backbone import NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.precision import mixed_precision

ATTACHED = "attached"
"""In the place of a preset, where the classifier is somebody's and has no phase of its own."""
_WIDEST = 512
"""Most inputs of a layer that learns at the full rate, where the feedback network has no batch norm; measured,
docs/adr/0029."""
_NO_SQUARE = 1e-24
"""Features of a smaller mean square are as good as zero; with them there is no relative distance."""
MOST_TIMES = 10
"""So many times the feedback epochs at most, however few the samples are; an epoch ends with a checkpoint."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the outcome of a training run, beside the voxels and the machine.

    `average_decay` is a step's; `gate_probability` that a skip gate is open for a sample; `class_code_share` of the
    samples enter the feedback network at the class probabilities; `feature_weight` weighs the feature-matching term of
    the feedback loss against cross-entropy. With no `feedback_epochs` a classifier is trained alone. Where there are so
    few samples that the feedback network would be shown fewer than `feedback_shown`, one counted as often as it is
    shown, it has more epochs (`for_samples`). With `balance` every class has the same weight in the classifier's loss,
    however many samples it has.
    """

    preset: str = "compact"
    epochs: int = 30
    feedback_epochs: int = 24
    feedback_shown: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-3
    feedback_learning_rate: float = 8e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.4
    augmentation: Augmentation = field(default=Augmentation(shift=2, mirror=True, rotation=10.0, stretch=0.15))
    feedback_augmentation: Augmentation = field(default=Augmentation(mirror=True))
    average_decay: float = 0.995
    gate_probability: float = 0.25
    class_code_share: float = 0.2
    feature_weight: float = 0.5
    balance: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in (*PRESETS, ATTACHED):
            raise UsageError(f"there is no preset {self.preset!r}; the presets are {', '.join(PRESETS)}.")
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError("training needs at least one epoch and a batch size of 2.")
        if self.feedback_epochs < (1 if self.preset == ATTACHED else 0):
            raise UsageError(f"the feedback network cannot have {self.feedback_epochs} epochs.")
        if self.feedback_shown < 0:
            raise UsageError("the feedback network cannot be shown fewer than 0 samples.")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label smoothing is a share from 0 to below 1, not {self.label_smoothing:g}.")
        for rate in (self.learning_rate, self.feedback_learning_rate):
            if not 0 < rate < np.inf:
                raise UsageError(f"a learning rate is a number above 0, not {rate:g}.")

    def for_samples(self, samples: int) -> "TrainingSettings":
        """Scale the feedback epochs to the size of the training set."""
        epochs = min(-(-self.feedback_shown // samples), MOST_TIMES * self.feedback_epochs)
        return replace(self, feedback_epochs=max(self.feedback_epochs, epochs))


@dataclass(frozen=True)
class TrainingData:
    """Indices of training and validation samples, the device, and the processes that share a batch."""

    voxels: VolumeSet
    training: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    device: torch.device
    world: World = ALONE

    def batch(self, indices: Int[np.ndarray, " batch"]) -> tuple[Volumes, Int[Tensor, " batch"]]:
        """Volumes and labels of the given samples, on the device."""
        labels = torch.from_numpy(self.voxels.labels[indices])
        return self._loader.batch(indices), moved(labels, self.device)

    @cached_property
    def _loader(self) -> Loader:
        return Loader(self.voxels, self.device)

    def varied_batch(
        self, indices: Int[np.ndarray, " batch"], augmentation: Augmentation, generator: torch.Generator
    ) -> tuple[Volumes, Int[Tensor, " share"]]:
        """Its varied shapes of a batch that fall to this process; `generator` draws for all in every process."""
        variations = augmentation.draw(len(indices), generator)[self.world.rows]
        volumes, labels = self.batch(indices[self.world.rows])
        return variations.apply(volumes), labels


Terms = dict[str, Tensor]
"""Named terms of a loss, each summed over a process's share of a batch and divided by the whole batch's count, so that
their sum over processes is the loss of the batch."""


class FeedforwardPhase:
    """Cross-entropy with label smoothing on varied samples.

    Of each phase `rate_option` is the option that sets its learning rate, and no batch has less than `fewest` samples.
    A layer of more inputs than `widest` has a learning rate as much lower; None where normalisation makes up for it.
    """

    name = FEEDFORWARD
    score_name = "accuracy"
    rate_option = "--learning-rate"
    fewest = 2
    widest: int | None = None
    frozen_encoder: nn.Module | None = None

    def __init__(self, data: TrainingData, settings: TrainingSettings, encoder: nn.Module) -> None:
        self.data = data
        self.settings = settings
        self.module = encoder
        self.epochs = settings.epochs
        self.learning_rate = settings.learning_rate
        self.class_weights: Tensor | None = None
        if settings.balance:
            counts = np.bincount(data.voxels.labels[data.training], minlength=len(data.voxels.classes))
            weights = len(data.training) / (len(counts) * np.maximum(counts, 1))
            self.class_weights = torch.from_numpy(weights).float().to(data.device)

    def terms(self, module: nn.Module, indices: Int[np.ndarray, " batch"], generator: torch.Generator) -> Terms:
        """Loss of a batch of training samples; `module` is `self.module`, or what wraps it."""
        grids, labels = self.data.varied_batch(indices, self.settings.augmentation, generator)
        with mixed_precision(self.data.device):
            logits = module(grids)
        smoothing = self.settings.label_smoothing
        if self.class_weights is None:
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum")
        else:
            # Weights of samples: those of cross_entropy weigh what is smoothed towards rare classes by these classes.
            each = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="none")
            loss = (each * self.class_weights[labels]).sum()
        return {"class": loss / len(indices)}

    @torch.no_grad()
    def validate(self, module: nn.Module) -> tuple[float, float]:
        """Cross-entropy and accuracy."""
        module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.data.device)
        for indices in batches(self.data.validation[self.data.world.rows]):
            grids, labels = self.data.batch(indices)
            with mixed_precision(self.data.device):
                logits = module(grids).float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) == labels).sum()
        loss, correct = (self.data.world.sum(sums.cpu()) / len(self.data.validation)).tolist()
        return loss, correct


class FeedbackPhase:
    """The signal's loss of reconstructions, and the distance of feedback features to the backbone's.

    Every sample of a batch enters the feedback network at a level of its own: a fixed share at the class
    probabilities, with every gate shut below; the others spread over the layers (`entry_shares`), with gates below
    their entry open at random. So every level's batch norm sees at every step the mixture that it will see later.
    """

    name = FEEDBACK
    rate_option = "--feedback-learning-rate"

    def __init__(
        self, data: TrainingData, settings: TrainingSettings, network: ExplainedNetwork, frozen: nn.Module | None
    ) -> None:
        self.data = data
        self.settings = settings
        self.network = network
        self.widest = _WIDEST if settings.preset == ATTACHED else None
        self.fewest = 2 * len(network.spec.layer_names)  # a level's batch norm needs several samples
        self.module: nn.Module = network.feedback
        self.frozen_encoder = frozen
        self.epochs = settings.feedback_epochs
        self.score_name = network.signal.score_name
        self.learning_rate = settings.feedback_learning_rate
        sample = data.training[:: max(1, len(data.training) // 512)]
        self.mean_squares, mean, deviation = self._measure(sample)
        self.level_weights = network.signal.level_weights(network.spec, mean, deviation)
        self.entry_shares = entry_shares(network.spec, settings.class_code_share)

    @torch.no_grad()
    def _measure(self, sample: Int[np.ndarray, " sample"]) -> tuple[dict[str, float], float, float]:
        """Mean square of the backbone's feature at every level; mean and standard deviation of the voxels."""
        sums: dict[str, float] = {}
        mean = square = 0.0
        for indices in batches(sample):
            volumes, _ = self.data.batch(indices)
            mean += float(volumes.double().mean()) * len(indices) / len(sample)
            square += float(volumes.double().square().mean()) * len(indices) / len(sample)
            with mixed_precision(self.data.device):
                features = self.network.backbone.features(volumes)
            for level, feature in features.items():
                sums[level] = sums.get(level, 0.0) + float(feature.float().square().mean()) * len(indices)
        mean_squares = {level: total / len(sample) if total > _NO_SQUARE else 1.0 for level, total in sums.items()}
        deviation = math.sqrt(max(0.0, square - mean**2))
        return mean_squares, mean, deviation if deviation > 1e-6 * abs(mean) else 0.0  # less is rounding

    def terms(self, module: nn.Module, indices: Int[np.ndarray, " batch"], generator: torch.Generator) -> Terms:
        """Loss of a batch of training samples; `module` is `self.module`, or what wraps it."""
        settings, world = self.settings, self.data.world
        levels = self.network.spec.layer_names[::-1]
        indices = np.resize(indices, max(len(indices), self.fewest))  # a smaller batch is repeated
        volumes, _ = self.data.varied_batch(indices, settings.feedback_augmentation, generator)
        entries = draw_entries(len(indices), self.entry_shares, generator)
        gates = torch.rand(len(indices), len(levels), generator=generator) < settings.gate_probability
        gates &= (entries[:, None] > 0) & (entries[:, None] < torch.arange(len(levels)))
        whole = torch.bincount(entries, minlength=len(levels)).cumsum(0)
        # Entries ascend, so the samples that a level holds are the first ones; from here on, of this share.
        entries, gates = entries[world.rows], moved(gates[world.rows], self.data.device)
        held = torch.bincount(entries, minlength=len(levels)).cumsum(0).tolist()
        start = next(i for i, count in enumerate(held) if count)
        with mixed_precision(self.data.device):
            with torch.no_grad():
                targets = self.network.backbone.features(volumes)

            def join(level: str, feature: Tensor) -> Tensor:
                rows = slice(len(feature), held[levels.index(level)])
                return torch.cat([feature, targets[level][rows].to(feature.dtype)])

            skips = {
                level: targets[level][:count] * gate[:count, None, None, None, None]
                for level, count, gate in zip(levels, held, gates.T, strict=True)
                if level in levels[start + 1 :]
            }
            decoding = module(targets[levels[start]][: held[start]], levels[start], skips=skips, edit=join)
        weights = moved(self.level_weights[entries], self.data.device)
        voxels = self.network.signal.loss(decoding.raw.float(), volumes, weights, "sum")
        distances = [
            # Below its entry only: what enters at a level is the target itself.
            (decoding.features[level][:above].float() - targets[level][:above].float()).square().sum()
            / (self.mean_squares[level] * targets[level][0].numel() * count)
            for level, above, count in zip(levels[1:], held, whole.tolist(), strict=False)
            if count and level in decoding.features
        ]
        return {
            "voxel": voxels / (volumes[0].numel() * len(indices)),
            "feature": settings.feature_weight * self._mean_distance(distances, int((whole[:-1] > 0).sum())),
        }

    def _mean_distance(self, distances: list[Tensor], levels: int) -> Tensor:
        """Sum of the batch's distances by level, divided by the number of levels decoded; 0 if none was."""
        return torch.stack(distances).sum() / levels if distances else torch.zeros((), device=self.data.device)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> tuple[float, float]:
        """Loss and score of reconstructions of the validation samples from the local layer, without skip connections.

        Both are means over samples; see `Signal.loss` and `Signal.scores`.
        """
        module.eval()
        layer, signal = self.network.spec.local_layer, self.network.signal
        weight = moved(self.level_weights[[self.network.spec.layer_names[::-1].index(layer)]], self.data.device)
        sums = torch.zeros(2, dtype=torch.float64, device=self.data.device)
        for indices in batches(self.data.validation[self.data.world.rows]):
            volumes, _ = self.data.batch(indices)
            with mixed_precision(self.data.device):
                decoding = module(self.network.backbone.features(volumes, [layer])[layer], layer)
            loss = signal.loss(decoding.raw.float(), volumes, weight.expand(len(indices)), "mean")
            score, *_ = signal.scores(signal.value(decoding.raw), volumes).values()
            sums[0] += loss * len(indices)
            sums[1] += score.sum()
        loss, score = (self.data.world.sum(sums.cpu()) / len(self.data.validation)).tolist()
        return loss, score


Phase = FeedforwardPhase | FeedbackPhase


def entry_shares(spec: NetworkSpec, class_code_share: float) -> Float[Tensor, " level"]:
    """Share of the samples that enter at each level, from the output down.

    What the class probabilities leave is spread over the layers: dense layers get little, since they differ little
    from the probabilities, and the layer of local reconstructions twice as much as the others.
    """
    weights = torch.tensor(
        [
            2.0 if level.name == spec.local_layer else 0.4 if level.locations == 1 and level.field == "whole" else 1.0
            for level in spec.levels[::-1]
        ]
    )
    return torch.cat([torch.tensor([class_code_share]), weights / weights.sum() * (1 - class_code_share)])


def draw_entries(count: int, shares: Float[Tensor, " level"], generator: torch.Generator) -> Int[Tensor, " sample"]:
    """Ascending entry levels of a batch's samples, each level with its share.

    Systematic sampling: one draw places a regular comb on the cumulative shares, so that the counts of a level differ
    by at most one from batch to batch.
    """
    comb = (torch.arange(count) + torch.rand(1, generator=generator)) / count
    return torch.searchsorted(shares.cumsum(0), comb, right=True).clamp(max=len(shares) - 1)
