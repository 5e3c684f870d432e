# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records or dictionaries as lines of a file and gives its path."""

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        lines = [json.dumps(r) if isinstance(r, dict) else r.to_json() for r in records]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write
