"""Explain one sample: what its codes say in both paths, where it goes wrong, and what that answer rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.confidence import VIEWS, ReferenceErrors
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
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.oddities import remarks_on_sample
from fer_cli.data.sample_input import Sample
from fer_cli.data.statistics import input_statistics
from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis.answer import ANOMALY, Answer, find_answer
from fer_cli.diagnosis.blame import Blame, find_blame, leading_locations
from fer_cli.diagnosis.categories import Category, categorise
from fer_cli.diagnosis.cause import Signs, because, find_cause
from fer_cli.diagnosis.diagnosis import Diagnosis, LayerReading, Nearest, PathReading, Suspicion, Viewed
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.repair import Repairer, RepairTest, repair_test, tested_layer
from fer_cli.diagnosis.signs import read_signs
from fer_cli.diagnosis.slicing import Slicing, axis_fields
from fer_cli.diagnosis.verdict import verdict, where_words
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.network.backbone import OUTPUT, receptive_field

_NEAREST = 3
"""So many training samples of a class are named."""


def explain(
    run: RunArtifacts, sample: Sample, *, local_layer: str | None = None, views: int | None = None
) -> Diagnosis:
    """Read one sample through a run's network and codebooks; the local reconstruction starts at `local_layer`.

    `views` is the number of views that `viewed` is a mean over, by default that of the calibration.

    Raises UsageError for an unknown `local_layer` or a number of views that cannot be taken, and what opening the run's
    artifacts raises.
    """
    spec = run.network.spec
    local_layer = local_layer or spec.local_layer
    spec.index(local_layer)
    volumes = torch.from_numpy(sample.volume[None])
    reading = read_samples(run.network, run.codebook, volumes)
    predicted = int(reading.predicted[0])
    label = None if sample.label is None else spec.classes[sample.label]
    distances = code_distances(run.codebook, reading)
    departure, unusual = _departure(run, reading, volumes, distances)
    repairer = _repairer(run, volumes, reading, predicted)
    wanted, implied = _wanted(run, reading, sample.label)
    turn = _turn(run, reading, repairer, predicted, wanted)
    blame = turn if label not in (None, spec.classes[predicted]) else Blame(None, (), ())
    answer = find_answer(departure, blame.layer, lowest=spec.layer_names[0])
    suspicion, viewed = _suspicion(run, reading, volumes, views)
    decoded = representatives(run.network, run.codebook, reading)
    layers = tuple(_read_layer(run, reading, layer, decoded) for layer in spec.layer_names)
    nearest = _nearest(run, repairer.donors, reading, local_layer, sample.label)
    compared = _compare(run, reading, sample, local_layer)
    category = _category(run, reading, distances, label, suspicion, blame)
    known = {local_layer: compared["local_volume"]}
    repair = _repair_tests(run, repairer, answer.layer or turn.layer, predicted, sample.label, implied)
    signs = read_signs(
        run,
        reading,
        volumes,
        sample.label,
        viewed=reading.probabilities[0] if viewed is None else np.array(list(viewed.probabilities.values())),
        suspicion=suspicion.p_value,
        departure=departure,
    )
    signs = _completed(signs, nearest, repair)
    cause = find_cause(signs)
    trained_on = _trained_on(run, sample, volumes)
    return Diagnosis(
        sample=sample.name,
        predicted=spec.classes[predicted],
        label=label,
        correct=None if sample.label is None else predicted == sample.label,
        probabilities=_by_class(spec.classes, reading.probabilities[0]),
        viewed=viewed,
        layers=layers,
        answer=answer,
        places=unusual if answer.why == ANOMALY else blame,
        blame=blame,
        repair=repair,
        departure=departure,
        suspicion=suspicion,
        nearest=nearest,
        category=category,
        cause=cause,
        signs=signs,
        verdict=verdict(
            predicted=spec.classes[predicted],
            probability=float(reading.probabilities[0, predicted]),
            label=label,
            kind=f": {category.name}" if label in (None, spec.classes[predicted]) else because(cause),
            where=_where(answer, layers, spec.classes[predicted], label, nearest, blame),
            suspicion=suspicion.short,
        ),
        local_layer=local_layer,
        input_volume=sample.volume,
        slicing=_slicing(run, sample, reading, known) if spec.input.kind == "intensity" else None,
        index_to_world=sample.index_to_world,
        is_placed=sample.is_placed,
        remarks=(*_origin_remarks(run, sample, trained_on), *_remarks(run, sample, predicted)),
        source=sample.source,
        turned_from=sample.turned_from,
        trained_on=None if trained_on is None else run.voxels.names[trained_on],
        own_label=None if sample.own_label is None else spec.classes[sample.own_label],
        **compared,
    )


def suspicion_of(run: RunArtifacts, sample: Sample, views: int | None = None) -> Suspicion:
    """How suspicious a sample is, as `explain` says it."""
    volumes = torch.from_numpy(sample.volume[None])
    return _suspicion(run, read_samples(run.network, run.codebook, volumes), volumes, views)[0]


def _trained_on(run: RunArtifacts, sample: Sample, volumes: Volumes) -> int | None:
    """Index of the training sample that `sample` is, or is identical to."""
    training = np.setdiff1d(run.voxels.indices("train"), run.model.read("validation/index"))
    if sample.index is not None and sample.index in training:
        return sample.index
    if run.outliers is not None and run.training_codes is not None:  # no volume of other figures need be read
        figures = input_statistics(volumes, run.network.spec.input.kind)
        training = run.training_codes.index[run.outliers.alike(figures)]
    return run.voxels.first_like(sample.volume, training)


def _origin_remarks(run: RunArtifacts, sample: Sample, trained_on: int | None) -> Iterator[str]:
    """What a reader should know of where a sample comes from: that it was trained on, or has another label."""
    voxels = run.voxels
    if trained_on is not None and trained_on == sample.index:
        yield "the network was trained on this sample"
    elif trained_on is not None:
        of = "" if voxels.labels[trained_on] < 0 else f" ({voxels.classes[voxels.labels[trained_on]]})"
        yield f"the network was trained on the same volume: training sample {voxels.names[trained_on]}{of}"
    if sample.own_label is not None and sample.label is not None:
        classes = run.network.spec.classes
        yield f"the voxels say {classes[sample.own_label]}, the label given is {classes[sample.label]}"


def _remarks(run: RunArtifacts, sample: Sample, predicted: int) -> tuple[str, ...]:
    """What is odd about a shape; its size is compared with training samples of its class, else the predicted one."""
    if run.network.spec.input.kind != "occupancy" or not run.voxels.voxelization:
        return ()
    sizes = run.voxels.training_sizes(predicted if sample.label is None else sample.label)
    inner = VoxelSettings.from_json(run.voxels.voxelization).inner
    edge = float(np.linalg.norm(sample.index_to_world[:3, 0]))
    if sample.index is None and edge == 1.0:  # an array, which tells no scale
        sizes = sizes[:0]
    return remarks_on_sample(sample.volume[0].astype(np.uint8), edge, inner, sizes)


def _category(
    run: RunArtifacts,
    reading: Reading,
    distances: dict[str, Float[np.ndarray, " 1"]],
    label: str | None,
    suspicion: Suspicion,
    blame: Blame,
) -> Category:
    return categorise(
        _by_class(run.network.spec.classes, run.temperatures.calibrated(reading.probabilities)[0]),
        label,
        atypicality=run.typicality.measure(distances, reading.predicted)[0],
        suspicion=suspicion.p_value,
        blame=blame,
    )


def _completed(signs: Signs, nearest: Nearest, repair: tuple[RepairTest, ...]) -> Signs:
    """The signs with the names of neighbours and the repair test by the label."""
    around = signs.around
    if around is not None:
        names = (next(iter(nearest.predicted), None), next(iter(nearest.true), None))
        around = replace(around, nearest=names)
    by_label = next((test for test in repair if test.chosen_by == "label"), None)
    return replace(signs, around=around, repair=by_label)


class _Compared(TypedDict):
    """The part of a diagnosis that compares the input with reconstructions."""

    errors: dict[str, float]
    reference_errors: ReferenceErrors
    nearest_training_sample: str
    local_volume: Float[np.ndarray, "channel x y z"]
    nearest_volume: Float[np.ndarray, "channel x y z"]
    class_code_volume: Float[np.ndarray, "channel x y z"]


def _compare(run: RunArtifacts, reading: Reading, sample: Sample, local_layer: str) -> _Compared:
    network, codebook, voxels = run.network, run.codebook, run.voxels
    local = local_reconstruction(network, reading, local_layer)
    class_code = class_code_reconstruction(network, codebook, reading)
    nearest = int(nearest_training_sample(codebook, reading)[0])
    volume = voxels.volumes([nearest])
    errors = table1_errors(sample.volume[None], local, volume, class_code)
    return _Compared(
        errors={name: float(values[0]) for name, values in errors.items()},
        reference_errors=_comparable(run.calibration.reference_errors, local_layer == network.spec.local_layer),
        nearest_training_sample=voxels.names[nearest],
        local_volume=local[0],
        nearest_volume=volume[0],
        class_code_volume=class_code[0],
    )


def _suspicion(
    run: RunArtifacts, reading: Reading, volumes: Volumes, number: int | None
) -> tuple[Suspicion, Viewed | None]:
    """How suspicious a sample is, and its mean over `number` views or those of the calibration."""
    scores, calibration, shown = reading.confidence_scores(), run.calibration, run.views
    seen = None
    if shown is not None:
        seen = shown.probabilities(run.network, volumes)
        scores[VIEWS] = seen[:, int(reading.predicted[0])]
    if number is not None and (shown is None or number != shown.number):
        shown = run.chosen_views(number)
        seen = shown.probabilities(run.network, volumes)
    score = calibration.suspicion(scores)
    p_value = calibration.p_value(score, reading.predicted)
    suspicion = Suspicion(float(score[0]), float(p_value[0]), int(calibration.correct.sum()), calibration.alarm)
    if shown is None or seen is None:
        return suspicion, None
    return suspicion, Viewed(shown.number, _by_class(run.network.spec.classes, seen[0]))


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


def _repairer(run: RunArtifacts, volumes: Volumes, reading: Reading, predicted: int) -> Repairer:
    donors = Donors(run.network, run.codebook, run.voxels, run.network.spec.layer_names[:-1])
    return Repairer(donors, volumes, reading.features[FEEDFORWARD], predicted)


def _wanted(run: RunArtifacts, reading: Reading, label: int | None) -> tuple[int, int]:
    """The class that blame is to compare with the predicted one, and the class that the evidence implies."""
    implied = int(implied_class(reading.evidence[FEEDFORWARD], run.temperatures, reading.predicted)[0])
    return implied if label is None else label, implied


def _turn(run: RunArtifacts, reading: Reading, repairer: Repairer, predicted: int, wanted: int) -> Blame:
    """Where the evidence turns from the class wanted to the predicted one; none where they are the same."""
    if wanted == predicted:
        return Blame(None, (), ())

    def relevance(layer: str) -> Float[np.ndarray, " location"]:
        return repairer.relevance(layer, wanted)

    return find_blame(run.network.backbone, reading, run.temperatures, relevance, predicted=predicted, label=wanted)


def _repair_tests(
    run: RunArtifacts, repairer: Repairer, layer: str | None, predicted: int, label: int | None, implied: int
) -> tuple[RepairTest, ...]:
    """The repair tests of a sample that is or may be misclassified, at `layer` or the highest below it that serves."""
    if layer is None or label == predicted:
        return ()
    tested = tested_layer(run.network.spec, layer)
    if tested is None:
        return ()
    if label is None:
        return (repair_test(repairer, tested, wanted=implied, chosen_by="evidence"),)
    by_label = repair_test(repairer, tested, wanted=label, chosen_by="label")
    if implied == label:
        return by_label, replace(by_label, chosen_by="evidence")
    return by_label, repair_test(repairer, tested, wanted=implied, chosen_by="evidence")


def _nearest(run: RunArtifacts, donors: Donors, reading: Reading, layer: str, label: int | None) -> Nearest:
    """The training samples of the predicted and of the true class that are nearest by the features of a layer."""
    feature, classes = reading.features[FEEDFORWARD][layer], (int(reading.predicted[0]), label)
    of_predicted, of_true = (
        () if of is None else donors.nearest(layer, feature, of, _NEAREST, run.training_codes) for of in classes
    )
    names, volumes = run.voxels.names, run.voxels.volumes
    return Nearest(
        predicted=tuple(names[index] for index in of_predicted),
        true=tuple(names[index] for index in of_true),
        predicted_volume=volumes([of_predicted[0]])[0] if of_predicted else None,
        true_volume=volumes([of_true[0]])[0] if of_true else None,
    )


def _departure(
    run: RunArtifacts, reading: Reading, volumes: Volumes, distances: dict[str, Float[np.ndarray, " 1"]]
) -> tuple[Departure | None, Blame]:
    """The departure, and its locations as places with shares of the distance to their codes."""
    if run.course is None:
        return None, Blame(None, (), ())
    features, backbone = reading.features[FEEDFORWARD], run.network.backbone
    [found] = run.course.measure(distances, return_errors(run.network, volumes, features), reading.predicted)
    away = np.ones(1)
    if found.layer != OUTPUT:
        codes = reading.codes[FEEDFORWARD][found.layer]
        away = run.codebook.layer(FEEDFORWARD, found.layer).location_distances(features[found.layer], codes)[0]
    shape = run.network.spec.map_shape(found.layer)
    locations = leading_locations(away, shape) if len(away) > 1 else ((0, 0, 0),)
    far = np.array([away.reshape(shape)[location] if len(away) > 1 else 1.0 for location in locations])
    boxes = tuple(receptive_field(backbone, found.layer, location) for location in locations)
    places = Blame(found.layer, locations, boxes, None, tuple((far / far.sum()).tolist()))
    return replace(found, locations=locations), places


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


def _evidence(layers: Sequence[LayerReading]) -> dict[str, dict[str, float]]:
    """Feedforward evidence of the layers below the output."""
    return {layer.name: layer.paths[FEEDFORWARD].evidence for layer in layers[:-1]}


def _where(
    answer: Answer,
    layers: Sequence[LayerReading],
    predicted: str,
    label: str | None,
    nearest: Nearest,
    blame: Blame,
) -> str:
    like = next(iter(nearest.predicted), None)
    return where_words(answer, _evidence(layers), predicted, label, like=like, margin=blame.margin)


def _by_class(classes: tuple[str, ...], values: Float[np.ndarray, " klass"]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}
