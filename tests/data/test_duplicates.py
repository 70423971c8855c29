import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_cli.data.duplicates import DuplicateCounts, count_duplicates, find_duplicates, redundant_samples


def test_the_first_of_each_content_is_named() -> None:
    contents = [b"a", b"b", b"a", b"c", b"b", b"a"]
    assert find_duplicates(contents, contents.__getitem__).tolist() == [-1, -1, 0, -1, 1, 0]


def test_equal_hashes_of_unequal_content_are_no_duplicates() -> None:
    contents = [b"a", b"b", b"a", b"b", b"c"]
    assert find_duplicates([0] * 5, contents.__getitem__).tolist() == [-1, -1, 0, 1, -1]


def test_content_is_asked_for_only_where_hashes_agree() -> None:
    asked: list[int] = []

    def content(index: int) -> bytes:
        asked.append(index)
        return b"same"

    find_duplicates([0, 1, 2, 1], content)
    assert sorted(asked) == [1, 3]


#               0       1        2       3       4        5       6            7            8
SPLITS = ["train", "train", "test", "test", "train", "train", "unlabelled", "unlabelled", "test"]
SAME = np.array([-1, 0, 0, 2 - 2, -1, 4, -1, 6, -1])
CLASSES = ["bed", "bed", "bed", "sofa", "chair", "chair", None, None, "sofa"]


def test_duplicates_are_counted_within_and_across_splits() -> None:
    assert count_duplicates(SAME, SPLITS, CLASSES) == DuplicateCounts(
        within_train=2, within_test=1, train_and_test=2, of_unlabelled=1, across_classes=1
    )


def test_training_samples_give_way_to_test_samples_and_to_earlier_ones() -> None:
    assert redundant_samples(SAME, SPLITS) == {0: 2, 1: 2, 5: 4}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["train", "test", "unlabelled"])), max_size=30))
def test_what_is_left_repeats_nothing_in_train_and_lacks_no_content(samples: list[tuple[int, str]]) -> None:
    contents = [bytes([value]) for value, _ in samples]
    splits = [split for _, split in samples]
    redundant = redundant_samples(find_duplicates(contents, contents.__getitem__), splits)
    kept = [index for index in range(len(samples)) if index not in redundant]
    train = [contents[index] for index in kept if splits[index] == "train"]
    assert len(set(train)) == len(train)
    assert not set(train) & {contents[index] for index in kept if splits[index] == "test"}
    assert {contents[index] for index in kept} == set(contents)
    assert all(splits[index] == "train" and contents[index] == contents[stays] for index, stays in redundant.items())
    assert not set(redundant.values()) & set(redundant)


@pytest.mark.parametrize("n_samples", [0, 1])
def test_too_few_samples_for_duplicates(n_samples: int) -> None:
    found = find_duplicates([b"a"] * n_samples, lambda _: b"a")
    assert found.tolist() == [-1] * n_samples
    assert count_duplicates(found, ["train"] * n_samples, [0] * n_samples) == DuplicateCounts(0, 0, 0, 0, 0)
