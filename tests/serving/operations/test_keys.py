# SPDX-License-Identifier: Apache-2.0
"""The file of API keys: what is refused at the start, without a key in any message, and what a reload does."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import ConfigError
from steerlm.serving.operations import keys as keys_file
from steerlm.serving.operations.keys import KeyRing, read_keys
from tests.serving.operations.conftest import ALICE, BOB

SECRET = "sk-f00dcafe"
"""In all of the wrong keys."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"keys": {}}, "keys is empty"),
        ({}, "keys: is missing"),
        ({"keys": {"alice": SECRET}}, r"keys.yaml:2: keys.alice.key: the key has 11 characters; at least 16"),
        ({"keys": {"alice": f"{SECRET} 0123456789"}}, "keys.alice.key: the key has spaces"),
        ({"keys": {"alice": f"{SECRET}-0123456789é"}}, "not ASCII"),
        ({"keys": {"alice": 1234567890123456789}}, "keys.alice.key: a text in quotes was expected|a key was expected"),
        ({"keys": {"alice": [SECRET * 2]}}, "keys.alice: a key was expected, or a mapping"),
        ({"keys": SECRET * 2}, "keys: a mapping of names to keys was expected"),
        ({"keys": [SECRET * 2]}, "keys: a mapping of names to keys was expected"),
        ({"keys": {"alice": SECRET * 2, "bob": SECRET * 2}}, "keys.alice and keys.bob are the same key"),
        ({"keys": {"alice": {"key": SECRET * 2, "requests_per_minut": 3}}}, "did you mean 'keys.*requests_per_minute'"),
        ({"keys": {"alice": {"key": SECRET * 2, "requests_per_minute": 0}}}, "requests_per_minute"),
        ({"keys": {"alice": {"requests_per_minute": 3}}}, "keys.alice.key: is missing"),
        ({"keys": {"al ice": SECRET * 2}}, "al ice"),
        ({"limits": {"tokens_per_minute": -1}, "keys": {"alice": SECRET * 2}}, "limits.tokens_per_minute"),
    ],
)
def test_what_is_refused(content: dict[str, Any], message: str, keys: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        read_keys(keys(content))
    assert SECRET not in str(refusal.value) and "123456789" not in str(refusal.value)
    assert "keys.yaml" in str(refusal.value)


def test_a_name_given_twice_and_a_missing_file(tmp_path: Path) -> None:
    twice = tmp_path / "keys.yaml"
    twice.write_text(f"keys:\n  alice: {ALICE}\n  alice: {BOB}\n")
    with pytest.raises(ConfigError, match=r"keys\.yaml:3: not valid YAML: key 'alice' is given twice"):
        read_keys(twice)
    with pytest.raises(ConfigError, match="nothing: cannot be read"):
        read_keys(tmp_path / "nothing")


def test_json_and_limits_of_the_file_and_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    own = {"key": BOB, "concurrent_requests": 9, "tokens_per_minute": None}
    limits = {"requests_per_minute": 60, "tokens_per_minute": 1000, "concurrent_requests": 2}
    path.write_text(json.dumps({"limits": limits, "keys": {"alice": ALICE, "bob": own}}))
    alice, bob = read_keys(path)
    assert (alice.name, alice.limits.model_dump()) == ("alice", limits)
    assert bob.limits.model_dump() == limits | {"concurrent_requests": 9, "tokens_per_minute": None}


def test_a_mounted_secret_is_read_again_when_its_link_moves(
    tmp_path: Path, keys: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes changes a mounted Secret by moving a symbolic link to a new folder."""
    monkeypatch.setattr(keys_file, "CHECK_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    failures = []
    for name, content in (("1", {"alice": ALICE}), ("2", {"alice": ALICE, "bob": BOB})):
        (tmp_path / name).mkdir()
        keys({"keys": content}, tmp_path / name / "keys.yaml")

    def move(target: str) -> None:
        (tmp_path / "next").symlink_to(target)
        (tmp_path / "next").replace(tmp_path / "data")

    move("1")
    (tmp_path / "keys.yaml").symlink_to("data/keys.yaml")
    ring = KeyRing(tmp_path / "keys.yaml", lambda: failures.append(1))
    found = ring.find(ALICE)
    assert found is not None and found.name == "alice"
    assert ring.find(BOB) is None and ring.find("") is None and ring.find("\udcff") is None
    move("2")
    found = ring.find(BOB)
    assert found is not None and found.name == "bob"
    assert "2; new: bob; gone: none" in caplog.text

    (tmp_path / "2" / "keys.yaml").write_text("keys: {alice: [")
    assert ring.find(BOB) and ring.find(ALICE), "a broken file changes nothing"
    (tmp_path / "data").unlink()
    assert ring.find(BOB), "nor does a missing one"
    assert len(failures) == 2 and caplog.text.count("the API keys before the change stay") == 2
    move("1")
    assert ring.find(BOB) is None and ring.find(ALICE)
    assert ALICE not in caplog.text and BOB not in caplog.text


def test_the_file_is_looked_at_once_a_second_at_most(keys: Callable[..., Path]) -> None:
    path = keys({"keys": {"alice": ALICE}})
    ring = KeyRing(path, lambda: None)
    keys({"keys": {"bob": BOB}})
    assert ring.find(BOB) is None


def test_a_file_that_everybody_can_read_is_a_warning(
    keys: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = keys({"keys": {"alice": ALICE}})
    KeyRing(path, lambda: None)
    assert not caplog.records
    path.chmod(0o644)
    KeyRing(path, lambda: None)
    assert "can be read by every user" in caplog.text
