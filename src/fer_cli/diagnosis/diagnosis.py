"""Diagnosis of one sample: evidence of its codes in both paths, and the layer where a wrong class comes in."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.confidence import ReferenceErrors
from fer_cli.calibration.departure import Departure, return_errors
from fer_cli.calibration.temperature import implied_class
from fer_cli.codebooks.reading import Reading, code_distances, read_samples
from fer_cli.codebooks.reconstruction import (
    class_code_reconstruction,
    layer_exemplar,
    local_reconstruction,
    nearest_training_sample,
    representatives,
    table1_errors,
)
from fer_cli.data.formats.volume import spacing_of
from fer_cli.data.sample_input import Sample
from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis import markup
from fer_cli.diagnosis.blame import Blame, find_blame, leading_locations
from fer_cli.diagnosis.categories import LEVEL, Category, categorise
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.repair import Repairer, RepairTest, repair_test, tested_layer
from fer_cli.diagnosis.slicing import Slicing, axis_fields
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.network.backbone import OUTPUT, middle_layer


@dataclass(frozen=True)
class PathReading:
    """What the clusters of one layer say of a sample in one path.

    Evidence is in nats, summed over the layer's locations; divided by `temperature` it is what it proved to be worth on
    validation samples, and can be compared between layers. `speaks_for` is the class with the most evidence. The
    exemplar is the training sample that most of the layer's chosen centroids name. The representative is the feature
    map made of the chosen centroids, decoded to voxel values.
    """

    speaks_for: str
    evidence: dict[str, float]
    temperature: float
    exemplar: str
    exemplar_volume: Float[np.ndarray, "channel x y z"]
    representative: Float[np.ndarray, "channel x y z"]


@dataclass(frozen=True)
class LayerReading:
    """What the clusters of one layer say of a sample; `paths` holds a reading of each path by its name."""

    name: str
    locations: int
    paths: dict[str, PathReading]


@dataclass(frozen=True)
class Suspicion:
    """How unlike a correctly classified sample this one looks.

    `score` is in [0, 1], high is suspicious; `p_value` is the conformal p-value: the share of `n_reference` correctly
    classified validation samples that look at least as suspicious for their predicted class, the sample itself counted
    in on both sides.
    """

    score: float
    p_value: float
    n_reference: int

    @property
    def enough(self) -> bool:
        """Whether there are enough validation samples for a p-value of 0.05."""
        return 1 / (self.n_reference + 1) <= LEVEL

    @property
    def words(self) -> str:
        """How many validation samples look at least as suspicious, each for its predicted class."""
        alike = round(self.p_value * (self.n_reference + 1)) - 1
        look = "looks" if alike == 1 else "look"
        of = f"{alike or 'none'} of {self.n_reference} correctly classified validation samples"
        return f"{of} {look} at least as suspicious for {'its' if alike == 1 else 'their'} class"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `fer explain` says of one sample.

    `label` and `correct` are None where the true class is unknown. `errors` are Table I's four summed
    squared errors, `reference_errors` those of the validation samples, without the ones that cannot be compared because
    theirs start from another local layer. `slicing` is None of occupancy. `departure` is None where the codebook does
    not hold what it is measured against. `repair` holds the repair tests, with the label first, then without; none of
    a correctly classified sample. The four volumes have axes (channel, x, y, z), z up; of
    occupancy, reconstructions hold probabilities. `index_to_world` and `is_placed` are the sample's.
    """

    sample: str
    predicted: str
    label: str | None
    correct: bool | None
    probabilities: dict[str, float]
    errors: dict[str, float]
    reference_errors: ReferenceErrors
    nearest_training_sample: str
    layers: tuple[LayerReading, ...]
    blame: Blame
    repair: tuple[RepairTest, ...]
    departure: Departure | None
    suspicion: Suspicion
    category: Category
    verdict: str
    local_layer: str
    input_volume: Float[np.ndarray, "channel x y z"]
    local_volume: Float[np.ndarray, "channel x y z"]
    nearest_volume: Float[np.ndarray, "channel x y z"]
    class_code_volume: Float[np.ndarray, "channel x y z"]
    slicing: Slicing | None = None
    index_to_world: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    is_placed: bool = False

    @property
    def world(self) -> Float[np.ndarray, "4 4"] | None:
        """The affine map, None where the sample's file tells no place."""
        return self.index_to_world if self.is_placed else None

    @property
    def blames_everything(self) -> bool:
        """Whether all blamed locations see the whole input, so that blame has no place in it."""
        whole = tuple((0, side) for side in self.input_volume.shape[1:])
        return bool(self.blame.boxes) and all(tuple(map(tuple, box)) == whole for box in self.blame.boxes)

    @property
    def pictured_layers(self) -> tuple[LayerReading, ...]:
        """The layers whose representatives are drawn: the upper half, without the output, as in Figs 3, 4, 6."""
        layers = self.layers[:-1]
        lowest = middle_layer([(layer.name, layer.locations) for layer in layers])
        return layers[[layer.name for layer in layers].index(lowest) :]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [
            (
                f"{layer.name} (blamed)" if layer.name == self.blame.layer else layer.name,
                *(layer.paths[path].speaks_for for path in PATHS),
                *(layer.paths[path].exemplar for path in PATHS),
            )
            for layer in self.layers
        ]
        heads = ("layer", "feedforward speaks for", "feedback speaks for", "feedforward exemplar", "feedback exemplar")
        return (
            markup.paragraph(self.sample, self.verdict)
            + markup.paragraph(self.category.name, self.category.criterion)
            + markup.table(heads, rows)
        )


