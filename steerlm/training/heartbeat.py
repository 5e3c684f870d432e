# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of a training's processes, so that the one that hangs, was stopped or is gone can be named.

Every process writes `rank-N.json` every few seconds from a thread: who it is, how far its main thread has come, how
many collectives it has entered. Files rather than the process group's store: they can be read when the process that
keeps the store is the one that hangs, and after all have ended. Ages are differences of modification times, so they
hang on one clock, the file system's.
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

from steerlm import processes
from steerlm.errors import PeerLostError, first_line
from steerlm.files import partial_path

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two beats, at most."""
SILENT = 4
"""Beats that a process has missed when it counts as silent, once the others know that something is wrong."""
NAMED = 4
"""Processes that a message names; the others are counted."""
DUMP = "dump-stacks"
"""A file whose change asks every process to write down the Python stacks of its threads."""


@dataclass(frozen=True, slots=True)
class Beat:
    """`phases`: how many the main thread has begun. `started`: the process's start time in the kernel's ticks, which
    with `pid` tells it from a later process of the same number. `stage`: of the pipeline. `ended`: None while it runs,
    else what the others say of it; empty if it is not the cause of anything."""

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
    def who(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def progress(self) -> tuple[int, int]:
        return self.phases, self.collectives


class Heartbeat:
    """This process's heartbeat, and what those of the others say. A context manager; without other processes it only
    remembers the phase.

    Each process watches the next rank. If that one does not beat for `limit` seconds, `on_lost` gets `diagnosis()`, in
    the heartbeat's thread: the main thread may wait in a collective that no timeout ends. `dumped`: a file that torch
    writes when a collective has timed out in this process (the flight recorder's); `on_timeout` gets the diagnosis
    then. `collectives`: how many this process has entered.
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
        self.beat = Beat(rank, socket.gethostname(), os.getpid(), processes.started(os.getpid()) or "")
        self._next = (rank + 1) % world
        self._seen: int | None = None
        self._beats, self._since, self._checked = False, time.monotonic(), time.monotonic()
        self._asked = self._changed(folder / DUMP)
        self._dumped = self._changed(dumped) if dumped else 0
        self._progress, self._moved = self.beat.progress, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Also for the signals of a crash, which end a process without a word of Python: NCCL aborts by one.
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
        """The main thread begins `phase`. Costs no I/O."""
        beat = self.beat
        self.beat = replace(beat, phase=phase, step=step, phases=beat.phases + 1)

    def joined(self, stage: int) -> None:
        """The process groups are made, so every process has begun to beat; this one's pipeline stage is `stage`."""
        self.beat = replace(self.beat, stage=stage)
        self._beats = True

    def who(self, rank: int) -> str:
        """A rank with its host and process."""
        beat = self._read(rank)
        return beat[0].who if beat else f"rank {rank}"

    def diagnosis(self) -> str:
        """Which processes have ended, are silent or are behind, in one line; empty if none is, or none other exists.

        Silent ones of this machine are killed: a stopped process takes no other signal, and nothing goes on with it.
        """
        if self.world == 1:
            return ""
        self._write()
        with contextlib.suppress(OSError):
            (self.folder / DUMP).touch()
        found = {rank: beat for rank in range(self.world) if (beat := self._read(rank))}
        now = max((changed for _, changed in found.values()), default=0)
        lost = [self._lost(beat, (now - changed) / 1e9) for beat, changed in found.values()]
        said = [text for text in lost if text]
        if not said and time.monotonic() - self._moved > 2 * self.interval:  # else the beats are older than the trouble
            said = self._behind([beat for beat, _ in found.values()])
        more = [f"and {len(said) - NAMED} more"] if len(said) > NAMED else []
        return "; ".join(said[:NAMED] + more)

    def _lost(self, beat: Beat, age: float) -> str:
        """What to say of a process that has ended or was last heard of `age` seconds ago; empty if it beats."""
        if beat.ended is not None:
            return f"{beat.who} {beat.ended}" if beat.ended else ""
        here = beat.host == self.beat.host
        state = processes.state(beat.pid) if here else None
        same = state is not None and state[1] == beat.started
        where = f"in step {beat.step} ({beat.phase})"
        if here and not same:
            last = self._read(beat.rank)  # another process may have killed it since its beat was read, and says why
            if last and last[0].ended:
                return f"{beat.who} {last[0].ended}"
            return f"{beat.who} is gone, last heard of {where}"
        if age < SILENT * self.interval:
            return ""
        stopped = same and state is not None and state[0] in "Tt"
        reason = f"{'is stopped' if stopped else 'is silent'}, last heard of {age:.0f} s ago {where}"
        if same:
            # Before the kill: a process that finds this one gone must find the reason too.
            self._write(replace(beat, ended=f"{reason}; killed"))
            processes.kill(beat.pid, beat.started)
        return f"{beat.who} {reason}"

    def _behind(self, beats: list[Beat]) -> list[str]:
        """Processes that all beat: those that have entered fewer phases or collectives than others of their stage."""
        said = []
        for beat in beats:
            furthest = max((other for other in beats if other.stage == beat.stage), key=lambda other: other.progress)
            if beat.progress < furthest.progress:
                said.append(
                    f"{beat.who} has not arrived: it is in step {beat.step} ({beat.phase}, {beat.collectives} "
                    f"collectives), others in step {furthest.step} ({furthest.phase}, {furthest.collectives})"
                )
        return said

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                self._write()
                self._answer()
                self._watch()
            except OSError as error:  # a file system that is away for a while must not end the watch
                log.warning("heartbeat: %s", error)

    def _answer(self) -> None:
        """Dump the stacks if a process has asked for them; report a timeout that only torch has noticed."""
        asked = self._changed(self.folder / DUMP)
        if asked != self._asked:
            self._asked = asked
            self._stacks.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.beat}\n")
            self._stacks.flush()
            faulthandler.dump_traceback(self._stacks)
        if self.dumped and (dumped := self._changed(self.dumped)) != self._dumped:
            self._dumped = dumped
            self.on_timeout(self.diagnosis())

    def _watch(self) -> None:
        found, now = self._read(self._next), time.monotonic()
        changed = found[1] if found else 0
        paused = now - self._checked > 3 * self.interval  # this process itself: of the other it knows nothing
        if changed != self._seen:
            # The first file may be of an earlier start, whose process is not running any more.
            self._beats = self._beats or self._seen is not None or (found is not None and self._runs_here(found[0]))
        if changed != self._seen or paused:
            self._seen, self._since = changed, now
        self._checked = now
        if found is None or found[0].ended is not None or not self._beats:
            return
        if now - self._since > self.limit + 2 * self.interval:  # a collective's own timeout comes first, where it works
            diagnosis, self._since = self.diagnosis(), now
            self._write(replace(self.beat, ended=""))
            self.on_lost(diagnosis)

    def _runs_here(self, beat: Beat) -> bool:
        state = processes.state(beat.pid) if beat.host == self.beat.host else None
        return state is not None and state[1] == beat.started

    def _write(self, beat: Beat | None = None) -> None:
        """Write this process's beat, or in place of a process that is dead, its last."""
        if beat is None:
            beat = replace(self.beat, collectives=self.collectives())
            if beat.progress != self._progress:
                self._progress, self._moved = beat.progress, time.monotonic()
        path = self._path(beat.rank)
        partial = partial_path(path, f"{self.beat.rank}-{threading.get_ident()}")
        try:
            partial.write_text(json.dumps(asdict(beat)), encoding="utf-8")  # not synced: it is for the living
            partial.replace(path)
        except OSError as error:  # a full disk must not end a training here, nor hide what else it has ended
            log.warning("heartbeat: %s", error)

    def _read(self, rank: int) -> tuple[Beat, int] | None:
        """Its last beat and when that was, in ns of the file system's clock."""
        try:
            with open(self._path(rank), encoding="utf-8") as file:  # (NFS asks its server when a file is opened)
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
