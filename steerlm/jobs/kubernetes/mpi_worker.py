# SPDX-License-Identifier: Apache-2.0
"""The first process of a node's pod in an MPIJob: `python -m steerlm.jobs.kubernetes.mpi_worker ATTEMPT_FOLDER`.

Runs the ssh server through which mpirun starts the node's agent (`pod_entry`). mpirun does not tell the agent when this
pod is to stop. So on SIGTERM this process writes the attempt's stop file, which makes all processes of the job save,
and waits for the agent to end.
"""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from steerlm import attempt, processes
from steerlm.errors import ConfigError, SteerLMError
from steerlm.jobs.kubernetes.entry_spec import EntrySpec, TerminationMessage
from steerlm.jobs.kubernetes.pod_entry import AGENT, POLL_SECONDS, read_entry
from steerlm.jobs.kubernetes.process_one import StopSignal, reap_orphans
from steerlm.jobs.kubernetes.scratch import scratch_folder, use_scratch
from steerlm.jobs.kubernetes.ssh import named_user, server_command
from steerlm.jobs.worker import WorkerProcess
from steerlm.signals import SIGTERM_EXIT_CODE

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run the ssh server until the pod is to stop; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    stop = StopSignal()
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m steerlm.jobs.kubernetes.mpi_worker ATTEMPT_FOLDER")
        return _run(Path(arguments[0]), stop)
    except (SteerLMError, OSError, subprocess.CalledProcessError) as error:
        ended = TerminationMessage.of_error(error)
        sys.stderr.write(f"{ended.message}\n")
        ended.publish()
        return ended.exit_code


def _run(folder: Path, stop: StopSignal) -> int:
    use_scratch(os.environ)
    entry = read_entry(folder, stop.check)
    name = named_user()
    own = {**os.environ, attempt.FOLDER: str(folder)}
    server = subprocess.Popen(server_command(scratch_folder() / "ssh", own), stdin=subprocess.DEVNULL)
    log.info("waiting for mpirun, as user %s", name)
    try:
        while not stop:
            if server.poll() is not None:
                raise SteerLMError(f"the ssh server ended with exit status {server.returncode}; see its messages above")
            reap_orphans([server.pid])
            time.sleep(POLL_SECONDS)
        return _stop_agent(entry, folder, stop, server)
    finally:
        server.terminate()


def _stop_agent(entry: EntrySpec, folder: Path, stop: StopSignal, server: "subprocess.Popen[bytes]") -> int:
    """Request a stop, and wait until the agent has ended; the code says whether there was one."""
    agent = _agent()
    if agent is None:
        return 0
    (folder / attempt.STOP).touch()
    log.info("requesting that the job save and stop")
    while processes.start_time(agent.pid) == agent.started:
        if stop.older_than(entry.grace_seconds):
            log.warning("the job did not stop within %g seconds", entry.grace_seconds)
            break
        reap_orphans([server.pid])
        time.sleep(POLL_SECONDS)
    return SIGTERM_EXIT_CODE


def _agent() -> WorkerProcess | None:
    """Return the running agent of this pod."""
    path = scratch_folder() / AGENT
    agent = WorkerProcess.read(path) if path.exists() else None
    return agent if agent and processes.start_time(agent.pid) == agent.started else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
