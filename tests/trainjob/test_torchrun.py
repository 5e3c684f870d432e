# SPDX-License-Identifier: Apache-2.0
"""One training under real torchrun, interrupted again and again: on two nodes, then one node, then one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demos.synthetic import free_port
from steerlm.jobs.backend import Job, JobStatus, job_name
from steerlm.jobs.local import LocalBackend
from steerlm.trainjob import token_index
from tests.conftest import ROOT
from tests.megatron.training_ranks import Ranks, Training, checkpoints, curve

pytestmark = pytest.mark.long

STEPS = 200
# A low rate: at a high one, roundings of another layout would grow over so many steps.
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_every": 20,
    "optimizer": {"lr": 5e-4, "min_lr": 5e-5, "eps": 1e-5},
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="module")
def alone(training: Training) -> dict[int, float]:
    """The loss curve of one process."""
    spec = training.spec("alone", **SETTINGS)
    assert Ranks(spec).ends() == ([0], [""])
    return curve(spec)


def _agents(spec: Path) -> list[subprocess.Popen[bytes]]:
    """Build the token indexes, then start torchrun on two nodes of one process each."""
    token_index.main([str(spec)])
    port = free_port()
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)]
        command += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
        command += ["--shutdown-timeout", "60", "-m", "steerlm.trainjob.worker", str(spec)]
        with open(spec.with_suffix(f".node-{node}.log"), "ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            agents.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT))
    return agents


def _end(agents: list[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [agent.wait(90) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()


def _wait(backend: LocalBackend, name: str) -> JobStatus:
    end = time.monotonic() + 90
    while not (status := backend.status(name)).ended:
        assert time.monotonic() < end, "the job did not end"
        time.sleep(0.05)
    return status


def _workers(job: Job) -> list[int]:
    """Process ids of the job's workers, in the order of their ranks."""
    workers = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{job.folder}/spec.json" in (path / "cmdline").read_text().split("\0"):
                environment = dict(e.split("=", 1) for e in (path / "environ").read_text().split("\0") if "=" in e)
                workers[environment.get("RANK")] = int(path.name)
        except OSError:
            continue
    return [pid for rank, pid in sorted(workers.items(), key=lambda item: str(item[0])) if rank is not None]


def test_two_nodes_from_start_to_end(training: Training, alone: dict[int, float]) -> None:
    spec = training.spec("whole", layout={"nodes": 2, "devices": 1}, **SETTINGS)
    assert _end(_agents(spec)) == [0, 0]
    assert curve(spec) == pytest.approx(alone, rel=0, abs=1e-4)
    _check_result(training.folder / "whole")


def _check_result(folder: Path) -> None:
    result = json.loads((folder / "work" / "result.json").read_text())
    assert result["steps"] == STEPS and (folder / "model" / "config.json").exists()


def test_two_nodes_then_one_then_one_process(training: Training, alone: dict[int, float]) -> None:
    # Two nodes; one agent gets SIGTERM: its worker and the other node's save.
    spec = training.spec("run", layout={"nodes": 2, "devices": 1}, **SETTINGS)
    agents = _agents(spec)
    while len(curve(spec)) < 3 and agents[1].poll() is None:
        time.sleep(0.02)
    agents[1].send_signal(signal.SIGTERM)
    logs = [spec.with_suffix(f".node-{node}.log") for node in range(2)]
    assert all(_end(agents)), [log.read_text() for log in logs]
    saved = max(curve(spec))
    assert 3 <= saved < STEPS and checkpoints(spec)[f"step-{saved:06d}"]
    for log in logs:  # each worker's message, among its agent's lines
        assert f"stopped after step {saved} of {STEPS}, saved in" in log.read_text()

    # One node of two processes resumes on the local back end; one is killed, the other ends soon and reports why.
    spec = training.spec("run", layout={"devices": 2}, **SETTINGS)
    folder = training.folder / "run" / "process"
    content, title = json.loads(spec.read_text()), job_name("train-text", folder)
    job = Job(title, "steerlm.trainjob.worker", content, folder, folder / "log", devices=2)
    backend = LocalBackend(grace_seconds=20)
    name = backend.ensure(job)
    while len(curve(spec)) < saved + 3 and not backend.status(name).ended:
        time.sleep(0.02)
    workers = _workers(job)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    start = time.monotonic()
    status = _wait(backend, name)
    assert time.monotonic() - start < 40
    assert status.state == "failed" and not status.final, status
    assert status.message.startswith("another process of this training has ended or does not answer")
    reached = max(curve(spec))
    assert saved + 3 <= reached < STEPS

    # One process resumes from there and reaches the end.
    spec = training.spec("run", **SETTINGS)
    assert Ranks(spec).ends() == ([0], [""])
    assert curve(spec) == pytest.approx(alone, rel=0, abs=1e-4)
    _check_result(training.folder / "run")
