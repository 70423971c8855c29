from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.codebooks.codebook import Codebook, LayerCodebook, class_evidence, open_codebook
from fer_cli.errors import ArtifactError, LineageError
from fer_cli.network.activations import PATHS
from fer_cli.network.backbone import Level, NetworkSpec
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CODEBOOK, MODEL
from networks import cube
from tiny import Rewrite

SPEC = NetworkSpec((Level("a", 5, (2, 2, 2)), Level("b", 3, (1, 1, 1))), cube(8), ("p", "q", "r"))


def book(seed: int = 0, locations: int = 8, codes: int = 6, filters: int = 5) -> LayerCodebook:
    generator = np.random.default_rng(seed)
    return LayerCodebook(
        centroids=generator.standard_normal((locations, codes, filters)).astype(np.float32),
        histogram=generator.integers(0, 9, (locations, codes, 3)).astype(np.int32),
        exemplar=generator.integers(-1, 40, (locations, codes)).astype(np.int32),
        n_codes=np.full(locations, codes, np.int32),
        bits=32,
    )


def test_evidence_is_the_log_of_the_smoothed_share_over_the_prior() -> None:
    generator = np.random.default_rng(1)
    histogram = generator.integers(0, 7, (4, 6, 3))
    histogram[2, 5] = 0
    prior = np.array([0.5, 0.3, 0.2])
    evidence = class_evidence(histogram, prior)
    assert evidence.shape == (4, 6, 3)
    for location, code, label in np.ndindex(4, 6, 3):
        members = sum(int(histogram[location, code, other]) for other in range(3))
        share = (histogram[location, code, label] + 3 * prior[label]) / (members + 3)
        assert evidence[location, code, label] == pytest.approx(np.log(share / prior[label]), rel=1e-6, abs=1e-7)


def test_code_that_is_empty_or_as_the_prior_is_evidence_of_nothing() -> None:
    prior = np.array([0.5, 0.25, 0.25])
    np.testing.assert_array_equal(class_evidence(np.zeros((2, 3), int), prior), 0)
    np.testing.assert_allclose(class_evidence(np.array([20, 10, 10]), prior), 0, atol=1e-7)


def test_more_members_of_a_class_are_more_evidence_for_it_and_less_for_the_others() -> None:
    prior = np.array([0.6, 0.4])
    table = class_evidence(np.array([[n, 5] for n in range(50)]), prior)
    assert (np.diff(table[:, 0]) > 0).all()
    assert (np.diff(table[:, 1]) < 0).all()


def test_codes_are_those_of_each_location() -> None:
    layer = book()
    feature = torch.randn(7, 5, 4, 2, 1, generator=torch.Generator().manual_seed(0))
    codes = layer.assign(feature)
    assert codes.shape == (7, 8)
    for sample in range(7):
        for location, (x, y, z) in enumerate(np.ndindex(4, 2, 1)):
            vector = feature[sample, :, x, y, z].double().numpy()
            distances = [np.square(vector - centroid).sum() for centroid in layer.centroids[location]]
            assert codes[sample, location] == np.argmin(distances)
    exemplars = layer.chosen_exemplars(codes)
    assert all(exemplars[s, loc] == layer.exemplar[loc, codes[s, loc]] for s, loc in np.ndindex(7, 8))


def test_distances_are_squared_and_summed_over_locations_in_double_precision() -> None:
    layer = book()
    feature = torch.randn(3, 5, 4, 2, 1, generator=torch.Generator().manual_seed(1))
    codes = np.random.default_rng(2).integers(0, 6, (3, 8))
    found = layer.distances(feature, codes)
    assert found.dtype == np.float64
    for sample in range(3):
        expected = 0.0
        for location, (x, y, z) in enumerate(np.ndindex(4, 2, 1)):
            away = feature[sample, :, x, y, z].numpy() - layer.centroids[location, codes[sample, location]]
            expected += float(np.square(away, dtype=np.float64).sum())
        assert found[sample] == pytest.approx(expected, rel=1e-12)


