# SPDX-License-Identifier: Apache-2.0
"""A small world, generated once per session."""

from pathlib import Path

import pytest

from steerlm.toyworld.config import ToySettings
from steerlm.toyworld.make import write_world

SETTINGS = ToySettings(seed=5, conversations=600, validation_conversations=60, plain_documents=300, questions=300)


@pytest.fixture(scope="session")
def settings() -> ToySettings:
    return SETTINGS


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Return the world's folder and the counts from `write_world`."""
    folder = tmp_path_factory.mktemp("world")
    return folder, write_world(folder, SETTINGS)
