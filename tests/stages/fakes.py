# SPDX-License-Identifier: Apache-2.0
"""A small stage and a function that runs it; importable from another process."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from steerlm.artifact import Store
from steerlm.errors import TrainingError
from steerlm.pipeline.run import Outcome, run_stage
from steerlm.pipeline.run_log import RunLog
from steerlm.recipe import Profile, TrackingSettings
from steerlm.stages.base import Inputs, Stage, StageContext, StageResult


class FakeConfig(BaseModel):
    """The stage writes three parts to its scratch folder; a file `break-at-N` in the store makes it fail there."""

    text: str = "hello"
    pause: float = 0.0


def make(config: FakeConfig, inputs: Inputs, context: StageContext) -> StageResult:
    import time

    calls = context.logs / "calls"
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    for part in range(3):
        done = context.scratch / f"part-{part}"
        if done.exists():
            continue
        context.report_progress(f"step {part + 1}/3")
        time.sleep(config.pause)
        if (context.folder.parent.parent / f"break-at-{part}").exists():
            raise TrainingError("broken on request")
        done.write_text(config.text)
    inputs_text = "".join((a.path / "out.txt").read_text() for a in inputs.values())
    (context.files / "out.txt").write_text(config.text + inputs_text)
    return StageResult(metrics={"parts": 3, "note": "no number"})


STAGE: Stage[FakeConfig] = Stage("fake", "text", make, code=("tests.stages.fakes",))
AFTER: Stage[FakeConfig] = Stage("after", "text", make, code=("tests.stages.fakes",))


def profile(store: Path) -> Profile:
    return Profile(name="test", store=str(store), tracking=TrackingSettings(enabled=False))


def call(
    store: Path,
    stage: Stage[FakeConfig] = STAGE,
    inputs: Inputs | None = None,
    *,
    label: str | None = None,
    again: bool = False,
    **config: Any,
) -> Outcome:
    """Run the stage as a step does; its events go to `run_log.jsonl` beside the store."""
    run_log = RunLog(store.with_name("run_log.jsonl"))
    return run_stage(
        stage,
        FakeConfig(**config),
        inputs or {},
        Store(store),
        profile(store),
        label=label,
        run_log=run_log,
        again=again,
    )
