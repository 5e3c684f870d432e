# SPDX-License-Identifier: Apache-2.0
"""The attempts of a job: records in its folder in the workspace, which survive the launcher.

    FOLDER/attempts/current        number of the attempt that may publish files
    FOLDER/attempts/N/attempt.json what the launcher knows of attempt N
    FOLDER/attempts/N/entry.json   what its pods read (`pod_entry.EntrySpec`)
    FOLDER/attempts/N/spec.json    the worker's SPEC.json
    FOLDER/attempts/N/stop         its workers save and stop when they see this file
    FOLDER/attempts/N/rank-R.log   the output of each process; heartbeat.json, status-R.json, files.json beside them

Only the launcher writes the first three; it holds the lock of the stage's key meanwhile.
"""

import hashlib
import itertools
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel

from steerlm.files import write_json
from steerlm.jobs.backend import complete_lines

ATTEMPTS, RECORD = "attempts", "attempt.json"
OBJECT_NAME_LENGTH = 45
"""Longest name of a job object: operators add suffixes such as `-worker-31`, and pod names end at 63 characters."""
Outcome = Literal["succeeded", "failed", "interrupted"]


def object_name(job: str, attempt: int) -> str:
    """Return the name of an attempt's job object, a DNS-1035 label of at most 45 characters.

    >>> object_name("train-reward-1f", 2)
    'train-reward-1f-2'
    """
    suffix = f"-{attempt}"
    digest = hashlib.sha256(job.encode()).hexdigest()[:8]
    room = OBJECT_NAME_LENGTH - len(suffix)
    name = job if job[0].isalpha() else f"j-{job}"
    if len(name) > room:
        name = f"{name[: room - 9].rstrip('-')}-{digest}"
    return re.sub(r"-+", "-", name) + suffix


class Attempt(BaseModel):
    """`attempt.json`.

    Attributes:
        number: From 1.
        run: The submission that started it; its starts are bounded, and a launcher that takes over counts on.
        hash: What a job must share with this attempt to be attached to.
        log_start: Sum of the sizes of the earlier attempts' logs of rank 0, so that an offset stays valid.
        nodes: Number of its pods that compute.
        log: The job's log, to which this attempt's is appended when it has ended.
        avoid: Nodes that its pods keep away from.
        suspects: Nodes that are to blame for its end; the next attempt avoids them too.
        step: The newest step that its workers reported.
        canceled: A stop was requested.
        outcome: None until it has ended.
        message: Why it failed.
        final: Starting the job again cannot help.
        tail: The last lines of the process that failed first.
    """

    number: int
    run: str
    hash: str
    nodes: int
    log: Path | None = None
    log_start: int = 0
    avoid: list[str] = []
    suspects: list[str] = []
    step: int = 0
    canceled: bool = False
    outcome: Outcome | None = None
    message: str = ""
    final: bool = False
    exit_code: int = 1
    tail: list[str] = []

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `attempt.json` in an attempt's folder."""
        return cls.model_validate_json((folder / RECORD).read_bytes())

    def write(self, folder: Path) -> None:
        """Write `attempt.json` into an attempt's folder."""
        write_json(folder / RECORD, self.model_dump(mode="json"))


def attempt_folder(job_folder: Path, number: int) -> Path:
    """Return the folder of an attempt."""
    return job_folder / ATTEMPTS / str(number)


def main_log(job_folder: Path, number: int) -> Path:
    """Return the log of an attempt's rank 0."""
    return attempt_folder(job_folder, number) / "rank-0.log"


def append_log(attempt: Attempt, main: Path) -> None:
    """Append the log of an attempt's rank 0 to the job's log, which the stage keeps and its messages name."""
    if attempt.log is None or not main.exists():
        return
    attempt.log.parent.mkdir(parents=True, exist_ok=True)
    with open(main, "rb") as source, open(attempt.log, "ab") as target:
        shutil.copyfileobj(source, target)


def lines(job_folder: Path, since: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the complete lines of rank 0 of all attempts after offset `since`, each with the offset behind it.

    What processes of an attempt write when the next one has begun belongs to no offset, and is left out.
    """
    found = attempts(job_folder)
    for attempt, later in itertools.zip_longest(found, found[1:]):
        limit = later.log_start if later else math.inf
        if since >= limit:
            continue
        for end, line in complete_lines(main_log(job_folder, attempt.number), max(0, since - attempt.log_start)):
            if attempt.log_start + end > limit:
                break
            yield attempt.log_start + end, line


def attempts(job_folder: Path) -> list[Attempt]:
    """Return the attempts of a job, oldest first."""
    paths = (job_folder / ATTEMPTS).glob(f"*/{RECORD}")
    return sorted((Attempt.read(path.parent) for path in paths), key=lambda attempt: attempt.number)


def starts_of_run(earlier: Sequence[Attempt]) -> int:
    """Return how many of the newest attempts the same run has started, since the job last succeeded."""
    count = 0
    for attempt in reversed(earlier):
        if attempt.run != earlier[-1].run or (attempt.outcome == "succeeded" and attempt is not earlier[-1]):
            break
        count += 1
    return count


def idle_starts(earlier: Sequence[Attempt]) -> int:
    """Return how many of the newest attempts of this run have reached no step that was new."""
    of_run = earlier[len(earlier) - starts_of_run(earlier) :]
    reached = max((one.step for one in earlier[: len(earlier) - len(of_run)]), default=0)
    idle = 0
    for attempt in of_run:
        idle = 0 if attempt.step > reached else idle + 1
        reached = max(reached, attempt.step)
    return idle
