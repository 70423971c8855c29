"""Compare voxel weights in the loss of intensities: train the feedback network of a finished run again with each weighting.

    python benchmarks/intensities.py RUN --epochs 20 [--seed 0]

Prints, on the validation split, PSNR in dB and SSIM of local reconstructions and of those from the lowest layer: over all
voxels, over the foreground (more than a standard deviation from the volume's median) and over edges (the tenth of the
voxels with the steepest gradient). PSNR's range is the volume's own. SSIM counts windows by the voxel in their middle.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from fer_cli.data.dataset import open_voxels, validation_split
from fer_cli.network.activations import batches
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.fer_cnn import explain_classifier
from fer_cli.network.loop import TrainingLoop
from fer_cli.network.phases import FeedbackPhase, TrainingData
from fer_cli.network.signal import Intensity, deviations, structural_similarity
from fer_cli.network.training import preset_settings, volume_settings
from fer_cli.network.weights import load_classifier
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import MODEL


class ByGradient(Intensity):
    """Voxels weigh more by the steepness of the volume in the place of their distance from the background."""

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor, reduction: str) -> Tensor:
        """See `Signal.loss`."""
        distance = ((raw - target) * weight[:, None, None, None, None]).abs()
        steep = steepness(target)
        weights = 1 + self.emphasis * (steep / steep.mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-9)).clamp(max=3)
        distance = distance * weights / weights.mean((1, 2, 3, 4), keepdim=True)
        return distance.sum() if reduction == "sum" else distance.mean()


WEIGHTINGS: dict[str, Callable[[], Intensity]] = {
    "every voxel alike": lambda: Intensity(0.0),
    "1 + deviation": lambda: Intensity(1.0),
    "1 + 3 deviations": lambda: Intensity(3.0),
    "1 + steepness": lambda: ByGradient(1.0),
}


def main(
    run: Path,
    epochs: int = 20,
    seed: int = 0,
    only: Annotated[list[str] | None, typer.Option(help="Weightings to try; all.")] = None,
) -> None:
    """Train and score."""
    voxels = open_voxels(run / "voxels.h5", in_memory=True)
    with open_artifact(run / "model.h5", MODEL) as artifact:
        preset = artifact.config["training"]["preset"]
        classifier = load_classifier(artifact)[0].eval().requires_grad_(False)
    settings = volume_settings(preset_settings(preset, feedback_epochs=epochs, seed=seed), "intensity")
    data = TrainingData(voxels, *validation_split(voxels, "train", seed), torch.device("cpu"))
    print("| weights | level | PSNR | foreground | edges | SSIM | foreground | edges | s |", flush=True)
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in only or WEIGHTINGS:
        torch.manual_seed(seed)
        network = explain_classifier(classifier)
        network.signal = WEIGHTINGS[name]()
        with TemporaryDirectory() as folder:
            loop = TrainingLoop(data, settings, {}, {"voxels": voxels.id}, Path(folder) / "c.h5", lambda _: None)
            loop.run_phase(FeedbackPhase(data, settings, network, classifier), None)
        seconds = sum(record.seconds for record in loop.history)
        for level in (network.spec.local_layer, network.spec.layer_names[0]):
            found = scores(network, data, level)
            print(f"| {name} | {level} | {' | '.join(f'{value:.3f}' for value in found)} | {seconds:.0f} |", flush=True)


@torch.inference_mode()
def scores(network: ExplainedNetwork, data: TrainingData, level: str) -> np.ndarray:
    """PSNR of all voxels, of the foreground and of edges, and SSIM of the same; means over the validation samples."""
    network.eval()
    found = []
    for indices in batches(data.validation):
        target, _ = data.batch(indices)
        value = network.reconstruct(network.backbone.features(target, [level])[level], level)
        spread = target.flatten(1).amax(1) - target.flatten(1).amin(1)
        errors = (value - target).square() / spread.view(-1, 1, 1, 1, 1).square()
        similarity = structural_similarity(value, target, spread)
        steep = steepness(target)
        edges = steep >= steep.flatten(1).quantile(0.9, dim=1).view(-1, 1, 1, 1, 1)
        masks = [torch.ones_like(edges), deviations(target) > 1, edges]
        sides = zip(target.shape[2:], similarity.shape[2:], strict=True)
        centres = [slice(start := (of - to) // 2, start + to) for of, to in sides]
        for each in range(len(target)):
            psnr = [-10 * np.log10(float(errors[each][mask[each]].mean())) for mask in masks]
            inner = [mask[each][:, *centres] for mask in masks]
            ssim = [float(similarity[each][mask].mean()) if mask.any() else np.nan for mask in inner]
            found.append([*psnr, *ssim])
    return np.nanmean(np.array(found), axis=0)


def steepness(volumes: Tensor) -> Tensor:
    """Norm of the gradient by central differences."""
    return torch.stack(torch.gradient(volumes, dim=(2, 3, 4))).square().sum(0).sqrt()


if __name__ == "__main__":
    typer.run(main)
