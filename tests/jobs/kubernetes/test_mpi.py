# SPDX-License-Identifier: Apache-2.0
"""The launcher and the nodes of an MPIJob. mpirun is a stand-in that starts the agents here; ssh is on the cluster."""

import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm import processes
from steerlm.attempt import STOP
from steerlm.jobs.kubernetes import ssh
from steerlm.jobs.kubernetes.again import forget_nodes
from steerlm.jobs.kubernetes.attempts import Attempt
from steerlm.jobs.kubernetes.entry_spec import NodeRecord, TerminationMessage
from steerlm.jobs.worker import WorkerProcess
from tests.conftest import ROOT
from tests.jobs.kubernetes.pods import SECONDS, Pods, wait_for

MPIRUN = """
import os, subprocess, sys

options, environment = sys.argv[1:], dict(os.environ)
command = options[options.index(sys.executable):]
for i, option in enumerate(options):
    if option == "-x":
        name, _, value = options[i + 1].partition("=")
        environment[name] = value
agents = [
    subprocess.Popen(command, env={**environment, "OMPI_COMM_WORLD_RANK": str(n), "STEERLM_SCRATCH": f"{place}-{n}"})
    for place in [os.environ["STEERLM_SCRATCH"]]
    for n in range(int(options[options.index("-np") + 1]))
]
for agent in agents:
    agent.wait()  # and exit with 0 whatever they return, as mpirun does with orte_abort_on_non_zero_status 0
"""
FAKE = "tests.jobs.fake_worker"


def start(module: str, attempt: Pods, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"steerlm.jobs.kubernetes.{module}", str(attempt.folder)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STEERLM_SCRATCH": str(attempt.job / "scratch"),
            "STEERLM_TERMINATION_LOG": str(attempt.job / "termination-0"),
            "STEERLM_VISIBLE_SECONDS": "2",
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("id_rsa", "authorized_keys"):
        (folder / name).write_text("a key\n")
        (folder / name).chmod(0o644)
    return folder


@pytest.fixture
def launcher(tmp_path: Path, keys: Path) -> Iterator[Any]:
    """Starts the launcher of two nodes, whose ssh server is only a port that answers."""
    program = tmp_path / "bin" / "mpirun"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}{MPIRUN}")
    program.chmod(0o755)
    hosts = tmp_path / "hostfile"
    hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    attempts: list[Pods] = []
    launchers: list[subprocess.Popen[str]] = []

    def start_launcher(**spec: Any) -> tuple[Pods, "subprocess.Popen[str]"]:
        attempt = Pods(tmp_path, FAKE, {"work": str(tmp_path), **spec}, nodes=2).publish()
        attempts.append(attempt)
        path = f"{program.parent}:{os.environ['PATH']}"
        variables = {"OMPI_MCA_orte_default_hostfile": str(hosts), ssh.KEYS: str(keys), "PATH": path}
        variables["PET_MASTER_PORT"] = str(attempt.port)
        launchers.append(start("mpi_launcher", attempt, **variables))
        return attempt, launchers[-1]

    with socket.create_server(("127.0.0.1", ssh.SSH_PORT), backlog=100):
        yield start_launcher
    for process in launchers:
        process.kill()
    for attempt in attempts:
        attempt.kill()


def test_the_launcher_runs_an_agent_on_each_node(launcher: Any, tmp_path: Path) -> None:
    attempt, process = launcher(steps=3)
    assert process.wait(SECONDS) == 0
    assert attempt.message().exit_code == 0
    assert all("step 3/3" in attempt.log(rank) for rank in range(2))
    key = tmp_path / "scratch" / "ssh" / "id_rsa"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600  # ssh refuses one that others can read


def test_the_launcher_ends_with_the_cause(launcher: Any) -> None:
    attempt, process = launcher(steps=60, pause=0.05, fail_at=2)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and error.splitlines()[-1] == "the loss is not finite"
    message = attempt.message()
    assert (message.kind, message.rank, message.message) == ("permanent", 0, "the loss is not finite")


def test_a_signal_to_the_launcher_becomes_the_stop_file(launcher: Any) -> None:
    attempt, process = launcher(steps=200, pause=0.05)
    wait_for(lambda: "step 2/" in attempt.log(1), "step 2")
    process.send_signal(signal.SIGTERM)
    wait_for((attempt.folder / "stop").exists, "the stop file")
    # This worker does not read it, and ends as planned: mpirun must have got no signal.
    assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("canceled", [False, True])
