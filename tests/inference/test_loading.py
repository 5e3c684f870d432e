# SPDX-License-Identifier: Apache-2.0
"""Loading a model for inference says nothing on the terminal."""

from pathlib import Path

import pytest

from steerlm.inference.loading import load
from tests.tiny_models import tiny_base


def test_no_bar_of_a_library_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_base(tmp_path)
    capfd.readouterr()
    load(folder, head=False)
    assert capfd.readouterr().err == ""
