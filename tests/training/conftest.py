# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the training tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.byte_tokenizer import byte_tokenizer
from tests.training.tiny import TinyTraining


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write records or dictionaries as lines of a file and return its path."""

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        lines = [json.dumps(r) if isinstance(r, dict) else r.to_json() for r in records]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def tiny(tmp_path: Path, tokenizer: Any) -> TinyTraining:
    return TinyTraining(tmp_path, tokenizer)
