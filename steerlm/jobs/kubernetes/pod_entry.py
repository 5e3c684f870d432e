# SPDX-License-Identifier: Apache-2.0
"""The first process of every pod of a job: `python -m steerlm.jobs.kubernetes.pod_entry ATTEMPT_FOLDER`.

Runs torchrun's agent for this node and says in the end how its workers ended: by the exit code, in the container's
termination message and in the attempt's folder (torchrun itself exits with 1 whatever its workers return).
"""

import contextlib
import io
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from steerlm import attempt, processes
from steerlm.errors import ConfigError, SteerLMError, first_problem
from steerlm.jobs.environment import process_environment
from steerlm.jobs.kubernetes.again import forget_processes
from steerlm.jobs.kubernetes.entry_spec import ENTRY, EntrySpec, NodeRecord, TerminationMessage
from steerlm.jobs.kubernetes.outcome import node_outcome
from steerlm.jobs.kubernetes.process_one import StopSignal, reap_orphans
from steerlm.jobs.kubernetes.rendezvous import Rendezvous, rendezvous
from steerlm.jobs.kubernetes.scratch import scratch_folder, use_scratch
from steerlm.jobs.worker import LOG_FOLDER, WorkerProcess
from steerlm.visibility import limit_seconds

AGENT = "agent.json"
"""In the scratch folder: this process, by which the first process of an MPIJob's pod finds it."""
POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


class NotVisibleError(SteerLMError):
    """The attempt's folder is not there: the workspace is not mounted, or its file system is late."""

    exit_code = 2


def main(arguments: list[str]) -> int:
    """Run this node's workers to their end and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    stop = StopSignal()
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m steerlm.jobs.kubernetes.pod_entry ATTEMPT_FOLDER")
        ended = _run(Path(arguments[0]), stop)
    except Exception as error:
        ended = TerminationMessage.of_error(error)
    if ended.exit_code:
        sys.stderr.write(f"{ended.message}\n")
    with contextlib.suppress(OSError):
        ended.publish()
    return ended.exit_code


def _run(folder: Path, stop: StopSignal) -> TerminationMessage:
    use_scratch(os.environ)
    WorkerProcess(pid=os.getpid(), started=processes.start_time(os.getpid())).write(scratch_folder() / AGENT)
    entry = read_entry(folder, stop.check)
    place = rendezvous(os.environ, entry.nodes)
    ranks = range(place.rank * entry.devices, (place.rank + 1) * entry.devices)
    forget_processes(folder, ranks)
    record = NodeRecord(node=place.rank, host=socket.gethostname())
    record.write(folder)
    os.environ.update(process_environment(entry.environment, entry.threads, entry.devices))
    os.environ.update({attempt.FOLDER: str(folder), LOG_FOLDER: str(folder)})
    ended = _run_workers(entry, folder, place, ranks, stop)
    with contextlib.suppress(OSError):
        record.model_copy(update={"ended": ended}).write(folder)
    return ended


def read_entry(folder: Path, check: Callable[[], None]) -> EntrySpec:
    """Read `entry.json`, waiting until a late file system shows it; calls `check` meanwhile.

    Raises:
        NotVisibleError: It is not there in time (`limit_seconds`).
        ConfigError: It is not what was expected.
    """
    path = folder / ENTRY
    seconds = limit_seconds()
    end = time.monotonic() + seconds
    while True:
        check()
        try:
            entry = EntrySpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
            if entry.spec.exists():
                return entry
            missing = entry.spec
        except FileNotFoundError:
            missing = path
        except OSError as error:
            raise NotVisibleError(f"{path}: {error.strerror}; is the workspace's volume in order?") from None
        except ValidationError as error:
            raise ConfigError(f"{path}: {first_problem(error)}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error})") from None
        if time.monotonic() > end:
            raise NotVisibleError(
                f"{missing}: no such file after {seconds:g} seconds; is the workspace mounted in this pod, at the same "
                "path as in the launcher?"
            )
        time.sleep(POLL_SECONDS)


def _run_workers(
    entry: EntrySpec, folder: Path, place: Rendezvous, ranks: range, stop: StopSignal
) -> TerminationMessage:
    from steerlm.jobs.kubernetes.agent import NodeAgent

    agent = NodeAgent(entry, folder, place)
    stop.check()
    agent.start()
    passed_on = False
    while not agent.wait(POLL_SECONDS):
        if workers := agent.workers():
            reap_orphans(workers)
        if stop and not passed_on:
            if not agent.workers():  # the agent waits for other nodes, in C++
                return node_outcome(folder, ranks, {}, stopping=True)
            passed_on = True
            agent.signal_workers(signal.SIGTERM)
        if stop.older_than(entry.grace_seconds):
            agent.signal_workers(signal.SIGKILL)
            agent.wait(POLL_SECONDS)
            problem = f"did not stop within {entry.grace_seconds:g} seconds and was killed"
            return node_outcome(folder, ranks, {}, stopping=False, problem=problem)
    problem = ""
    if agent.error is not None:
        problem = f"the nodes of this job did not find each other at {place.address}:{place.port} ({agent.error})"
    return node_outcome(folder, ranks, agent.deaths(), stopping=bool(stop), problem=problem)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the agent's thread may still wait in C++
