import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fer_cli import __version__
from fer_cli.errors import ArtifactError, LineageError, ResourceError
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.declarations import Format
from fer_cli.storage.schema import FORMATS, VOXELS

LENGTHS = {"sample": 5, "x": 8, "y": 4, "z": 2, "row": 4, "column": 4, "skipped": 0, "dropped": 0}
TEXTS = ["plain", "größe × 3", "", "newline\n", "日本語/椅子", 'tab\t"quoted"', "x" * 300]


def content(form: Format, seed: int = 0) -> dict[str, Any]:
    """Something in every declared dataset; two members of each family that has any shape."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for spec in form.datasets:
        name = spec.name.replace("{path}", "feedback").replace("{layer}", "conv1").replace("{score}", "max_softmax")
        for member in [name.format(parameter=p) for p in ("a.weight", "b.bias")] if "{p" in name else [name]:
            axes = ("row", "x", "z") if spec.axes is None else spec.axes
            shape = tuple(LENGTHS.get(axis, 3 + len(axis) % 4) for axis in axes)
            if spec.dtype == "text":
                arrays[member] = [TEXTS[i % len(TEXTS)] for i in range(shape[0])]
            elif np.dtype(spec.dtype).kind == "f":
                arrays[member] = generator.standard_normal(shape).astype(spec.dtype)
                arrays[member].flat[:3] = [np.inf, -0.0, np.finfo(spec.dtype).tiny]
            else:
                arrays[member] = generator.integers(0, 2, shape).astype(spec.dtype)
    return arrays


def write(path: Path, form: Format = VOXELS, arrays: dict[str, Any] | None = None, **options: Any) -> ArtifactWriter:
    options = {"config": {"größe": [1, 2.5, None]}, "parents": dict.fromkeys(form.parents, "ab" * 16)} | options
    with ArtifactWriter(path, form, **options) as writer:
        for name, array in (content(form) if arrays is None else arrays).items():
            writer.write(name, array)
    return writer


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_what_is_written_is_read(form: Format, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    arrays = content(form)
    writer = write(path, form, seed=7, attributes={"classes": ["a", "ß"]})
    with open_artifact(path) as artifact:
        assert (artifact.path, artifact.form, artifact.id) == (path, form, writer.id)
        assert artifact.config == {"größe": [1, 2.5, None]}
        assert artifact.parents == dict.fromkeys(form.parents, "ab" * 16)
        assert (artifact.seed, artifact.created_by) == (7, f"fer {__version__}")
        assert artifact.attribute("classes") == ["a", "ß"]
        assert artifact.names() == sorted(arrays)
        for name, array in arrays.items():
            assert name in artifact
            if isinstance(array, list):
                assert artifact.read_text(name) == array
            else:
                stored = artifact.read(name)
                assert (stored.dtype, stored.shape, artifact.shape(name)) == (array.dtype, array.shape, array.shape)
                assert stored.tobytes() == array.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_attributes_may_be_set_while_writing_and_count_for_the_id(tmp_path: Path) -> None:
    given = write(tmp_path / "a.h5", attributes={"classes": ["a", "ß"]})
    with ArtifactWriter(tmp_path / "b.h5", VOXELS, config={"größe": [1, 2.5, None]}, parents={}) as writer:
        for name, array in content(VOXELS).items():
            writer.write(name, array)
        writer.set_attribute("classes", ["a", "ß"])
        with pytest.raises(ValueError, match="'config' is an attribute that every artifact has"):
            writer.set_attribute("config", {})
    assert writer.id == given.id
    with open_artifact(tmp_path / "b.h5") as artifact:
        assert artifact.attribute("classes") == ["a", "ß"]


def test_parts_are_read_by_selection_and_by_prefix(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    occupancy = content(VOXELS)["occupancy"]
    with open_artifact(tmp_path / "a.h5", VOXELS) as artifact:
        assert artifact.seed is None
        for selection in (2, slice(1, 4), [0, 3, 4], (slice(None), 7, 3)):
            np.testing.assert_array_equal(artifact.read("occupancy", selection), occupancy[selection])
        for rows in ([], [0], [4], [1, 2], [0, 2, 3, 4], range(5), [-1], [-1, 0], [3, 3, 1], [-5, 4]):
            chosen = np.array(rows, np.int64)
            np.testing.assert_array_equal(artifact.read("occupancy", chosen), occupancy[chosen])
        assert artifact.names("skipped/") == ["skipped/reason", "skipped/source"]
        assert "nothing" not in artifact
        for access in (artifact.read, artifact.read_text, artifact.shape):
            with pytest.raises(ArtifactError, match=r"a\.h5 holds no dataset 'nothing'"):
                access("nothing")
        with pytest.raises(ArtifactError, match=r"a\.h5 has no usable attribute 'classes'"):
            artifact.attribute("classes")


def test_same_content_is_the_same_file_to_the_byte(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, seed=3) for name in ("a.h5", "b.h5"))
    assert one.id == two.id
    assert len(one.id) == 32
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_any_other_content_has_another_id(form: Format, tmp_path: Path) -> None:
    arrays = content(form)
    parents = dict.fromkeys(form.parents, "ab" * 16)
    ids = {write(tmp_path / "a.h5", form).id}
    count = 1
    for name, array in arrays.items():
        changed = [*array[:-1], "other"] if isinstance(array, list) else array.copy()
        if not len(array):
            changed = ["one"] if isinstance(array, list) else np.zeros(1, array.dtype)
        elif isinstance(changed, np.ndarray):
            changed.flat[-1] += 1
        spec = form.spec(name)
        assert spec is not None
        ids.add(write(tmp_path / "a.h5", form, arrays | {name: changed}).id)
        count += spec.identifying and not spec.derived  # wall times are content, but not identity
    others: list[dict[str, Any]] = [
        {"config": {}},
        {"attributes": {"classes": ["a"]}},
        *({"parents": parents | {role: "cd" * 16}} for role in parents),
    ]
    for options in others:
        ids.add(write(tmp_path / "a.h5", form, **options).id)
        count += 1
    assert len(ids) == count


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_derived_datasets_leave_the_id_as_it_is_and_are_held_to_their_digest(form: Format, tmp_path: Path) -> None:
    derived = [spec.name for spec in form.datasets if spec.derived]
    arrays = content(form)
    without = {name: array for name, array in arrays.items() if name not in derived}
    assert write(tmp_path / "a.h5", form, arrays).id == write(tmp_path / "b.h5", form, without).id
    for name in derived:
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file[name][...] = file[name][()] + 1
        with open_artifact(tmp_path / "a.h5", form) as artifact, pytest.raises(ArtifactError, match="damaged"):
            artifact.read(name)


def test_attribute_set_late_is_an_attribute_given_first(tmp_path: Path) -> None:
    given = write(tmp_path / "a.h5", attributes={"classes": ["a"]})
    with ArtifactWriter(tmp_path / "b.h5", VOXELS, config={"größe": [1, 2.5, None]}, parents={}) as writer:
        for name, array in content(VOXELS).items():
            writer.write(name, array)
        writer.set_attribute("classes", ["a"])
        with pytest.raises(ValueError, match="'id' is an attribute that every artifact has"):
            writer.set_attribute("id", "ab")
    assert writer.id == given.id
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_id_tells_shapes_and_texts_apart(tmp_path: Path) -> None:
    def model(shape: tuple[int, ...], phases: list[str]) -> str:
        arrays = content(FORMATS["fer-model"]) | {"encoder/a.weight": np.arange(6, dtype=np.float32).reshape(shape)}
        return write(tmp_path / "a.h5", FORMATS["fer-model"], arrays | {"history": phases}).id

    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ['a"', "b"]]
    assert len({model(shape, texts[0]) for shape in [(6,), (2, 3), (3, 2), (6, 1)]}) == 4
    assert len({model((6,), text) for text in texts}) == 4


@pytest.mark.parametrize("cuts", [[], [2], [1, 3], [0, 2, 2, 5], [1, 2, 3, 4]])
def test_rows_appended_in_any_split_are_the_same_artifact(cuts: list[int], tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.h5")
    arrays = content(VOXELS)
    with ArtifactWriter(tmp_path / "a.h5", VOXELS, config={"größe": [1, 2.5, None]}, parents={}) as writer:
        for start, stop in zip([0, *cuts], [*cuts, 5], strict=True):
            for name, array in arrays.items():
                writer.append(name, array[start:stop])
    assert writer.id == whole.id
    with open_artifact(tmp_path / "a.h5", VOXELS) as artifact:
        for name, array in arrays.items():
            stored = artifact.read_text(name) if isinstance(array, list) else artifact.read(name)
            np.testing.assert_array_equal(stored, array)


def test_blocks_of_rows_are_the_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with open_artifact(tmp_path / "a.h5", VOXELS) as artifact:
        for rows in (1, 2, 5, 9):
            blocks = list(artifact.blocks("occupancy", rows))
            assert [len(block) for block in blocks] == [min(rows, 5 - start) for start in range(0, 5, rows)]
            np.testing.assert_array_equal(np.concatenate(blocks), artifact.read("occupancy"))


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_writer_that_fails_leaves_nothing_and_keeps_the_older_file(
    error: type[BaseException], older: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    if older:
        path.write_text("precious")

    def fail() -> None:
        with ArtifactWriter(path, VOXELS, config={}, parents={}) as writer:
            writer.write("occupancy", content(VOXELS)["occupancy"])
            raise error

    with pytest.raises(error):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == (["a.h5"] if older else [])
    assert not older or path.read_text() == "precious"


def test_killed_writer_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    before = write(path)
    script = f"""
