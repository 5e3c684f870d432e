# SPDX-License-Identifier: Apache-2.0
"""A process of a real torchrun job is stopped but alive: the job fails in time, names it, and leaves no process."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import TrainingError
from steerlm.jobs.backend import Job, job_name
from steerlm.jobs.config import JobSettings
from steerlm.jobs.launcher import launch
from steerlm.jobs.local import LocalBackend
from steerlm.processes import start_time
from tests.conftest import ROOT
from tests.megatron.training_ranks import Ranks, Training, checkpoints, curve

pytestmark = pytest.mark.long

TIMEOUT, GRACE = 4.0, 20.0
FAULTS = {"collective_timeout_minutes": TIMEOUT / 60, "straggler_every": 10}
SETTINGS: dict[str, Any] = {"max_steps": 60, "save_every": 20, "optimizer": {"lr": 5e-4, "min_lr": 5e-5, "eps": 1e-5}}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="module")
def whole(training: Training) -> dict[int, float]:
    """The loss curve of one undisturbed process."""
    spec = training.spec("whole", **SETTINGS)
    assert Ranks(spec).ends() == ([0], [""])
    return curve(spec)


class Stop(threading.Thread):
    """Stops a rank once its training has logged step 25, between two checkpoints."""

    def __init__(self, spec: Path, folder: Path, rank: int) -> None:
        super().__init__(daemon=True)
        self.spec, self.process, self.at = spec, folder / f"process-{rank}.json", 0.0
        self.start()

    def run(self) -> None:
        while max(curve(self.spec), default=0) < 25:
            time.sleep(0.01)
        os.kill(json.loads(self.process.read_text())["pid"], signal.SIGSTOP)
        self.at = time.monotonic()


@pytest.mark.parametrize(("layout", "rank"), [({"devices": 2}, 0), ({"devices": 4, "tensor": 2}, 3)])
def test_a_stopped_process_ends_the_job(
    training: Training, whole: dict[int, float], layout: dict[str, Any], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name = f"{layout['devices']} ranks"
    spec = training.spec(name, layout=layout, faults=FAULTS, **SETTINGS)
    folder = training.folder / name / "job"
    content, title = json.loads(spec.read_text()), job_name("train-text", folder)
    job = Job(title, "steerlm.trainjob.worker", content, folder, folder / "log", devices=layout["devices"])
    stop = Stop(spec, folder, rank)
    with pytest.raises(TrainingError) as error:
        launch(LocalBackend(GRACE), job, JobSettings(grace_seconds=GRACE), lambda line: None)
    assert stop.at and time.monotonic() - stop.at < TIMEOUT + GRACE
    processes = [json.loads((folder / f"process-{r}.json").read_text()) for r in range(layout["devices"])]
    who = rf"rank {rank} \([^,]+, pid {processes[rank]['pid']}\)"
    assert re.search(rf"{who} is stopped, last heartbeat \d+ s ago in step \d+", str(error.value)), str(error.value)
    assert [p for p in processes if start_time(p["pid"]) == p["started"]] == []
    work = Path(content["work"])
    for other in set(range(layout["devices"])) - {rank}:
        assert (work / "flight_recorder" / f"rank_{other}").stat().st_size
    reached = max(curve(spec))
    assert checkpoints(spec)["step-000020"] and 25 <= reached < 40

    # The same worker with the same spec, in processes that start sooner than torchrun's.
    assert Ranks(spec).ends() == ([0] * layout["devices"], [""] * layout["devices"])
    assert curve(spec) == pytest.approx(whole, rel=0, abs=1e-4)
