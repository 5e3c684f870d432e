# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of a training's processes, to name the one that hangs, was stopped or is gone.

A thread of every process writes `rank-N.json` every few seconds: host and pid, step and phase of the main thread, and
how many collectives it has entered. Files rather than the process group's store, because they can be read when the
process that hosts the store hangs, and after all processes have ended. Ages are differences of modification times, so
they depend on one clock, the file system's.
"""

import contextlib
import faulthandler
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from steerlm import attempt, processes
from steerlm.errors import PeerLostError, first_line
from steerlm.files import partial_path, unique_writer

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Longest time between two heartbeats, in seconds."""
SILENT = 4
"""Missed heartbeats after which a diagnosis calls a process silent."""
NAMED = 4
"""Most processes that a message names; the others are only counted."""
DUMP = "dump-stacks"
"""A file that is touched to make every process dump the Python stacks of its threads."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The content of a heartbeat file.

    Attributes:
        started: The process's start time in kernel ticks, which tells it from a later process with the same pid.
        stage: Pipeline stage.
        phases: How many phases the main thread has started.
        collectives: How many collectives it has entered.
        ended: None while it runs; then why it ended, or an empty string if it is not the cause of a failure.
    """

    rank: int
    host: str
    pid: int
    started: str
    stage: int = 0
    step: int = 0
    phase: str = "starting"
    phases: int = 0
    collectives: int = 0
    ended: str | None = None

    @property
    def process(self) -> str:
        """The process as messages name it: rank, host and pid."""
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def progress(self) -> tuple[int, int]:
        """Phases started and collectives entered; unchanged while the process hangs."""
        return self.phases, self.collectives