def test_map_of_centroids_has_the_codes_it_was_made_of() -> None:
    layer = book()
    codebook = Codebook(SPEC, np.ones(3) / 3, lambda path, name: layer)
    codes = np.random.default_rng(3).integers(0, 6, (9, 8))
    feature = codebook.feature_map("feedback", "a", codes)
    assert feature.shape == (9, 5, 2, 2, 2)
    for sample, location in np.ndindex(9, 8):
        x, y, z = np.unravel_index(location, (2, 2, 2))
        np.testing.assert_array_equal(
            feature[sample, :, x, y, z].numpy(), layer.centroids[location, codes[sample, location]]
        )
    np.testing.assert_array_equal(layer.assign(feature), codes)


def test_snapping_twice_is_snapping_once(run: Run) -> None:
    for path in PATHS:
        for name in run.network.spec.layer_names:
            layer = run.codebook.layer(path, name)
            codes = np.tile(np.arange(layer.centroids.shape[1])[:, None], (1, len(layer.centroids)))
            feature = run.codebook.feature_map(path, name, codes)
            again = run.codebook.feature_map(path, name, layer.assign(feature))
            assert torch.equal(feature, again)  # equal centroids may have other codes


@pytest.mark.parametrize("samples", [4, 20])  # from six on, the codes of a layer, a table of all is made
def test_evidence_of_codes_is_that_of_their_histograms(samples: int) -> None:
    layer, prior = book(), np.array([0.2, 0.5, 0.3])
    loaded: list[tuple[str, str]] = []

    def load(path: str, name: str) -> LayerCodebook:
        loaded.append((path, name))
        return layer

    codebook = Codebook(SPEC, prior, load)
    codes = np.random.default_rng(3).integers(0, 6, (samples, 8))
    evidence = codebook.evidence("feedback", "a", codes)
    for sample, location in np.ndindex(samples, 8):
        expected = class_evidence(layer.histogram[location, codes[sample, location]], prior)
        np.testing.assert_array_equal(evidence[sample, location], expected)
    codebook.evidence("feedback", "a", codes)
    assert loaded == [("feedback", "a")]  # once


def test_prior_is_the_share_of_each_class(run: Run) -> None:
    np.testing.assert_array_equal(run.codebook.prior, [1 / 3] * 3)


@pytest.mark.parametrize(("locations", "filters"), [(4, 5), (8, 6)])
def test_codebook_of_another_shape_is_refused(locations: int, filters: int) -> None:
    codebook = Codebook(SPEC, np.ones(3) / 3, lambda path, name: book(0, locations, 6, filters))
    message = f"codebook's a has {locations} locations of {filters} filters, but the network has 8 of 5. Run 'fer clu"
    with pytest.raises(ArtifactError, match=message):
        codebook.layer("feedforward", "a")


def test_codebook_without_a_class_is_refused(run: Run, run_paths: RunPaths, tmp_path: Path) -> None:
    histogram = np.zeros((1, 3, 3), np.int32)
    histogram[0, 0] = [5, 0, 5]
    parents = {"voxels": run.voxels.id, "model": run.model.id}
    with ArtifactWriter(tmp_path / "c.h5", CODEBOOK, config={}, parents=parents) as writer:
        writer.set_attribute("precision", {})
        writer.write("feedforward/output/histogram", histogram)
        for name in ("index", "label", "predicted"):
            writer.write(f"calibration/{name}", np.zeros(1, np.int64))
        writer.write("calibration/probability", np.ones((1, 3), np.float32))
    with pytest.raises(ArtifactError, match=r"c\.h5 is damaged: its class counts are \[5, 0, 5\]\. Run 'fer cluster'"):
        open_codebook(tmp_path / "c.h5", run.model, run.network.spec)


def test_another_kind_of_artifact_is_refused(run: Run, run_paths: RunPaths) -> None:
    with pytest.raises(ArtifactError, match="is a fer-voxels file, but a fer-codebook file is needed"):
        open_codebook(run_paths.voxels, run.model, run.network.spec)
    with pytest.raises(ArtifactError, match="Run 'fer cluster' to make it"):
        open_codebook(run_paths.voxels.with_name("none.h5"), run.model, run.network.spec)


def test_codebook_of_another_model_is_refused(run: Run, run_paths: RunPaths, rewrite: Rewrite, tmp_path: Path) -> None:
    bias = "encoder/blocks.output.2.bias"
    rewrite(run.model, tmp_path / "model.h5", {bias: run.model.read(bias) + 1})
    with pytest.raises(LineageError, match="was made from model"):
        open_codebook(run_paths.codebook, open_artifact(tmp_path / "model.h5", MODEL), run.network.spec)
