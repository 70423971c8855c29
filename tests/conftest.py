"""Shared fixtures; every test runs with array shapes and types checked by jaxtyping and beartype."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("fer_cli", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data archives (`FER_SHARED_DATA`); skips where there is none."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FER_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: FER_SHARED_DATA names no folder ({folder})")
    return folder