class Heartbeat:
    """Writes this process's heartbeat and watches those of the others. A context manager.

    Each process watches the next rank. A process without others only keeps its phase.

    Attributes:
        limit: Seconds without a heartbeat of the next rank after which `on_lost` receives `diagnosis()`. It is called
            in the heartbeat's thread, as the main thread may wait in a collective that no timeout ends.
        dumped: A file that torch's flight recorder writes when a collective has timed out in this process;
            `on_timeout` then receives the diagnosis.
        collectives: Returns how many collectives this process has entered.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        world: int,
        limit: float = math.inf,
        *,
        dumped: Path | None = None,
        on_lost: Callable[[str], None] = log.error,
        on_timeout: Callable[[str], None] = log.error,
    ) -> None:
        self.folder, self.world, self.limit = folder, world, limit
        self.interval = min(INTERVAL, limit / 10)
        self.on_lost, self.on_timeout, self.dumped = on_lost, on_timeout, dumped
        self.collectives: Callable[[], int] = lambda: 0
        self.beat = Beat(rank, socket.gethostname(), os.getpid(), processes.start_time(os.getpid()) or "")
        self._next = (rank + 1) % world
        self._seen: int | None = None
        self._beats, self._since, self._checked = False, time.monotonic(), time.monotonic()
        self._dump_requested = self._changed(folder / DUMP)
        self._dumped = self._changed(dumped) if dumped else 0
        self._progress, self._moved = self.beat.progress, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Also after fatal signals, which end a process without a Python traceback: NCCL aborts with one.
        self._stacks = open(self.folder / f"stacks-{self.beat.rank}.txt", "a", encoding="utf-8")
        faulthandler.enable(self._stacks)
        if self.world > 1:
            self._write()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        if self.world > 1:
            self._thread.join(self.interval)
            cause = error if error is not None and not isinstance(error, PeerLostError) else None
            self.beat = replace(self.beat, ended=f"has ended: {first_line(cause)}" if cause else "")
            self._write()
        faulthandler.enable()
        self._stacks.close()

    def mark(self, phase: str, step: int) -> None:
        """Record that the main thread starts `phase`. Does no I/O, but that rank 0 of a pod reports to the launcher."""
        beat = self.beat
        if beat.rank == 0:
            # Reading a batch is part of its step: two phases a step would be two reports a step.
            attempt.report("training" if phase == "reading" else phase, step)
        self.beat = replace(beat, phase=phase, step=step, phases=beat.phases + 1)

    def joined(self, stage: int) -> None:
        """Record this process's pipeline stage. Call it once process groups exist: all processes beat by then."""
        self.beat = replace(self.beat, stage=stage)
        self._beats = True

    def describe(self, rank: int) -> str:
        """Return a rank with its host and pid, such as "rank 1 (node-3, pid 812)"."""
        beat = self._read(rank)
        return beat[0].process if beat else f"rank {rank}"

    def diagnosis(self) -> str:
        """Return which processes have ended, are silent or are behind, in one line; empty if none is.

        Kills silent processes of this machine: the training cannot continue with them, and a stopped process reacts to
        no other signal.
        """
        if self.world == 1:
            return ""
        self._write()
        with contextlib.suppress(OSError):
            (self.folder / DUMP).touch()
        beats = {rank: beat for rank in range(self.world) if (beat := self._read(rank))}
        now = max((changed for _, changed in beats.values()), default=0)
        lost = [self._lost(beat, (now - changed) / 1e9) for beat, changed in beats.values()]
        problems = [text for text in lost if text]
        if not problems and time.monotonic() - self._moved > 2 * self.interval:  # else the beats are older than it
            problems = self._behind([beat for beat, _ in beats.values()])
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        return "; ".join(problems[:NAMED] + more)

    def _lost(self, beat: Beat, age: float) -> str:
        """Describe a process that has ended or whose last heartbeat is `age` seconds old; empty if it is alive."""
        if beat.ended is not None:
            return f"{beat.process} {beat.ended}" if beat.ended else ""
        here = beat.host == self.beat.host
        state = processes.state(beat.pid) if here else None
        same = state is not None and state[1] == beat.started
        where = f"in step {beat.step} ({beat.phase})"
        if here and not same:
            last = self._read(beat.rank)  # another process may have killed it and recorded why
            if last and last[0].ended:
                return f"{beat.process} {last[0].ended}"
            return f"{beat.process} is gone, last heartbeat {where}"
        if age < SILENT * self.interval:
            return ""
        stopped = same and state is not None and state[0] in "Tt"
        reason = f"{'is stopped' if stopped else 'is silent'}, last heartbeat {age:.0f} s ago {where}"
        if same:
            # Written before the kill, so that others who find the process gone can read why.
            self._write(replace(beat, ended=f"{reason}; killed"))
            processes.kill(beat.pid, beat.started)
        return f"{beat.process} {reason}"

    def _behind(self, beats: list[Beat]) -> list[str]:
        """Describe the processes that have started fewer phases or collectives than others of their stage."""
        behind = []
        for beat in beats:
            furthest = max((other for other in beats if other.stage == beat.stage), key=lambda other: other.progress)
            if beat.progress < furthest.progress:
                behind.append(
                    f"{beat.process} is behind: it is in step {beat.step} ({beat.phase}, {beat.collectives} "
                    f"collectives), others are in step {furthest.step} ({furthest.phase}, {furthest.collectives})"
                )
        return behind

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                self._write()
                self._dump_if_requested()
                self._watch()
            except OSError as error:  # a file system that fails for a while must not end the watch
                log.warning("heartbeat: %s", error)

    def _dump_if_requested(self) -> None:
        """Dump the stacks if a process has requested it; report a timeout that torch has recorded."""
        requested = self._changed(self.folder / DUMP)
        if requested != self._dump_requested:
            self._dump_requested = requested
            self._stacks.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.beat}\n")
            self._stacks.flush()
            faulthandler.dump_traceback(self._stacks)
        if self.dumped and (dumped := self._changed(self.dumped)) != self._dumped:
            self._dumped = dumped
            self.on_timeout(self.diagnosis())

    def _watch(self) -> None:
        """Call `on_lost` if the next rank has not beaten for too long."""
        latest, now = self._read(self._next), time.monotonic()
        changed = latest[1] if latest else 0
        paused = now - self._checked > 3 * self.interval  # this process did not run, so it missed nothing for sure
        if changed != self._seen:
            # The first file may be left from an earlier start, whose process no longer runs.
            self._beats = self._beats or self._seen is not None or (latest is not None and self._runs_here(latest[0]))
        if changed != self._seen or paused:
            self._seen, self._since = changed, now
        self._checked = now
        if latest is None or latest[0].ended is not None or not self._beats:
            return
        if (
            now - self._since > self.limit + 2 * self.interval
        ):  # later than a collective's own timeout, where that works
            diagnosis, self._since = self.diagnosis(), now
            self._write(replace(self.beat, ended=""))
            self.on_lost(diagnosis)

    def _runs_here(self, beat: Beat) -> bool:
        state = processes.state(beat.pid) if beat.host == self.beat.host else None
        return state is not None and state[1] == beat.started

    def _write(self, beat: Beat | None = None) -> None:
        """Write this process's heartbeat, or `beat` for another process that is about to be killed."""
        if beat is None:
            beat = replace(self.beat, collectives=self.collectives())
            if beat.progress != self._progress:
                self._progress, self._moved = beat.progress, time.monotonic()
        path = self._path(beat.rank)
        partial = partial_path(path, unique_writer())
        try:
            partial.write_text(json.dumps(asdict(beat)), encoding="utf-8")  # not synced: only for running processes
            partial.replace(path)
        except OSError as error:  # a full disk must neither end a training here nor hide another error
            log.warning("heartbeat: %s", error)

    def _read(self, rank: int) -> tuple[Beat, int] | None:
        """Return the last heartbeat of `rank` and its time in ns of the file system's clock; None without one."""
        try:
            with open(self._path(rank), encoding="utf-8") as file:  # opened before fstat: NFS then asks its server
                return Beat(**json.load(file)), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.json"

    @staticmethod
    def _changed(path: Path) -> int:
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
