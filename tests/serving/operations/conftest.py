# SPDX-License-Identifier: Apache-2.0
"""Files of keys, and what Prometheus reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(url: str, **options: Any) -> Samples:
    """What `/metrics` says: the value by name and labels."""
    reply = httpx.get(f"{url}/metrics", **options)
    assert reply.status_code == 200, reply.text
    families = text_string_to_metric_families(reply.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples with these labels among theirs."""
    return sum(value for (one, pairs), value in found.items() if one == name and labels.items() <= dict(pairs).items())


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of keys."""

    def write(content: dict[str, Any], path: Path = tmp_path / "keys.yaml") -> Path:
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    return write


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}
