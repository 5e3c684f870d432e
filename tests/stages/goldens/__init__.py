# SPDX-License-Identifier: Apache-2.0
"""Frozen digests of the code that decides each stage's result; `python -m tests.stages.goldens` refreshes them.

Refresh them if a change leaves every result as it was; otherwise raise the stage's `version` first.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import TypedDict

from steerlm.pipeline.provenance import code_digests
from steerlm.stages.registry import STEPS

FOLDER = Path(__file__).parent
COMMAND = "make goldens"
STAGES = sorted({step.stage for step in STEPS.values()})


class Golden(TypedDict):
    """A stage's version and the digest of every file that decides its result."""

    version: int
    files: dict[str, str]


def current(stage: str) -> Golden:
    """Return what the golden of a stage would be now."""
    definition = import_module(f"steerlm.stages.{stage}").STAGE
    return {"version": definition.version, "files": code_digests(definition.code, definition.without)}


def read(stage: str) -> Golden:
    """Return the golden of a stage."""
    golden: Golden = json.loads((FOLDER / f"{stage}.json").read_text(encoding="utf-8"))
    return golden


def refresh() -> None:
    """Write the goldens of all stages."""
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for stage in STAGES:
        (FOLDER / f"{stage}.json").write_text(json.dumps(current(stage), indent=1) + "\n", encoding="utf-8")
