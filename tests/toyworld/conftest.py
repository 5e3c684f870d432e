# SPDX-License-Identifier: Apache-2.0
"""A small world, made once for all tests of this room."""

from pathlib import Path

import pytest

from steerlm.toyworld.config import ToySettings
from steerlm.toyworld.make import make

SETTINGS = ToySettings(seed=5, conversations=600, validation_conversations=60, plain_documents=300, questions=300)


@pytest.fixture(scope="session")
def settings() -> ToySettings:
    return SETTINGS


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The world's folder and what `make` counted."""
    folder = tmp_path_factory.mktemp("world")
    return folder, make(folder, SETTINGS)
