import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType

import pytest

from fer_cli.execution import collecting


class Ring:
    """A cycle, which only the collector can find."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector_as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    if collecting._set_aside in gc.callbacks:
        gc.callbacks.remove(collecting._set_aside)


def test_what_lives_while_modules_are_imported_is_not_searched_again() -> None:
    collecting.set_imports_aside()
    kept = [[] for _ in range(10_000)]
    gc.collect()
    assert gc.get_freeze_count() > len(kept)


def test_imports_are_not_searched_at_all_within_a_block_for_them() -> None:
    def collections() -> int:
        return sum(each["collections"] for each in gc.get_stats())

    collecting.set_imports_aside()
    with collecting.imports_unsearched():
        before = collections()
        kept = [[] for _ in range(100_000)]
        assert collections() == before
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_a_process_that_sets_nothing_aside_collects_as_ever() -> None:
    before = gc.get_freeze_count()
    with collecting.imports_unsearched():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_only_full_collections_set_aside() -> None:
    collecting.set_imports_aside()
    before = gc.get_freeze_count()
    gc.collect(1)
    assert gc.get_freeze_count() == before


def test_garbage_made_later_is_collected() -> None:
    collecting.set_imports_aside()
    gc.collect()
    ring = Ring()
    gone = weakref.ref(ring)
    del ring
    gc.collect()
    assert gone() is None


def test_a_collection_after_which_no_module_came_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    collecting.set_imports_aside()
    gc.collect()
    monkeypatch.setitem(sys.modules, "fer_test_of_collecting", ModuleType("fer_test_of_collecting"))
    gc.collect()
    assert collecting._set_aside in gc.callbacks
    gc.collect()
    assert collecting._set_aside not in gc.callbacks
    ring, before = Ring(), gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() <= before
    assert ring.itself is ring
