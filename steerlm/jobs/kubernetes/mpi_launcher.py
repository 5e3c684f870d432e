# SPDX-License-Identifier: Apache-2.0
"""The first process of an MPIJob's launcher pod: `python -m steerlm.jobs.kubernetes.mpi_launcher ATTEMPT_FOLDER`.

Runs mpirun with one agent (`pod_entry`) on each node. mpirun says no more than that a process failed, so the exit code
and the termination message come from what the agents have written into the attempt's folder.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from steerlm import attempt
from steerlm.errors import ConfigError, SteerLMError
from steerlm.jobs.kubernetes.again import forget_nodes
from steerlm.jobs.kubernetes.entry_spec import EntrySpec, NodeRecord, TerminationMessage
from steerlm.jobs.kubernetes.outcome import job_outcome
from steerlm.jobs.kubernetes.pod_entry import POLL_SECONDS, read_entry
from steerlm.jobs.kubernetes.process_one import StopSignal, reap_orphans
from steerlm.jobs.kubernetes.rendezvous import HOST_FILE, PORT, hosts
from steerlm.jobs.kubernetes.scratch import scratch_folder, use_scratch
from steerlm.jobs.kubernetes.ssh import SSH_PORT, client_options, named_user
from steerlm.training.layout import STARTUP_TIMEOUT_MINUTES
from steerlm.visibility import limit_seconds

log = logging.getLogger(__name__)


class NodeUnreachableError(SteerLMError):
    """A node's ssh server does not answer."""


def main(arguments: list[str]) -> int:
    """Run the job's agents to their end and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    stop = StopSignal()
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m steerlm.jobs.kubernetes.mpi_launcher ATTEMPT_FOLDER")
        ended = _run(Path(arguments[0]), stop)
    except (SteerLMError, OSError) as error:
        ended = TerminationMessage.of_error(error)
    if ended.exit_code:
        sys.stderr.write(f"{ended.message}\n")
    ended.publish()
    return ended.exit_code


def _run(folder: Path, stop: StopSignal) -> TerminationMessage:
    use_scratch(os.environ)
    entry = read_entry(folder, stop.check)
    named_user()
    names = hosts(os.environ.get(HOST_FILE))
    if len(names) != entry.nodes:
        raise ConfigError(f"the host file names {len(names)} hosts, but entry.json says {entry.nodes} nodes")
    for name in names:
        _wait_for_server(name, stop)
    forget_nodes(folder, entry.nodes)
    command, environment = mpirun(entry, folder, names[0], client_options(scratch_folder() / "ssh"))
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    last = _Last(child)
    while child.poll() is None:
        reap_orphans([child.pid])
        if stop and not (folder / attempt.STOP).exists():
            (folder / attempt.STOP).touch()  # a signal to mpirun would kill the agents after a second
        if stop.older_than(entry.grace_seconds):
            child.terminate()
        time.sleep(POLL_SECONDS)
    return _outcome(entry, folder, child.returncode, last.text())


def mpirun(entry: EntrySpec, folder: Path, first: str, ssh_options: str) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that starts the agents, and the variables of mpirun itself.

    Args:
        entry: The job.
        folder: The attempt's folder.
        first: The host of rank 0.
        ssh_options: For every connection.
    """
    port = os.environ.get("PET_MASTER_PORT") or str(PORT)
    passed_on = {"PET_MASTER_ADDR": first, "PET_MASTER_PORT": port, attempt.FOLDER: str(folder)}
    command = ["mpirun", "-np", str(entry.nodes), "--map-by", "ppr:1:node", "--bind-to", "none"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    for name, value in passed_on.items():
        command += ["-x", f"{name}={value}"]
    command += [sys.executable, "-m", "steerlm.jobs.kubernetes.pod_entry", str(folder)]
    return command, {
        "OMPI_MCA_plm_rsh_args": ssh_options,
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",  # only this pod can log in on the nodes
        # The agents of the other nodes end by themselves, and write down why; mpirun would kill them after a second.
        "OMPI_MCA_orte_abort_on_non_zero_status": "0",
        "OMPI_MCA_odls_base_sigkill_timeout": str(int(entry.grace_seconds)),  # if this pod is lost
    }


def _wait_for_server(host: str, stop: StopSignal) -> None:
    """Wait until a node's name is known and its ssh server answers. Raises `NodeUnreachableError`."""
    end = time.monotonic() + STARTUP_TIMEOUT_MINUTES * 60
    while True:
        stop.check()
        try:
            socket.create_connection((host, SSH_PORT), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise NodeUnreachableError(f"{host} does not answer on port {SSH_PORT} ({error})") from None
        time.sleep(POLL_SECONDS)


class _Last:
    """Passes mpirun's error output on, and keeps its last line that is not a ruler."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._line, self._stream = "", child.stderr
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def _forward(self) -> None:
        for line in self._stream or ():
            sys.stderr.write(line)
            self._line = line.strip().strip("-") or self._line

    def text(self) -> str:
        self._thread.join(POLL_SECONDS)
        return self._line


def _outcome(entry: EntrySpec, folder: Path, code: int, last: str) -> TerminationMessage:
    """Return why the job ended, waiting until a late file system shows what the agents have written.

    mpirun's own exit status is 0 also if agents have failed, as it was told not to end the others.
    """
    end = time.monotonic() + limit_seconds()
    while True:
        records = NodeRecord.read_all(folder)
        late = entry.nodes - sum(record.ended is not None for record in records)
        if not late or time.monotonic() > end:
            break
        time.sleep(POLL_SECONDS)
    message = f"mpirun ended with exit status {code}, and {late} of {entry.nodes} nodes have not written how they ended"
    unknown = TerminationMessage(exit_code=1, kind="retryable", message=message + (f" ({last})" if last else ""))
    return job_outcome(records, entry.nodes) or unknown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
