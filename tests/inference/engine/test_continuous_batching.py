# SPDX-License-Identifier: Apache-2.0
"""The check of the version of transformers whose continuous batching the engine is built on."""

import importlib
import tomllib
from pathlib import Path

import pytest

from steerlm.errors import InputError
from steerlm.inference.engine import continuous_batching
from steerlm.inference.engine.continuous_batching import BEYOND, OLDEST, check_version

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("installed", ["5.19.0", "5.23.0", "5.23.4"])
def test_tested_versions_pass(installed: str) -> None:
    check_version(installed)


@pytest.mark.parametrize("installed", ["4.57.6", "5.18.0", "6.0.0", "5.100.0", "6.0.0.dev0"])
def test_other_versions_are_named_with_the_range_and_the_remedy(installed: str) -> None:
    tested = rf">={OLDEST[0]}\.{OLDEST[1]},<{BEYOND[0]}\.{BEYOND[1]}"
    message = rf"transformers {installed} is installed; .* tested with {tested}: pip install 'transformers{tested}'"
    with pytest.raises(InputError, match=message):
        check_version(installed)


def test_the_check_runs_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.99.0")
    with pytest.raises(InputError, match=r"transformers 5\.99\.0 is installed"):
        importlib.reload(continuous_batching)
    monkeypatch.undo()
    importlib.reload(continuous_batching)


def test_the_project_allows_the_tested_versions_only() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (requirement,) = [one for one in extras["tokenizers"] if one.startswith("transformers")]
    assert requirement == "transformers>={}.{},<{}.{}".format(*OLDEST, *BEYOND)
