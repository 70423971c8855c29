import numpy as np
import pytest

from fer_cli.storage.declarations import DatasetSpec, Format
from fer_cli.storage.schema import CALIBRATION, CHECKPOINT, CODEBOOK, FORMATS, MODEL, VOXELS


def test_formats_are_found_by_their_own_names() -> None:
    assert list(FORMATS) == ["fer-voxels", "fer-model", "fer-checkpoint", "fer-codebook", "fer-calibration"]
    assert all(form.name == name and form.version >= 1 for name, form in FORMATS.items())
    assert FORMATS["fer-voxels"] is VOXELS


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_declarations_are_complete(form: Format) -> None:
    names = [spec.name for spec in form.datasets]
    assert len(names) == len(set(names))
    for spec in form.datasets:
        assert spec.meaning
        assert spec.dtype == "text" or np.dtype(spec.dtype).name == spec.dtype
        assert spec.is_family == ("{" in spec.name)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_every_dataset_has_one_declaration(form: Format) -> None:
    for spec in form.datasets:
        name = spec.name.replace("{path}", "feedback").replace("{layer}", "conv1").replace("{parameter}", "a.0.weight")
        name = name.replace("{score}", "max_softmax")
        assert form.spec(name) is spec
        assert [other for other in form.datasets if other.pattern.fullmatch(name)] == [spec]


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (VOXELS, "occupancy2"),
        (VOXELS, "an/occupancy"),
        (VOXELS, ""),
        (MODEL, "encoder/"),
        (MODEL, "encoder/a/b"),
        (MODEL, "weights/a"),
        (CHECKPOINT, "validation/index"),
        (CODEBOOK, "feedforward/conv1/centroids"),
        (CODEBOOK, "feedforward/centroid"),
        (CODEBOOK, "feedforward/deep/conv1/centroid"),
    ],
)
def test_what_is_not_declared_has_no_declaration(form: Format, name: str) -> None:
    assert form.spec(name) is None


def test_placeholder_stands_for_one_part_of_a_path_and_nothing_else_is_a_pattern() -> None:
    spec = DatasetSpec("a.b/{thing}/c", None, "float32", "any")
    assert spec.pattern.fullmatch("a.b/x.y-z 1/c")
    assert not spec.pattern.fullmatch("axb/x/c")
    assert not spec.pattern.fullmatch("a.b//c")


def test_stages_build_on_one_another() -> None:
    assert (VOXELS.parents, MODEL.parents, CODEBOOK.parents) == ((), ("voxels",), ("voxels", "model"))
    assert CHECKPOINT.parents == MODEL.parents
    assert CALIBRATION.parents == ("voxels", "model", "codebook")
    assert [f.command for f in FORMATS.values()] == [
        "fer voxelize",
        "fer train",
        "fer train",
        "fer cluster",
        "fer calibrate",
    ]
