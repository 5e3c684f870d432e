# SPDX-License-Identifier: Apache-2.0
"""Fixtures every test may use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fake_s3 import FakeS3, fake_s3

# Examples share the cores with other tests: a slow one is no failure.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """A shell starts what stands in its background deaf to Ctrl-C, and so would be every process that a test starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real small data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("STEERLM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, absent at {folder} (set STEERLM_SHARED_DATA)")
    return folder


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """An empty S3 of this process, and the environment that names it."""
    with fake_s3() as store:
        monkeypatch.setenv("S3_ENDPOINT", store.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "password")
        yield store