def explain(run: RunArtifacts, sample: Sample, *, local_layer: str | None = None) -> Diagnosis:
    """Read one sample through a run's network and codebooks; the local reconstruction starts at `local_layer`.

    Raises UsageError for an unknown `local_layer`, and what opening the run's artifacts raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    spec = network.spec
    local_layer = local_layer or spec.local_layer
    spec.index(local_layer)
    inputs = sample.volume[None]
    volumes = torch.from_numpy(inputs)
    reading = read_samples(network, codebook, volumes)
    local = local_reconstruction(network, reading, local_layer)
    class_code = class_code_reconstruction(network, codebook, reading)
    nearest = int(nearest_training_sample(codebook, reading)[0])
    nearest_volume = voxels.volumes([nearest])
    predicted = int(reading.predicted[0])
    correct = None if sample.label is None else predicted == sample.label
    blame, repair = _blame_and_repair(run, volumes, reading, predicted, sample.label)
    suspicion = _suspicion(run, reading)
    distances = code_distances(codebook, reading)
    decoded = representatives(network, codebook, reading)
    layers = tuple(_read_layer(run, reading, layer, decoded) for layer in spec.layer_names)
    probabilities = reading.probabilities[0]
    label = None if sample.label is None else spec.classes[sample.label]
    category = categorise(
        _by_class(spec.classes, run.temperatures.calibrated(reading.probabilities)[0]),
        label,
        atypicality=run.typicality.measure(distances, reading.predicted)[0],
        suspicion=suspicion.p_value,
        blame=blame,
    )
    return Diagnosis(
        sample=sample.name,
        predicted=spec.classes[predicted],
        label=label,
        correct=correct,
        probabilities=_by_class(spec.classes, probabilities),
        errors={name: float(v[0]) for name, v in table1_errors(inputs, local, nearest_volume, class_code).items()},
        reference_errors=_comparable(run.calibration.reference_errors, local_layer == spec.local_layer),
        nearest_training_sample=voxels.names[nearest],
        layers=layers,
        blame=blame,
        repair=repair,
        departure=_departure(run, reading, volumes, distances),
        suspicion=suspicion,
        category=category,
        verdict=_verdict(
            spec.classes[predicted],
            float(probabilities[predicted]),
            label,
            category,
            _where(spec.classes[predicted], label, layers, blame),
            suspicion,
        ),
        local_layer=local_layer,
        input_volume=inputs[0],
        local_volume=local[0],
        nearest_volume=nearest_volume[0],
        class_code_volume=class_code[0],
        slicing=_slicing(run, sample, reading, {local_layer: local[0]}) if spec.input.kind == "intensity" else None,
        index_to_world=sample.index_to_world,
        is_placed=sample.is_placed,
    )


def _suspicion(run: RunArtifacts, reading: Reading) -> Suspicion:
    """How suspicious a sample is, and among how many correct validation samples."""
    score = run.calibration.suspicion(reading.confidence_scores())
    return Suspicion(
        float(score[0]), float(run.calibration.p_value(score, reading.predicted)[0]), int(run.calibration.correct.sum())
    )


@torch.inference_mode()
def _slicing(run: RunArtifacts, sample: Sample, reading: Reading, known: dict[str, np.ndarray]) -> Slicing:
    """What slices show beside the four volumes; the reconstructions `known` are not made again."""
    network, spec = run.network, run.network.spec
    layers = spec.layer_names[:-1]
    features = {layer: reading.features[FEEDFORWARD][layer] for layer in layers if layer not in known}
    made = {layer: volumes[0].cpu().numpy() for layer, volumes in network.reconstruct_each(features).items()}
    fields = {layer: axis_fields(network.backbone.receptive_fields(layer)) for layer in spec.map_layers}
    return Slicing(
        spacing=spacing_of(sample.index_to_world) if sample.is_placed else spec.input.spacing,
        reconstructions={layer: (made | known)[layer] for layer in layers},
        fields={layer: found for layer, found in fields.items() if found is not None},
        prepared=run.prepared,
    )


def _blame_and_repair(
    run: RunArtifacts, volumes: Volumes, reading: Reading, predicted: int, label: int | None
) -> tuple[Blame, tuple[RepairTest, ...]]:
    """Blame of a misclassified sample, and the repair tests at the blamed layer.

    Of a sample without label, the layer is the one to blame if the class that its evidence implies were the true one.
    """
    nobody = Blame(None, (), ())
    if label == predicted:
        return nobody, ()
    features, spec = reading.features[FEEDFORWARD], run.network.spec
    donors = Donors(run.network, run.codebook, run.voxels, spec.layer_names[:-1])
    repairer = Repairer(donors, volumes, features, predicted)
    implied = int(implied_class(reading.evidence[FEEDFORWARD], run.temperatures, reading.predicted)[0])
    wanted = implied if label is None else label

    def relevance(layer: str) -> Float[np.ndarray, " location"]:
        return repairer.relevance(layer, wanted)

    blame = find_blame(run.network.backbone, reading, run.temperatures, relevance, predicted=predicted, label=wanted)
    layer = None if blame.layer is None else tested_layer(spec, blame.layer)
    tests: tuple[RepairTest, ...] = ()
    if layer is not None:
        tests = (repair_test(repairer, layer, wanted=wanted, chosen_by="evidence" if label is None else "label"),)
    if layer is not None and label is not None:
        same = replace(tests[0], chosen_by="evidence")
        tests += (same if implied == label else repair_test(repairer, layer, wanted=implied, chosen_by="evidence"),)
    return nobody if label is None else blame, tests


def _departure(
    run: RunArtifacts, reading: Reading, volumes: Volumes, distances: dict[str, Float[np.ndarray, " 1"]]
) -> Departure | None:
    if run.course is None:
        return None
    features = reading.features[FEEDFORWARD]
    [found] = run.course.measure(distances, return_errors(run.network, volumes, features), reading.predicted)
    codes = reading.codes[FEEDFORWARD][found.layer]
    away = run.codebook.layer(FEEDFORWARD, found.layer).location_distances(features[found.layer], codes)[0]
    shape = run.network.spec.map_shape(found.layer)
    return replace(found, locations=leading_locations(away, shape) if len(away) > 1 else ((0, 0, 0),))


def _comparable(errors: ReferenceErrors, same_local_layer: bool) -> ReferenceErrors:
    """Without the errors of local reconstructions, unless those of the sample start from the same layer."""
    return ReferenceErrors(
        *(
            {name: values for name, values in group.items() if same_local_layer or "local" not in name}
            for group in (errors.correct, errors.misclassified)
        )
    )


def _read_layer(
    run: RunArtifacts, reading: Reading, layer: str, decoded: dict[str, dict[str, np.ndarray]]
) -> LayerReading:
    classes = run.network.spec.classes
    paths = {}
    for path in PATHS:
        evidence = reading.evidence[path][layer][0]
        exemplar = int(layer_exemplar(run.codebook, reading, path, layer)[0])
        paths[path] = PathReading(
            speaks_for=classes[int(evidence.argmax())],
            evidence=_by_class(classes, evidence),
            temperature=run.temperatures.evidence[path].get(layer, 1.0),  # the output's evidence is its prediction
            exemplar=run.voxels.names[exemplar],
            exemplar_volume=run.voxels.volumes([exemplar])[0],
            representative=decoded[path][layer][0],
        )
    return LayerReading(layer, len(reading.codes[FEEDFORWARD][layer][0]), paths)


def _verdict(
    predicted: str, probability: float, label: str | None, category: Category, where: str, suspicion: Suspicion
) -> str:
    """Two sentences in plain words."""
    sure = f"{predicted} (probability {probability:.2f})"
    lead = f"Classified as {sure}"
    if label is None:
        lead += ", its true class not known"
    elif label != predicted:
        lead = f"{_article(label).capitalize()} {label} taken for {_article(predicted)} {sure}"
    few = "" if suspicion.enough else ", too few to raise an alarm"
    return f"{lead}: {category.name}. {where}; {suspicion.words}{few}."


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in ("a", "e", "i", "o") else "a"


def _where(predicted: str, label: str | None, layers: tuple[LayerReading, ...], blame: Blame) -> str:
    """What the layers say, as the beginning of a sentence."""
    *below, _ = layers
    if label is None or label == predicted:
        agreeing = sum(layer.paths[FEEDFORWARD].speaks_for == predicted for layer in below)
        return f"The feedforward clusters of {agreeing} of {len(below)} layers speak for {predicted}"
    if blame.layer == OUTPUT:
        favour = f"Up to {below[-1].name} the feedforward clusters favour {label}{_except(below, label, predicted)}"
        return f"{favour}, so the mistake is made in the output"
    start = [layer.name for layer in below].index(str(blame.layer))
    exceptions = _except(below[start:], predicted, label)
    if start == 0:
        return f"Already from {blame.layer} on the feedforward clusters favour {predicted} over {label}{exceptions}"
    return f"The feedforward clusters turn from {label} to {predicted} at {blame.layer}{exceptions}"


def _except(layers: Sequence[LayerReading], favoured: str, other: str) -> str:
    """The layers that do not favour one class over the other, as the end of a clause; empty if all do."""
    evidence = [layer.paths[FEEDFORWARD].evidence for layer in layers]
    names = [layer.name for layer, of in zip(layers, evidence, strict=True) if of[favoured] < of[other]]
    return f" (not at {', '.join(names)})" if names else ""


def _by_class(classes: tuple[str, ...], values: Float[np.ndarray, " klass"]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}
