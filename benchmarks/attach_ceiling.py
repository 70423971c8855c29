"""What reconstruction the decoder of `fer attach` reaches when the encoder is trained with it: a ceiling for its IoU.

Run: .venv/bin/python benchmarks/attach_ceiling.py RUN/voxels.h5 resnet.pt [--epochs 8] [--seed 0]

The classifier is that of `attach_resnet.py`. For each level its encoder up to the level and a fresh feedback network from the
level down are trained together on the reconstruction alone, by the recipe's loss, rate and augmentation. What a frozen
classifier's features lack, training the encoder can restore; what is missing then is the decoder's and the level's size.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attach_resnet import build
from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import open_voxels, validation_split
from fer_cli.network.attached.classifier import attach_backbone, explain_attached

LEVELS = ("maxpool", "layer2")
RATE = 8e-3


def features(module: nn.Module, volumes: Tensor, level: str) -> Tensor:
    """The activation of a level of MONAI's ResNet, with gradients."""
    feature = volumes
    for name in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2"):
        feature = getattr(module, name)(feature)
        if name == level:
            return feature
    raise ValueError(level)


def main() -> None:
    """Train both for each level, and print the IoU of the validation samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voxels", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    voxels = open_voxels(options.voxels, in_memory=True)
    kept, held = validation_split(voxels, "train", options.seed)
    augmentation, steps = Augmentation(mirror=True), len(kept) // 32
    occupied = float(voxels.tensor(kept[::8]).mean())
    weight = torch.tensor(((1 - occupied) / occupied) ** 0.25)
    for level in LEVELS:
        torch.manual_seed(options.seed)
        classifier = build(len(voxels.classes))
        classifier.load_state_dict(torch.load(options.weights, weights_only=True))
        classifier.eval().requires_grad_(False)
        looked_at = voxels.tensor(kept[:16])
        network = explain_attached(attach_backbone(classifier, looked_at, voxels.input, voxels.classes)[0])
        encoder, decoder = classifier.train().requires_grad_(True), network.feedback.train()
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs=options.epochs, steps_per_epoch=steps)
        generator = torch.Generator().manual_seed(options.seed)
        for epoch in range(options.epochs):
            order = kept[torch.randperm(len(kept), generator=generator).numpy()]
            for part in np.array_split(order, steps):
                volumes = augmentation.draw(len(part), generator).apply(voxels.tensor(part))
                raw = decoder(features(encoder, volumes, level), level).raw
                loss = nn.functional.binary_cross_entropy_with_logits(raw, volumes, pos_weight=weight)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 5.0)
                optimizer.step()
                schedule.step()
            encoder.eval()
            decoder.eval()
            with torch.no_grad():
                scores = []
                for part in np.array_split(held, len(held) // 32):
                    volumes = voxels.tensor(part)
                    value = network.signal.value(decoder(features(encoder, volumes, level), level).raw)
                    scores.append(next(iter(network.signal.scores(value, volumes).values())))
            encoder.train()
            decoder.train()
            print(f"{level}, epoch {epoch + 1}: validation IoU {float(torch.cat(scores).mean()):.3f}", flush=True)


if __name__ == "__main__":
    main()
