import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diagnoses import LOCATIONS, diagnosis_of
from fer_cli.calibration.departure import Course, Departure, return_errors
from fer_cli.calibration.temperature import implied_class
from fer_cli.codebooks.reading import code_distances, read_samples
from fer_cli.codebooks.reconstruction import ERRORS, class_code_reconstruction, local_reconstruction, table1_errors
from fer_cli.data.sample_input import Sample
from fer_cli.diagnosis import repair
from fer_cli.diagnosis.answer import Answer, find_answer
from fer_cli.diagnosis.blame import Blame, find_blame
from fer_cli.diagnosis.categories import categorise
from fer_cli.diagnosis.cause import because
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.explain import explain
from fer_cli.diagnosis.repair import Repairer, RepairTest, repair_test
from fer_cli.diagnosis.verdict import where_words
from fer_cli.errors import UsageError
from fer_cli.network.activations import FEEDFORWARD, PATHS, encode
from fer_cli.network.backbone import receptive_field
from fer_cli.run import Run


def test_diagnosis_is_what_its_parts_say(run: Run) -> None:
    sample = run.sample("pole_test_03")
    diagnosis = explain(run, sample, local_layer="conv2")
    reading = read_samples(run.network, run.codebook, torch.from_numpy(sample.volume)[None])
    classes = run.network.spec.classes
    assert diagnosis.predicted == classes[reading.predicted[0]]
    assert list(diagnosis.probabilities) == list(classes)
    assert sum(diagnosis.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert (diagnosis.label, diagnosis.local_layer) == ("pole", "conv2")
    np.testing.assert_array_equal(diagnosis.input_volume, sample.volume)
    np.testing.assert_array_equal(diagnosis.local_volume, local_reconstruction(run.network, reading, "conv2")[0])
    code = class_code_reconstruction(run.network, run.codebook, reading)
    np.testing.assert_array_equal(diagnosis.class_code_volume, code[0])
    nearest = run.voxels.names.index(diagnosis.nearest_training_sample)
    np.testing.assert_array_equal(diagnosis.nearest_volume, run.voxels.volumes([nearest])[0])
    grids = (diagnosis.input_volume, diagnosis.local_volume, diagnosis.nearest_volume, diagnosis.class_code_volume)
    assert {grid.dtype for grid in grids} == {np.dtype(np.float32)}
    errors = table1_errors(*(grid[None] for grid in grids))
    assert diagnosis.errors == {name: float(values[0]) for name, values in errors.items()}
    assert [layer.name for layer in diagnosis.layers] == list(run.network.spec.layer_names)
    for layer in diagnosis.layers:
        for path in PATHS:
            evidence = layer.paths[path].evidence
            assert list(evidence.values()) == pytest.approx(reading.evidence[path][layer.name][0].tolist())
            assert layer.paths[path].speaks_for == max(evidence, key=evidence.__getitem__)
            exemplar = run.voxels.names.index(layer.paths[path].exemplar)
            grid = layer.paths[path].exemplar_volume
            np.testing.assert_array_equal(grid, run.voxels.volumes([exemplar])[0])
            assert grid.dtype == np.float32
            worth = {**run.temperatures.evidence[path], "output": 1.0}[layer.name]
            assert layer.paths[path].temperature == worth
    assert run.views is not None
    seen = run.views.probabilities(run.network, torch.from_numpy(sample.volume)[None])
    suspicion = run.calibration.suspicion({"views": seen[:, reading.predicted[0]]})
    assert diagnosis.suspicion.score == suspicion[0] == pytest.approx(1 - seen[0, reading.predicted[0]], abs=1e-6)
    assert diagnosis.suspicion.by == "views"
    assert diagnosis.viewed is not None
    assert (diagnosis.viewed.number, diagnosis.viewed.predicted) == (24, classes[seen[0].argmax()])
    assert list(diagnosis.viewed.probabilities.values()) == seen[0].tolist()
    assert diagnosis.suspicion.p_value == run.calibration.p_value(suspicion, reading.predicted)[0]
    distances = code_distances(run.codebook, reading)
    grid = torch.from_numpy(sample.volume)[None]
    assert run.course is not None
    errors = return_errors(run.network, grid, reading.features[FEEDFORWARD])
    [departure] = run.course.measure(distances, errors, reading.predicted)
    assert replace(diagnosis.departure, locations=()) == departure
    calibrated = run.temperatures.calibrated(reading.probabilities)[0]
    assert diagnosis.category == categorise(
        dict(zip(classes, calibrated.tolist(), strict=True)),
        diagnosis.label,
        atypicality=run.typicality.measure(code_distances(run.codebook, reading), reading.predicted)[0],
        suspicion=diagnosis.suspicion.p_value,
        blame=diagnosis.blame,
    )


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3", "fc4"])
def test_departure_names_the_locations_farthest_from_their_codes(
    layer: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Departure(layer, score=3.0, margin=1.0, p_value=0.2)
    monkeypatch.setattr(Course, "measure", lambda *_: [found])
    sample = run.sample("pole_test_03")
    reading = read_samples(run.network, run.codebook, torch.from_numpy(sample.volume)[None])
    feature = reading.features[FEEDFORWARD][layer][0].numpy()
    centroids = run.codebook.layer(FEEDFORWARD, layer).centroids
    away = {}
    for number, place in enumerate(np.ndindex(feature.shape[1:])):
        centroid = centroids[number, reading.codes[FEEDFORWARD][layer][0, number]]
        away[place] = float(((feature[:, *place] - centroid) ** 2).sum())
    named = explain(run, sample).departure
    assert named is not None
    assert replace(named, locations=()) == found
    if len(away) == 1:
        assert named.locations == ((0, 0, 0),)
    else:
        assert 1 <= len(named.locations) <= max(1, len(away) // 8)
        assert [away[place] for place in named.locations] == pytest.approx(
            sorted(away.values(), reverse=True)[: len(named.locations)], rel=1e-4
        )


def test_errors_are_held_against_those_of_validation_samples_from_the_same_local_layer(run: Run) -> None:
    sample, calibration = run.sample("pole_test_03"), run.calibration
    same = explain(run, sample, local_layer=run.network.spec.local_layer).reference_errors
    for group, chosen in ((same.correct, calibration.correct), (same.misclassified, ~calibration.correct)):
        assert set(group) == set(ERRORS)
        for name, values in group.items():
            np.testing.assert_array_equal(values, calibration.errors[name][chosen])
    other = explain(run, sample, local_layer="conv1").reference_errors
    assert set(other.correct) == set(other.misclassified) == {"nearest_vs_code", "input_vs_code"}


def test_verdict_says_whether_and_where_it_went_wrong(run: Run) -> None:
    volume = run.voxels.volumes([run.voxels.index_of("beam_test_02")])[0]
    unlabelled = explain(run, Sample("shape", volume, None))
    predicted = unlabelled.predicted
    label = run.network.spec.classes.index(predicted)
    suspicion = unlabelled.suspicion
    assert suspicion.n_reference == run.calibration.correct.sum()
    assert suspicion.enough == (suspicion.n_reference >= 19)
    rarity = f"{suspicion.short}."
    sure = f"{predicted} (probability {unlabelled.probabilities[predicted]:.2f})"
    agreeing = sum(layer.paths["feedforward"].speaks_for == predicted for layer in unlabelled.layers[:-1])
    clusters = f"The clusters of {agreeing} of 4 layers speak for {predicted}"
    assert (unlabelled.label, unlabelled.correct, unlabelled.blame.layer) == (None, None, None)
    kind = unlabelled.category.name
    assert unlabelled.verdict == f"Classified as {sure}, its true class not known: {kind}. {clusters}; {rarity}"
    correct = explain(run, Sample("shape", volume, label))
    assert (correct.correct, correct.blame.layer, correct.blame.margin, correct.blame.locations) == (
        True,
        None,
        None,
        (),
    )
    assert correct.verdict == f"Classified as {sure}: {correct.category.name}. {clusters}; {rarity}"
    evidence = {layer.name: layer.paths[FEEDFORWARD].evidence for layer in correct.layers[:-1]}
    for index, name in enumerate(run.network.spec.classes):
        if index == label:
            continue
        wrong = explain(run, Sample("shape", volume, index))
        assert wrong.correct is False
        assert wrong.blame.layer is not None
        assert wrong.blame.margin is not None
        assert wrong.blame.margin >= 0
        assert wrong.answer == find_answer(wrong.departure, wrong.blame.layer, lowest="conv1")
        where = where_words(
            wrong.answer,
            evidence,
            predicted,
            name,
            like=wrong.nearest.predicted[0],
            margin=wrong.blame.margin,
        )
        assert wrong.verdict == f"A {name} taken for a {sure}{because(wrong.cause)}. {where}; {rarity}"
        assert len(wrong.blame.boxes) == len(wrong.blame.locations) >= 1


@pytest.mark.parametrize(("layer", "locations"), [("conv2", 1 / 8), ("fc4", 1)])
def test_an_unusual_computation_is_what_pictures_point_at(
    layer: str, locations: float, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Course, "measure", lambda *_: [Departure(layer, score=9.0, margin=1.0, p_value=0.004)])
    sample = run.sample("pole_test_03")
    predicted = explain(run, sample).predicted
    wrong = explain(run, replace(sample, label=(run.network.spec.classes.index(predicted) + 1) % 3))
    for found in (wrong, explain(run, replace(sample, label=None))):
        assert found.departure is not None
        assert found.answer == Answer("layer", layer, "anomaly", 0.004)
        assert found.places.locations == found.departure.locations
        assert sum(found.places.weights) == pytest.approx(1)
        assert list(found.places.weights) == sorted(found.places.weights, reverse=True)
        assert found.places.boxes == tuple(
            receptive_field(run.network.backbone, layer, location) for location in found.places.locations
        )
        assert f"The computation departs from the usual, most likely at {layer} (p = 0.004)" in found.verdict
        others = [name for name in run.network.spec.layer_names if name not in (layer, "output")]
        assert not any(re.search(rf"\b{name}\b", found.verdict) for name in others)
    tested = repair.tested_layer(run.network.spec, layer)
    assert {test.layer for test in wrong.repair} == {tested}


def test_nearest_are_training_samples_of_their_class_in_order_of_distance(run: Run) -> None:
    sample = run.sample("pole_test_03")
    found = explain(run, sample)
    local = run.network.spec.local_layer

    def feature(volume: np.ndarray) -> np.ndarray:
        return encode(run.network, torch.from_numpy(volume)[None], [local])[local].numpy()

    for names, volume, klass in (
        (found.nearest.predicted, found.nearest.predicted_volume, found.predicted),
        (found.nearest.true, found.nearest.true_volume, found.label),
    ):
        indices = [run.voxels.names.index(name) for name in names]
        assert 1 <= len(indices) <= 3
        assert {run.voxels.classes[run.voxels.labels[index]] for index in indices} == {klass}
        assert set(indices) <= set(run.voxels.indices("train").tolist())
        held = set(run.model.read("validation/index").tolist())
        label = run.voxels.classes.index(str(klass))
        known = [i for i in run.voxels.indices("train").tolist() if run.voxels.labels[i] == label and i not in held]
        own = feature(sample.volume)
        away = {i: float(np.square(feature(run.voxels.volumes([i])[0]) - own).sum()) for i in known}
        assert [away[i] for i in indices] == sorted(away.values())[:3]
        np.testing.assert_array_equal(volume, run.voxels.volumes(indices[:1])[0])
    unlabelled = explain(run, replace(sample, label=None)).nearest
    assert (unlabelled.true, unlabelled.true_volume) == ((), None)


@pytest.mark.parametrize("name", ["beam_test_02", "plate_test_03", "pole_test_00"])
def test_blame_and_repair_are_those_of_the_label_and_of_the_class_that_the_clusters_imply(run: Run, name: str) -> None:
    config = run.network.spec
    volume = run.sample(name).volume
    volumes = torch.from_numpy(volume)[None]
    reading = read_samples(run.network, run.codebook, volumes)
    predicted = int(reading.predicted[0])
    donors = Donors(run.network, run.codebook, run.voxels, config.layer_names)
    repairer = Repairer(donors, volumes, reading.features[FEEDFORWARD], predicted)
    (implied,) = implied_class(reading.evidence[FEEDFORWARD], run.temperatures, reading.predicted).tolist()

    def blamed(wanted: int) -> Blame:
        def relevance(layer: str) -> np.ndarray:
            return repairer.relevance(layer, wanted)

        return find_blame(run.network.backbone, reading, run.temperatures, relevance, predicted=predicted, label=wanted)

    def tested(wanted: int, layer: str, chosen_by: str) -> RepairTest:
        return repair_test(repairer, layer, wanted=wanted, chosen_by=chosen_by)

    unlabelled = explain(run, Sample("shape", volume, None))
    layer = repair.tested_layer(config, str(unlabelled.answer.layer or blamed(implied).layer))
    assert layer is not None
    assert unlabelled.repair == (tested(implied, layer, "evidence"),)
    assert unlabelled.blame == Blame(None, (), (), None)
    for label in {0, 1, 2} - {predicted}:
        wrong = explain(run, Sample("shape", volume, label))
        assert (wrong.label, wrong.blame) == (config.classes[label], blamed(label))
        assert wrong.category == categorise(
            dict(zip(config.classes, run.temperatures.calibrated(reading.probabilities)[0].tolist(), strict=True)),
            config.classes[label],
            atypicality=run.typicality.measure(code_distances(run.codebook, reading), reading.predicted)[0],
            suspicion=wrong.suspicion.p_value,
            blame=wrong.blame,
        )
        layer = repair.tested_layer(config, str(wrong.answer.layer or wrong.blame.layer))
        assert layer is not None
        assert wrong.repair == (tested(label, layer, "label"), tested(implied, layer, "evidence"))
    assert explain(run, Sample("shape", volume, predicted)).repair == ()


def test_unknown_local_layer_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="no layer 'conv9'"):
        explain(run, run.sample("pole_test_03"), local_layer="conv9")


def test_a_notebook_shows_every_layer_below_the_heads_it_belongs_to() -> None:
    said = diagnosis_of()
    page = said._repr_html_()
    assert page.startswith(
        f"<p><strong>{said.sample}</strong> {said.verdict}</p>"
        f"<p><strong>{said.category.name}</strong> {said.category.criterion}</p><table>"
    )
    cells = re.findall(r"<t[hd] [^>]*>([^<]*)</t[hd]>", page)
    heads = ["layer", "feedforward speaks for", "feedback speaks for", "feedforward exemplar", "feedback exemplar"]
    assert cells[:5] == heads
    names = [f"{name} (answer)" if name == "conv3" else name for name in LOCATIONS]
    assert cells[5::5] == names
    for first, layer in zip(range(5, len(cells), 5), said.layers, strict=True):
        classes = [said.speaks_for for said in layer.paths.values()]
        assert cells[first + 1 : first + 5] == [*classes, "chair_0007", "table_0042"]


def test_a_sample_that_the_network_was_trained_on_is_told(run: Run, tmp_path: Path) -> None:
    held = run.model.read("validation/index").tolist()
    training = [index for index in run.voxels.indices("train").tolist() if index not in held]
    grids = run.voxels.grids(range(len(run.voxels)))
    named = explain(run, run.sample(run.voxels.names[training[4]]))
    assert named.trained_on == run.voxels.names[training[4]]
    assert "the network was trained on this sample" in named.remarks
    np.save(tmp_path / "file.npy", grids[training[4]])
    found = explain(run, run.sample(tmp_path / "file.npy")).trained_on
    first = next(index for index in training if np.array_equal(grids[index], grids[training[4]]))
    assert found == run.voxels.names[first]
    assert (
        f"the network was trained on the same volume: training sample {found} (beam)"
        in explain(run, run.sample(tmp_path / "file.npy")).remarks
    )
    changed = grids[training[4]].copy()
    changed[tuple(np.argwhere(changed)[0])] = 0
    changed[tuple(np.argwhere(grids[training[4]] == 0)[-1])] = 1  # as many voxels as before
    assert not any(np.array_equal(changed, grids[index]) for index in training)
    np.save(tmp_path / "changed.npy", changed)
    new = explain(run, run.sample(tmp_path / "changed.npy"))
    assert new.trained_on is None
    assert not any("trained on" in remark for remark in new.remarks)


def test_a_label_other_than_that_of_the_voxels_is_told(run: Run) -> None:
    other = explain(run, run.sample("beam_test_00", label="pole"))
    assert (other.label, other.own_label) == ("pole", "beam")
    assert "the voxels say beam, the label given is pole" in other.remarks
    for same in (run.sample("beam_test_00", label="beam"), run.sample("beam_test_00")):
        assert explain(run, same).own_label is None
