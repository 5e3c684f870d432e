"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real small data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("STEERLM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, absent at {folder} (set STEERLM_SHARED_DATA)")
    return folder
