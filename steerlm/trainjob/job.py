# SPDX-License-Identifier: Apache-2.0
"""Runs a training job: builds its token indexes, launches the worker and waits for its result."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steerlm.checksums import FileDigest
from steerlm.jobs import environment
from steerlm.jobs.place import JobPlace
from steerlm.trainjob.spec import RESULT, TrainSpec
from steerlm.trainjob.token_index import build_indexes

WORKER = "steerlm.trainjob.worker"
_STEP = re.compile(r"\bstep \d+/\d+.*")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a training has made.

    Attributes:
        result: The content of the worker's result.json.
        files: The model folder's files as the worker says; None: those that are there.
    """

    result: dict[str, Any]
    files: Mapping[str, FileDigest] | None


def run_training(spec: TrainSpec, place: JobPlace, report_progress: Callable[[str], None]) -> TrainedModel:
    """Run a training to its end on the back end of `place`; the model is then in `spec.output`.

    A job that is running is attached to, an interrupted one resumes from its newest checkpoint.

    Args:
        spec: The training.
        place: Where the job runs.
        report_progress: Called with a line while data is tokenized, and for every step that the worker logs.

    Raises:
        RecordError: The objective refuses a record.
        SteerLMError: What `launch` raises.
    """
    spec = build_indexes(spec, report_progress)

    def on_line(line: str) -> None:
        if step := _STEP.search(line):
            report_progress(step[0])

    # The output is cleared so that shards of another layout do not stay among the new ones.
    variables = environment.variables(spec.layout)
    files = place.run(
        WORKER,
        spec,
        spec.layout,
        on_line,
        environment=variables,
        clears=[spec.output],
        output=spec.output,
    )
    path = spec.work / RESULT
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    inside = None if files is None else {name: one for name, one in files.items() if not name.startswith("../")}
    return TrainedModel(result, inside)


def result_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a `TrainResult` by name, those of its validation as `validation/NAME`."""
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    return {**numbers, **{f"validation/{name}": value for name, value in (result.get("metrics") or {}).items()}}
