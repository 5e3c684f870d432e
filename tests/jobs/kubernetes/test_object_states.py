# SPDX-License-Identifier: Apache-2.0
"""States of real job objects, recorded by tests/cluster/test_states.py."""

import json
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes.kinds import KINDS
from tests.conftest import ROOT

RECORDED = sorted((ROOT / "tests" / "jobs" / "kubernetes" / "states").glob("*.json"))
PHASES = {
    "created": "created",
    "queued": "queued",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "deadline": "failed",
}


def test_every_kind_has_every_state() -> None:
    assert {path.stem for path in RECORDED} == {f"{kind}-{case}" for kind in KINDS for case in PHASES}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_state_is_read(path: Path) -> None:
    kind, _, case = path.stem.partition("-")
    state = KINDS[kind].state(json.loads(path.read_text()))
    assert state.phase == PHASES[case]
    if state.phase == "failed":
        assert state.message


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_no_operator_has_seen_is_created(kind: str) -> None:
    spec = {"suspend": False} if kind == "trainjob" else {"runPolicy": {"suspend": False}}
    assert KINDS[kind].state({"spec": spec}).phase == "created"