import numpy, os, pathlib, signal
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.schema import VOXELS
with ArtifactWriter(pathlib.Path({str(path)!r}), VOXELS, config={{}}, parents={{}}) as writer:
    writer.write("label", numpy.zeros(3, numpy.int64))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    with open_artifact(path, VOXELS) as artifact:
        assert artifact.id == before.id


def test_writer_refuses_what_is_not_declared(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(ValueError, match=r"fer-model needs parents \('voxels',\), got \(\)"):
        ArtifactWriter(path, FORMATS["fer-model"], config={}, parents={})
    for name, array, message in [
        ("colour", np.zeros(3), "fer-voxels declares no dataset 'colour'"),
        ("label", np.zeros(3, np.int32), "dataset 'label' is declared int64, got int32"),
        ("label", np.zeros((3, 1), np.int64), r"declared with axes \('sample',\), got shape \(3, 1\)"),
    ]:
        for method in ("write", "append"):
            with (
                pytest.raises(ValueError, match=message),
                ArtifactWriter(path, VOXELS, config={}, parents={}) as writer,
            ):
                getattr(writer, method)(name, array)
    arrays = content(VOXELS)
    with pytest.raises(ValueError, match=r"fer-voxels lacks \['label'\]"):
        write(path, arrays={name: array for name, array in arrays.items() if name != "label"})
    with pytest.raises(ValueError, match="JSON"):
        write(path, config={"x": float("nan")})
    assert not list(tmp_path.iterdir())


def alter(path: Path, change: str) -> None:
    with h5py.File(path, "r+") as file:
        match change:
            case "no attribute":
                del file.attrs["parents"]
            case "no format":
                del file.attrs["format"]
            case "other format":
                file.attrs["format"] = "fer-model"
            case "unknown format":
                file.attrs["format"] = "cooler"
            case "future version":
                file.attrs["format_version"] = 2
            case "config is not JSON":
                file.attrs["config"] = "{"
            case "config is a list":
                file.attrs["config"] = "[]"
            case "seed is text":
                file.attrs["seed"] = "zero"
            case "unknown parent":
                file.attrs["parents"] = '{"voxels": "ab"}'
            case "no dataset":
                del file["label"]
            case "undeclared dataset":
                file["colour"] = np.zeros(3)
            case "undeclared dataset in a group":
                file["skipped/colour"] = np.zeros(3)
            case "other type":
                del file["label"]
                file["label"] = np.zeros(5, np.int32)
            case "text for numbers":
                del file["label"]
                file["label"] = ["a"] * 5
            case "numbers for text":
                del file["name"]
                file["name"] = np.zeros(5)
            case "more axes":
                del file["label"]
                file["label"] = np.zeros((5, 1), np.int64)
            case "other length":
                del file["label"]
                file["label"] = np.zeros(6, np.int64)
            case "external link":
                file["skipped/other"] = h5py.ExternalLink("/etc/passwd", "/")
            case "external link for a dataset":
                del file["label"]
                file["label"] = h5py.ExternalLink("other.h5", "/label")
            case "soft link":
                del file["label"]
                file["label"] = h5py.SoftLink("/occupancy")
            case "group that holds itself":
                file["skipped/skipped"] = file["skipped"]
            case _:
                raise AssertionError(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no attribute", "is not an artifact of fer: it has no attribute 'parents'"),
        ("no format", "is not an artifact of fer: it has no attribute 'format'"),
        ("other format", "is a fer-model file, but a fer-voxels file is needed"),
        ("unknown format", "is a cooler file, but a fer-voxels file is needed"),
        (
            "future version",
            r"has version 2 of fer-voxels, but this fer reads version 1\. Upgrade fer, or run 'fer voxelize' again",
        ),
        ("config is not JSON", "is damaged: an attribute does not parse"),
        ("config is a list", "is damaged: parents or config are not as fer-voxels has them"),
        ("seed is text", "is damaged: an attribute does not parse"),
        ("unknown parent", "is damaged: parents or config are not as fer-voxels has them"),
        ("no dataset", "lacks the dataset 'label'. Run 'fer voxelize' again"),
        ("undeclared dataset", "holds a dataset 'colour' that fer-voxels does not have"),
        ("undeclared dataset in a group", "holds a dataset 'skipped/colour' that fer-voxels does not have"),
        ("other type", "dataset 'label' is int32, but int64 is needed"),
        ("text for numbers", "dataset 'label' is text, but int64 is needed"),
        ("numbers for text", "dataset 'name' is float64, but text is needed"),
        ("more axes", "dataset 'label' has 2 axes, but 1 are needed"),
        ("other length", "axis 'sample' has length"),
        ("external link", "holds a link at 'skipped/other'; artifacts of fer have none"),
        ("external link for a dataset", "holds a link at 'label'; artifacts of fer have none"),
        ("soft link", "holds a link at 'label'; artifacts of fer have none"),
        ("group that holds itself", "holds a link at 'skipped/skipped/"),
    ],
)
def test_altered_artifact_is_refused_with_what_was_found(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    alter(path, change)
    with pytest.raises(ArtifactError, match=rf"a\.h5:? .*{message}|a\.h5: {message}") as caught:
        open_artifact(path, VOXELS)
    assert "\n" not in str(caught.value)
    with h5py.File(path, "r+"):  # it was closed again
        pass


def test_axes_of_one_layer_agree_and_those_of_others_may_differ(tmp_path: Path) -> None:
    form = FORMATS["fer-codebook"]
    arrays = content(form)
    other = {name.replace("conv1", "conv2"): array[..., :2] for name, array in arrays.items() if "centroid" in name}
    write(tmp_path / "a.h5", form, arrays | other)
    with open_artifact(tmp_path / "a.h5", form):
        pass
    name = "feedback/conv1/centroid"
    write(tmp_path / "a.h5", form, arrays | {name: arrays[name][:, :2]})
    with pytest.raises(ArtifactError, match=r"axis 'conv1\.code' has length \d+ in 'feedback/conv1/\w+', but \d+ in"):
        open_artifact(tmp_path / "a.h5", form)


def test_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    whole = write(path).path.read_bytes()
    with pytest.raises(ArtifactError, match=r"b\.h5 does not exist\. Run 'fer voxelize' to make it\."):
        open_artifact(tmp_path / "b.h5", VOXELS)
    with pytest.raises(ArtifactError, match=r"b\.h5 does not exist\.$"):
        open_artifact(tmp_path / "b.h5")
    with pytest.raises(ArtifactError, match="is a folder, not an artifact; name a file"):
        open_artifact(tmp_path, VOXELS)
    for damaged in (b"", b"garbage", whole[:100], whole[: len(whole) // 2], whole[:-1], bytes(len(whole))):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"a\.h5 .*(damaged|not an artifact)"):
            open_artifact(path, VOXELS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_that_may_not_be_read_is_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5").path
    path.chmod(0)
    with pytest.raises(ArtifactError, match=r"a\.h5 cannot be read: permission denied"):
        open_artifact(path)


@pytest.mark.parametrize("name", ["occupancy", "label", "index_to_world"])
def test_flipped_bit_of_a_number_is_found_by_its_checksum(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5").path
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    for offset in (0, chunk.size // 2, chunk.size - 1):
        raw = bytearray(path.read_bytes())
        raw[chunk.byte_offset + offset] ^= 4
        (tmp_path / "b.h5").write_bytes(raw)
        with (
            open_artifact(tmp_path / "b.h5", VOXELS) as artifact,
            pytest.raises(
                ArtifactError, match=rf"b\.h5 is damaged: dataset '{name}' cannot be read\. Run 'fer voxelize' again"
            ),
        ):
            artifact.read(name)


def read_all(path: Path) -> dict[str, Any]:
    """Everything that an artifact says, numbers as bytes."""
    with open_artifact(path) as artifact:
        said: dict[str, Any] = {"id": artifact.id, "config": artifact.config, "parents": artifact.parents}
        for name in artifact.names():
            spec = artifact.form.spec(name)
            assert spec is not None
            said[name] = artifact.read_text(name) if spec.dtype == "text" else artifact.read(name).tobytes()
        return said | {"classes": artifact.attribute("classes")}


def test_flipped_bit_is_refused_or_changes_nothing_that_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", attributes={"classes": ["chair", "table"]}).path
    whole, said = path.read_bytes(), read_all(path)
    generator = np.random.default_rng(8)
    refused = 0
    for place, bit in zip(generator.integers(0, len(whole), 250), generator.integers(0, 8, 250), strict=True):
        raw = bytearray(whole)
        raw[place] ^= 1 << bit
        (tmp_path / "b.h5").write_bytes(raw)
        try:
            assert read_all(tmp_path / "b.h5") == said, f"bit {bit} of byte {place}"
        except ArtifactError:
            refused += 1
    assert 20 < refused < 230


@pytest.mark.parametrize("name", ["occupancy", "index_to_world"])
@pytest.mark.parametrize("axis", [0, -1])
def test_chunk_that_is_not_where_it_belongs_is_missed(name: str, axis: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5").path
    with h5py.File(path) as file:
        address = file[name].id.get_chunk_info(0).byte_offset
        steps = (*file[name].chunks, file[name].dtype.itemsize)  # the last is for bytes within an element
        assert file[name][...].any()
    raw = bytearray(path.read_bytes())
    key = raw.index(address.to_bytes(8, "little")) - 8 * len(steps)
    assert not any(raw[key : key + 8 * len(steps)])
    raw[key + 8 * (axis % len(steps))] = steps[axis]
    path.write_bytes(raw)
    with h5py.File(path) as file:
        assert not file[name][...].any()  # what HDF5 makes of it
    with open_artifact(path) as artifact, pytest.raises(ArtifactError, match=rf"dataset '{name}' .*Run 'fer voxelize'"):
        artifact.read(name, slice(0, 2))


def _set_in_config(file: h5py.File) -> None:
    file.attrs["config"] = '{"größe": [1, 2.5, 0]}'


def _swap_names(file: h5py.File) -> None:
    file["name"][0], file["name"][1] = file["name"][1], file["name"][0]


def _other_numbers(file: h5py.File) -> None:
    file["label"][...] = 1 - file["label"][...]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set_in_config, "configuration, attributes or datasets are not those of its id"),
        (_swap_names, "dataset 'name' is not what was written"),
        (_other_numbers, "dataset 'label' is not what was written"),
    ],
)
def test_content_that_is_not_that_of_the_id_is_refused(
    change: Callable[[h5py.File], None], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.h5", attributes={"classes": []}).path
    read_all(path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ArtifactError, match=rf"a\.h5 is damaged: {message}\. Run 'fer voxelize' again\."):
        read_all(path)


def test_numbers_without_checksums_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5").path
    for options, message in (
        ({"dtype": "int64", "chunks": (5,)}, "is stored without checksums"),
        ({"dtype": ">i8", "chunks": (5,), "fletcher32": True}, "is not stored as int64 is"),
    ):
        with h5py.File(path, "r+") as file:
            del file["label"]
            file.create_dataset("label", data=np.zeros(5), **options)
        with pytest.raises(ArtifactError, match=f"dataset 'label' {message}"):
            open_artifact(path)


@pytest.mark.parametrize(("name", "end"), [("occupancy", 60), ("label", 24), ("name", 60)])
def test_damaged_header_of_a_dataset_is_an_error_and_no_traceback(name: str, end: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5").path
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file[name].id).addr
    for offset in range(0, end, 3):
        raw = bytearray(path.read_bytes())
        raw[header + offset] ^= 0xFF
        (tmp_path / "b.h5").write_bytes(raw)
        # Some bytes of a header are spare; any other exception than this one fails the test.
        with suppress(ArtifactError), open_artifact(tmp_path / "b.h5", VOXELS) as artifact:
            artifact.read(name)


def test_wrong_parent_is_refused_with_both_ids_and_the_command(tmp_path: Path) -> None:
    form = FORMATS["fer-model"]
    voxels = write(tmp_path / "voxels.h5")
    other = write(tmp_path / "other.h5", config={})
    write(tmp_path / "model.h5", form, parents={"voxels": voxels.id})
    with (
        open_artifact(tmp_path / "model.h5", form) as model,
        open_artifact(tmp_path / "voxels.h5") as right,
        open_artifact(tmp_path / "other.h5") as wrong,
    ):
        model.require_parent("voxels", right)
        message = (
            rf"model\.h5 was made from voxels {voxels.id[:12]}, but .*other\.h5 is {other.id[:12]}\. "
            r"Run 'fer train --force' to make it again, or name the file it was made from\."
        )
        with pytest.raises(LineageError, match=message):
            model.require_parent("voxels", wrong)
        with pytest.raises(LineageError, match="made from grandparent nothing"):
            model.require_parent("grandparent", wrong)


def test_output_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.h5", tmp_path / "file" / "deeper" / "a.h5", Path("/proc/a.h5")):
        with pytest.raises(ResourceError, match=rf"cannot write {path}: "):
            write(path)
    with pytest.raises(ResourceError, match="Is a directory"):
        write(tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArtifactWriter(tmp_path / "a.h5", VOXELS, config={}, parents={})
    writer._partial = tmp_path / "full"
    writer._partial.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"cannot write .*a\.h5"), writer:
        writer.write("label", np.zeros(10**6, np.int64))
    assert not (tmp_path / "a.h5").exists()