def test_what_the_nodes_left_when_their_queue_suspended_them_is_forgotten(tmp_path: Path, canceled: bool) -> None:
    Attempt(number=1, run="r", hash="h", nodes=2, canceled=canceled).write(tmp_path)
    saved = TerminationMessage(exit_code=143, kind="retryable")
    for node in range(2):
        NodeRecord(node=node, host="h", ended=saved).write(tmp_path)
    (tmp_path / STOP).touch()
    forget_nodes(tmp_path, 2)
    assert NodeRecord.read_all(tmp_path) == []
    assert (tmp_path / STOP).exists() is canceled, "a cancel holds for the later pods too"


def test_an_mpirun_that_starts_nothing(launcher: Any, tmp_path: Path) -> None:
    (tmp_path / "bin" / "mpirun").write_text("#!/bin/sh\necho 'ORTE was unable to start' >&2\nexit 213\n")
    attempt, process = launcher(steps=1)
    _, error = process.communicate(timeout=SECONDS)
    message = attempt.message()
    assert (process.returncode, message.kind) == (1, "retryable")
    assert message.message == (
        "mpirun ended with exit status 213, and 2 of 2 nodes have not written how they ended (ORTE was unable to start)"
    )
    assert error.splitlines()[0] == "ORTE was unable to start"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    attempt = Pods(tmp_path, FAKE, {}, nodes=3).publish()
    hosts = tmp_path / "hostfile"
    hosts.write_text("one\ntwo\n")
    process = start("mpi_launcher", attempt, OMPI_MCA_orte_default_hostfile=str(hosts))
    assert process.wait(60) == 2
    assert attempt.message().message == "the host file names 2 hosts, but entry.json says 3 nodes"
    process = start("mpi_worker", attempt, STEERLM_SSH_KEYS=str(tmp_path))
    assert process.wait(60) == 2 and attempt.message().kind == "permanent"


def test_a_session_gets_the_containers_variables_and_only_public_keys(tmp_path: Path) -> None:
    line = ssh.session_environment({"A": 'say "x"', "B": "back\\slash", "C": "two\nlines", "HOME": "/", "D": ""})
    assert shlex.split(line) == ["SetEnv", 'A=say "x"', "B=back\\slash", "D="]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can change its number")
def test_a_user_without_a_name_is_given_one_where_the_images_look(tmp_path: Path) -> None:
    """Here nothing looks there; tests/cluster/test_images.py has the login in an image that does."""
    users = tmp_path / "extrausers" / "passwd"
    code = f"from steerlm.jobs.kubernetes import ssh; ssh.EXTRA_USERS = ssh.Path({str(users)!r}); ssh.named_user()"
    done = subprocess.run(
        ["unshare", "--user", "--map-user=54321", "--map-group=54321", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/scratch/home"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert users.read_text() == "steerlm-54321:x:54321:54321::/scratch/home:/bin/sh\n"
    assert "user 54321 has no passwd entry in this image" in done.stderr


SERVER = """#!/bin/sh
sleep 1000 & child=$!
trap 'kill $child; exit 0' TERM
wait
"""


def test_a_node_that_is_to_stop_requests_it_of_the_job_and_waits(tmp_path: Path, keys: Path) -> None:
    attempt = Pods(tmp_path, FAKE, {"work": str(tmp_path), "steps": 1}).publish()
    server = tmp_path / "bin" / "sshd"
    server.parent.mkdir()
    server.write_text(SERVER)
    server.chmod(0o755)
    path = f"{server.parent}:{os.environ['PATH']}"
    variables = {ssh.KEYS: str(keys), "PATH": path, "NCCL_DEBUG": "WARN"}
    node = start("mpi_worker", attempt, **variables)
    configuration = tmp_path / "scratch" / "ssh" / "sshd_config"
    wait_for(configuration.exists, "the configuration of the ssh server")
    wait_for(lambda: "SetEnv" in configuration.read_text(), "its last line")
    assert '"NCCL_DEBUG=WARN"' in configuration.read_text()
    assert (tmp_path / "scratch" / "ssh" / "host_key").exists()
    agent = subprocess.Popen(["sleep", "1000"])
    record = WorkerProcess(pid=agent.pid, started=processes.start_time(agent.pid))
    record.write(tmp_path / "scratch" / "agent.json")
    node.send_signal(signal.SIGTERM)
    wait_for((attempt.folder / "stop").exists, "the stop file")
    assert node.poll() is None
    agent.kill()
    agent.wait()
    assert node.wait(60) == 143
    # Without an agent there is nothing to wait for.
    node = start("mpi_worker", attempt, **variables)
    wait_for(lambda: "waiting for mpirun" in (node.stderr.readline() if node.stderr else ""), "the ssh server")
    node.send_signal(signal.SIGTERM)
    assert node.wait(60) == 0
