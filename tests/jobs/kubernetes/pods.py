# SPDX-License-Identifier: Apache-2.0
"""The pods of an attempt as processes of this machine, with the variables that Kubeflow's operators set."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demos.synthetic import free_port
from steerlm import processes
from steerlm.jobs.kubernetes.entry_spec import EntrySpec, TerminationMessage
from steerlm.jobs.worker import WorkerProcess
from tests.conftest import ROOT

SECONDS = 300.0
"""Longest wait of a test that fails; starting a pod takes seconds of CPU time."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)


class Pods:
    """An attempt of a job in `job`, its nodes, and what they leave."""

    def __init__(self, job: Path, module: str, spec: dict[str, Any], *, number: int = 1, **entry: Any) -> None:
        self.job, self.number = job, number
        self.folder = job / "attempts" / str(number)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "spec.json").write_text(json.dumps(spec))
        self.entry = EntrySpec(module=module, spec=self.folder / "spec.json", **{"threads": 1, **entry})
        self.pods: list[subprocess.Popen[str]] = []
        self.environment: dict[str, str | None] = {}
        self.prefix: list[str] = []
        self.port = free_port()

    def publish(self) -> "Pods":
        """What the launcher writes before it creates the job."""
        (self.job / "attempts" / "current").write_text(f"{self.number}\n")
        self.entry.write(self.folder)
        return self

    def start(self, *nodes: int, **options: Any) -> "Pods":
        for node in nodes or range(self.entry.nodes):
            environment = {
                **os.environ,
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(self.port),
                "PET_NNODES": str(self.entry.nodes),
                "PYTHONPATH": str(ROOT),
                "STEERLM_SCRATCH": str(self.scratch(node)),
                "STEERLM_TERMINATION_LOG": str(self.job / f"termination-{node}"),
                **self.environment,
            }
            self.pods.append(
                subprocess.Popen(
                    [*self.prefix, sys.executable, "-m", "steerlm.jobs.kubernetes.pod_entry", str(self.folder)],
                    env={name: value for name, value in environment.items() if value is not None},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    **options,
                )
            )
        return self

    def scratch(self, node: int) -> Path:
        return self.job / f"scratch-{node}"

    def end(self) -> list[tuple[int, str, str]]:
        """Exit code, standard output and standard error of each pod. What is left after `SECONDS` is killed."""
        end = time.monotonic() + SECONDS
        try:
            output = [pod.communicate(timeout=max(0.1, end - time.monotonic())) for pod in self.pods]
            return [(pod.returncode, *texts) for pod, texts in zip(self.pods, output, strict=True)]
        finally:
            self.kill()

    def kill(self) -> None:
        """What the end of a container does: no process of it stays."""
        for pod in self.pods:
            pod.kill()
        for path in self.folder.glob("process-*.json"):
            worker = WorkerProcess.read(path)
            processes.kill(worker.pid, worker.started)

    def message(self, node: int = 0) -> TerminationMessage:
        return TerminationMessage.model_validate_json((self.job / f"termination-{node}").read_text())

    def log(self, rank: int) -> str:
        path = self.folder / f"rank-{rank}.log"
        return path.read_text() if path.exists() else ""

    def signal_worker(self, rank: int, number: signal.Signals) -> None:
        os.kill(WorkerProcess.read(self.folder / f"process-{rank}.json").pid, number)
