# SPDX-License-Identifier: Apache-2.0
"""A change of the code that decides a stage's result is deliberate: keys hold the stage's version, not its code."""

import pytest

from steerlm.pipeline.provenance import changed_files
from tests.stages.goldens import COMMAND, FOLDER, STAGES, Golden, current, read


def problem(stage: str, golden: Golden, now: Golden) -> str | None:
    """Return the remedy for a stage whose code differs from its golden; None if it does not."""
    files = changed_files(golden["files"], now["files"])
    if golden["version"] != now["version"]:
        return f"{stage} has version {now['version']}, its golden {golden['version']}: refresh the golden: {COMMAND}"
    if files:
        return (
            f"this may change what {stage} makes: raise its version, or refresh the golden if results stay equal: "
            f"{COMMAND}\nchanged: {', '.join(files)}"
        )
    return None


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_the_frozen_one(stage: str) -> None:
    message = problem(stage, read(stage), current(stage))
    assert message is None, message


def test_every_golden_is_a_stages() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == STAGES


def test_the_message_names_stage_remedy_and_files() -> None:
    golden: Golden = {"version": 1, "files": {"loss.py": "a", "rows.py": "b"}}
    assert problem("train_sft", golden, golden) is None
    assert problem("train_sft", golden, {"version": 1, "files": {"loss.py": "c", "rows.py": "b", "new.py": "d"}}) == (
        "this may change what train_sft makes: raise its version, or refresh the golden if results stay equal: "
        "make goldens\nchanged: loss.py, new.py"
    )
    assert problem("train_sft", golden, {"version": 2, "files": golden["files"]}) == (
        "train_sft has version 2, its golden 1: refresh the golden: make goldens"
    )
