"""Procedural furniture: sound meshes, upright, reproducible, and written as OFF files in ModelNet layout."""

from pathlib import Path

import numpy as np
import pytest
from test_solids import assert_sound

from fer_cli.data.fittings import chair_back
from fer_cli.data.formats.off import write_off
from fer_cli.data.furniture import CLASSES, furniture, furniture_parts
from fer_cli.data.solids import Part, merge, volume
from fer_cli.data.synthetic import write_collection
from fer_cli.errors import ResourceError, UsageError

MANY = 60  # Enough draws of a class for every one of its styles to occur.


def draws(class_name: str, count: int = MANY) -> list[list[Part]]:
    return [furniture_parts(class_name, np.random.default_rng(seed)) for seed in range(count)]


def named(parts: list[Part], name: str) -> np.ndarray:
    return np.concatenate([part.vertices for part in parts if part.name == name])


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    head, counts, *lines = path.read_text(encoding="ascii").splitlines()
    n_vertices, n_faces, n_edges = map(int, counts.split())
    assert (head, n_edges, len(lines)) == ("OFF", 0, n_vertices + n_faces)
    faces = np.array([line.split() for line in lines[n_vertices:]], dtype=int)
    assert (faces[:, 0] == 3).all()
    return np.array([line.split() for line in lines[:n_vertices]], dtype=float), faces[:, 1:]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.off"))}


def test_classes_are_the_ten_of_modelnet10_in_alphabetical_order() -> None:
    assert len(CLASSES) == 10
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_part_is_a_closed_shell_that_faces_outwards(class_name: str) -> None:
    for parts in draws(class_name, 20):
        for part in parts:
            assert_sound(part)


@pytest.mark.parametrize("class_name", CLASSES)
def test_furniture_stands_on_the_floor_and_has_the_size_of_furniture(class_name: str) -> None:
    for parts in draws(class_name):
        vertices, faces = merge(parts)
        assert vertices[:, 2].min() == 0
        assert faces.min() == 0
        assert faces.max() == len(vertices) - 1
        extent = np.ptp(vertices, axis=0)
        assert extent.min() > 0.1
        assert extent.max() < 3.5


def test_furniture_is_its_merged_parts() -> None:
    vertices, faces = furniture("desk", np.random.default_rng(4))
    expected_vertices, expected_faces = merge(furniture_parts("desk", np.random.default_rng(4)))
    np.testing.assert_array_equal(vertices, expected_vertices)
    np.testing.assert_array_equal(faces, expected_faces)


def test_merged_mesh_encloses_the_volumes_of_its_parts() -> None:
    parts = furniture_parts("toilet", np.random.default_rng(1))
    whole = Part("whole", *merge(parts))
    assert volume(whole) == pytest.approx(sum(volume(part) for part in parts))


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_seed_gives_one_shape_and_another_seed_another(class_name: str) -> None:
    first, again, other = (furniture(class_name, np.random.default_rng(seed))[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)


def test_classes_differ_from_the_same_seed() -> None:
    meshes = {furniture(class_name, np.random.default_rng(3))[0].tobytes() for class_name in CLASSES}
    assert len(meshes) == len(CLASSES)


@pytest.mark.parametrize("class_name", ["chair", "sofa"])
def test_back_rises_above_the_seat_and_stands_behind_it(class_name: str) -> None:
    for parts in draws(class_name):
        back, seat = named(parts, "back"), named(parts, "seat")
        assert back[:, 2].max() > seat[:, 2].max() + 0.1
        assert back[:, 1].mean() > seat[:, 1].mean()


def test_head_of_a_bed_is_at_the_rear_where_its_pillows_lie() -> None:
    lying = [parts for parts in draws("bed") if any(part.name == "pillow" for part in parts)]
    assert lying
    for parts in lying:
        vertices, _ = merge(parts)
        assert named(parts, "pillow")[:, 1].min() > vertices[:, 1].mean()


@pytest.mark.parametrize("class_name", ["desk", "dresser", "night_stand"])
def test_drawers_open_to_the_front(class_name: str) -> None:
    with_drawers = [parts for parts in draws(class_name) if any(part.name == "drawer" for part in parts)]
    assert with_drawers
    for parts in with_drawers:
        assert named(parts, "handle")[:, 1].max() < named(parts, "drawer")[:, 1].mean() < 0


@pytest.mark.parametrize(
    ("class_name", "has", "lacks"),
    [
        ("bathtub", "tub", "seat"),
        ("bed", "mattress", "drawer"),
        ("chair", "back", "tank"),
        ("desk", "top", "back"),
        ("dresser", "drawer", "shelf"),
        ("monitor", "foot", "leg"),
        ("night_stand", "drawer", "mirror"),
        ("sofa", "seat", "mattress"),
        ("table", "top", "drawer"),
        ("toilet", "bowl", "back"),
    ],
)
def test_a_class_has_its_own_part_and_lacks_its_neighbours(class_name: str, has: str, lacks: str) -> None:
    for parts in draws(class_name):
        names = {part.name for part in parts}
        assert has in names
        assert lacks not in names


def test_chair_back_starts_where_it_is_put_and_rises_by_its_height() -> None:
    for seed in range(20):
        parts = chair_back(np.random.default_rng(seed), width=0.5, y=0.3, z=0.4, height=0.6)
        assert {part.name for part in parts} == {"back"}
        vertices, _ = merge(parts)
        assert vertices[:, 2].min() == pytest.approx(0.4)
        assert vertices[:, 2].max() == pytest.approx(1.0)


def test_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'lamp'.*known are bathtub, bed, .*, toilet"):
        furniture("lamp", np.random.default_rng(0))


def test_off_file_holds_the_mesh(tmp_path: Path) -> None:
    vertices, faces = furniture("chair", np.random.default_rng(2))
    write_off(tmp_path / "chair.off", vertices, faces)
    read_vertices, read_faces = read_off(tmp_path / "chair.off")
    np.testing.assert_allclose(read_vertices, vertices, atol=0.5e-6)  # Six decimals are written.
    np.testing.assert_array_equal(read_faces, faces)


def test_collection_has_the_layout_and_the_running_numbers_of_modelnet(tmp_path: Path) -> None:
    write_collection(tmp_path, per_class_train=2, per_class_test=1, seed=0)
    assert sorted(contents(tmp_path)) == sorted(
        f"{class_name}/{split}/{class_name}_{number:04d}.off"
        for class_name in CLASSES
        for split, number in (("train", 1), ("train", 2), ("test", 3))
    )


def test_collection_is_the_same_for_a_seed_and_repeats_no_shape(tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        write_collection(tmp_path / name, per_class_train=2, per_class_test=2, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert len({*first.values(), *other.values()}) == len(first) + len(other)


def test_a_shape_does_not_depend_on_how_many_others_are_written(tmp_path: Path) -> None:
    write_collection(tmp_path / "small", per_class_train=1, per_class_test=1, seed=9)
    write_collection(tmp_path / "large", per_class_train=3, per_class_test=2, seed=9)
    small, large = contents(tmp_path / "small"), contents(tmp_path / "large")
    for class_name in CLASSES:
        train, test = f"{class_name}/train/{class_name}", f"{class_name}/test/{class_name}"
        assert small[f"{train}_0001.off"] == large[f"{train}_0001.off"]
        assert small[f"{test}_0002.off"] == large[f"{test}_0004.off"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(ResourceError, match="taken"):
        write_collection(tmp_path / "taken", per_class_train=1, per_class_test=1, seed=0)
