"""What pytest itself needs; the shared fixtures are in `tiny`.

With `--numprocesses` the first process only hands out tests, and all others wait until it has started. So it does not
import PyTorch and what is tested.
"""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Bring the fixtures, where tests are run."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tiny")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that drive whole commands or a browser first: at the end they would leave other workers idle."""
    long = {item.path for item in items if any(map(item.get_closest_marker, ("end_to_end", "browser")))}
    items.sort(key=lambda item: item.path not in long)
