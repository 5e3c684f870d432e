# SPDX-License-Identifier: Apache-2.0
"""Attempts are counted over launchers: by the run that started them, and by the steps that they reached."""

import re
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.kubernetes.attempts import (
    OBJECT_NAME_LENGTH,
    Attempt,
    append_log,
    idle_starts,
    main_log,
    object_name,
    starts_of_run,
)


def attempts(*rows: tuple[str, int], **more: Any) -> list[Attempt]:
    return [
        Attempt(number=number, run=run, hash="h", nodes=1, step=step, outcome="failed", **more)
        for number, (run, step) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize("job", ["train-reward-1f", "1-job", "a" * 63, "x-" * 30 + "y", "annotate-" + "b" * 50])
@pytest.mark.parametrize("attempt", [1, 12])
def test_names_of_objects_are_dns_labels_with_room_for_the_operators_suffix(job: str, attempt: int) -> None:
    name = object_name(job, attempt)
    assert len(name) <= OBJECT_NAME_LENGTH
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and name.endswith(f"-{attempt}")


def test_names_of_long_jobs_differ() -> None:
    assert object_name("a" * 62 + "x", 1) != object_name("a" * 62 + "y", 1)


def test_the_starts_of_another_run_do_not_count() -> None:
    assert starts_of_run(attempts(("one", 5), ("one", 9), ("two", 9), ("two", 12))) == 2
    assert starts_of_run(attempts(("one", 5))) == 1
    earlier = attempts(("one", 5), ("one", 9))
    earlier[0] = earlier[0].model_copy(update={"outcome": "succeeded"})
    assert starts_of_run(earlier) == 1


@pytest.mark.parametrize(
    ("rows", "idle"),
    [
        ([("one", 5)], 0),
        ([("one", 0)], 1),
        ([("one", 5), ("one", 5)], 1),
        ([("one", 5), ("one", 5), ("one", 4)], 2),
        ([("one", 5), ("one", 5), ("one", 6)], 0),
        ([("one", 5), ("two", 5)], 1),
        ([("one", 5), ("one", 5), ("two", 6), ("two", 6)], 1),
    ],
)
def test_starts_that_reach_no_new_step_are_idle(rows: list[tuple[str, int]], idle: int) -> None:
    assert idle_starts(attempts(*rows)) == idle


def test_the_jobs_log_has_the_lines_of_every_attempt(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "train.log"
    for attempt in attempts(("one", 1), ("one", 2), ("one", 2)):
        main = main_log(tmp_path, attempt.number)
        if attempt.number < 3:
            main.parent.mkdir(parents=True)
            main.write_text(f"attempt {attempt.number}\n")
        append_log(attempt.model_copy(update={"log": log}), main)
    assert log.read_text() == "attempt 1\nattempt 2\n", "the third ended before its first line"
