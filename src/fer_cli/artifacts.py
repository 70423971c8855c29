"""The artifacts of a run, opened together; each is checked to be made from the others."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_cli.calibration.confidence import Calibration, load_calibration
from fer_cli.calibration.departure import Course, known_course, load_course, return_errors
from fer_cli.calibration.outliers import InputOutliers
from fer_cli.calibration.p_value import load_predicted
from fer_cli.calibration.surroundings import Neighbourhood, Surroundings
from fer_cli.calibration.temperature import Temperatures, load_evidence, load_temperatures
from fer_cli.calibration.typicality import Typicality, load_distances, load_typicality
from fer_cli.codebooks.codebook import Codebook, open_codebook
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.data.dataset import VoxelSet, open_voxels
from fer_cli.data.preparation import PreparationSettings
from fer_cli.data.sample_input import Sample, load_sample
from fer_cli.data.statistics import statistic_names
from fer_cli.data.turning import Axis
from fer_cli.errors import UsageError, first_line
from fer_cli.network.activations import Columns, batches, encode
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.views import Views, views_from, views_of
from fer_cli.network.weights import load_network, split_as_trained, transform_of
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, MODEL


class RunArtifacts:
    """The artifacts of a run, each opened when first needed.

    With `in_memory` all grids are read at once and held packed, for stages that read most of them, and again and again.
    `module` is the classifier of an attached network that the caller has in memory.

    Every property raises ArtifactError where its file is missing or damaged, LineageError where it was not made from
    the others.
    """

    def __init__(
        self, paths: RunPaths, *, device: torch.device, in_memory: bool = False, module: nn.Module | None = None
    ) -> None:
        self.paths = paths
        self._module = module
        self._device = device
        self._in_memory = in_memory

    @cached_property
    def model(self) -> Artifact:
        """The model artifact."""
        return open_artifact(self.paths.model, MODEL)

    @cached_property
    def network(self) -> ExplainedNetwork:
        """The trained network, on the run's device."""
        return load_network(self.model, device=self._device, module=self._module)

    @cached_property
    def _codebook(self) -> tuple[Codebook, Artifact]:
        return open_codebook(self.paths.codebook, self.model, self.network.spec)

    @property
    def codebook(self) -> Codebook:
        """The codebooks of both paths."""
        return self._codebook[0]

    @cached_property
    def _calibration(self) -> Artifact:
        """What the validation samples say. Older codebooks hold it themselves, until they are calibrated again."""
        _, codebook = self._codebook
        if "calibration/index" in codebook and not self.paths.calibration.exists():
            return codebook
        artifact = open_artifact(self.paths.calibration, CALIBRATION)
        artifact.require_parent("codebook", codebook)
        return artifact

    @property
    def _layers(self) -> tuple[str, ...]:
        """The layers with codes, in order of computation."""
        return self.network.spec.layer_names[:-1]

    @cached_property
    def calibration(self) -> Calibration:
        """Confidence scores of the validation samples."""
        return load_calibration(self._calibration)

    @cached_property
    def views(self) -> Views | None:
        """The views of a sample that its suspicion is a mean over; None where samples are not varied."""
        return views_from(self._calibration.config.get("views"))

    @cached_property
    def training_codes(self) -> TrainingCodes | None:
        """Codes of the training samples at the local layer; None of a calibration that does not hold them."""
        calibration = self._calibration
        if "training/index" not in calibration:
            return None
        index, code = calibration.read("training/index"), calibration.read("training/code")
        return TrainingCodes(calibration.config["local_layer"], index, code)

    @cached_property
    def surroundings(self) -> Surroundings | None:
        """The training samples around the validation samples; None of a calibration that does not hold them."""
        known, calibration = self.training_codes, self._calibration
        if known is None or "calibration/neighbour_vote" not in calibration:
            return None
        probability = "view_probability" if "calibration/view_probability" in calibration else "probability"
        columns = {
            name: calibration.read(f"calibration/{name}")
            for name in ("neighbour_distance", "neighbour_vote", "label", "predicted", probability)
        }
        return Surroundings(
            known,
            self.voxels.labels[known.index],
            Neighbourhood(columns["neighbour_distance"], columns["neighbour_vote"]),
            columns["label"],
            columns["predicted"],
            columns[probability],
        )

    @cached_property
    def outliers(self) -> InputOutliers | None:
        """Plain statistics of the training samples; None of a calibration that does not hold them."""
        if "training/statistic" not in self._calibration:
            return None
        names = statistic_names(self.network.spec.input.kind)
        known = [name for name in ("training/statistic", "training/outlyingness") if name in self._calibration]
        return InputOutliers(names, *map(self._calibration.read, known))

    def chosen_views(self, number: int) -> Views:
        """So many views that vary as those of the calibration, or as in training where it has none.

        Raises UsageError for a number that cannot be taken.
        """
        return replace(self.views or views_of(self.model.config, self.network.spec.input), number=number)

    @cached_property
    def validation_evidence(self) -> dict[str, dict[str, np.ndarray]]:
        """Class evidence of the validation samples, by path and layer."""
        return load_evidence(self._calibration, self._layers)

    @cached_property
    def validation_probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities, and classes, of the validation samples."""
        return self._calibration.read("calibration/probability"), self._calibration.read("calibration/label")

    @cached_property
    def temperatures(self) -> Temperatures:
        """What evidence and log probabilities are divided by, fitted on the validation samples."""
        return load_temperatures(self._calibration, self.codebook.prior, self._layers)

    @cached_property
    def typicality(self) -> Typicality:
        """How far the validation samples lie from their codes."""
        return load_typicality(self._calibration, self._layers)

    @cached_property
    def course(self) -> Course | None:
        """The usual course of the computation; None if the codebook was made before that was stored."""
        return load_course(self._calibration, self.network.spec.layer_names)

    def measured_course(self) -> Course:
        """The same, measured on the validation samples where the calibration does not hold it."""
        if self.course is not None:
            return self.course
        validation = self.model.read("validation/index")
        errors = Columns(len(validation))
        for part in batches(validation):
            volumes = self.voxels.tensor(part)
            errors.add(return_errors(self.network, volumes, encode(self.network, volumes)))
        distances = load_distances(self._calibration, self._layers)
        return known_course(self.network.spec.layer_names, distances, errors.arrays, load_predicted(self._calibration))

    @cached_property
    def voxels(self) -> VoxelSet:
        """The voxel set that the model was trained on."""
        voxel_set = open_voxels(self.paths.voxels, in_memory=self._in_memory)
        self.model.require_parent("voxels", voxel_set.artifact)
        return split_as_trained(voxel_set, self.model)

    @property
    def prepared(self) -> str:
        """What was done to the volumes of files, in a sentence; empty where nothing was, or it is not known."""
        recorded = self.model.config.get("preparation")
        return PreparationSettings.from_json(recorded).words if recorded else ""

    def sample(self, sample: Any, *, label: str | None = None, up: Axis | None = None) -> Sample:
        """The volume that the user's SAMPLE names or is; see `sample_input.load_sample`."""
        return load_sample(
            sample,
            voxelization=self.model.config["voxelization"],
            preparation=self.model.config.get("preparation", {}),
            transform=self._transform,
            input=self.network.spec.input,
            classes=self.network.spec.classes,
            voxels=lambda: self.voxels,
            label=label,
            up=up,
        )

    @property
    def has_transform(self) -> bool:
        """Whether code of the user's turns files into volumes."""
        return self._transform is not None

    @property
    def _transform(self) -> Callable[[], Callable[[Path], Any]] | None:
        """What gives the callable that an attached network's user turns files into volumes by; None if there is none.

        It imports that code, where it is allowed.
        """
        return transform_of(self.model)


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one. Raises UsageError for one that is not here.

    On a GPU float32 is float32 from then on: convolutions would round to TF32's 10 bits, and codes differ from a CPU's.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if not torch.amp.is_autocast_available(device.type):
            raise NotImplementedError("PyTorch has no mixed precision there.")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        reason = "" if "device string" in str(error) else f": {first_line(error)}"
        found = [f"{kind}:{n}" for kind in ("cuda", "xpu") for n in range(getattr(torch, kind).device_count())]
        found += ["mps"] if torch.backends.mps.is_available() else []
        raise UsageError(
            f"device {name!r} cannot be used here{reason}. Give {', '.join(('auto', 'cpu', *found))}."
        ) from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device
