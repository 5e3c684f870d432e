# SPDX-License-Identifier: Apache-2.0
"""A second back end: an entry in the table is all that a launcher and a training stage need to run on it."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from steerlm.artifact import Artifact, Store
from steerlm.errors import ConfigError, Interrupted, SteerLMError, TrainingError
from steerlm.jobs.backend import Job, JobStatus, job_name
from steerlm.jobs.launcher import launch
from steerlm.jobs.local import LocalBackend
from steerlm.jobs.registry import BACKENDS, make_backend
from steerlm.models.folder import ModelInfo
from steerlm.pipeline.run import run_stage
from steerlm.recipe import Profile, TrackingSettings, load_recipe
from steerlm.stages import train_reward
from steerlm.trainjob import job as training_job
from steerlm.trainjob.preflight import check_layouts
from tests.conftest import ROOT
from tests.jobs.test_local import make_job
from tests.tiny_models import tiny_base


@dataclass
class _Attempt:
    """A job's thread, its process and what it has printed."""

    hash: str
    lines: list[str] = field(default_factory=list)
    status: JobStatus = field(default_factory=lambda: JobStatus("queued"))
    process: "subprocess.Popen[str] | None" = None
    canceled: bool = False


class ThreadBackend:
    """Runs jobs of any number of nodes as one process that a thread looks after; keeps names and logs in memory."""

    max_nodes = None

    def __init__(self, attempts: dict[str, _Attempt]) -> None:
        self.attempts = attempts

    def ensure(self, job: Job) -> str:
        """See `Backend.ensure`."""
        running = self.attempts.get(job.name)
        if running and running.hash != job.hash() and not running.status.ended:
            raise SteerLMError(f"{job.name} is already running with other settings")
        if running and running.hash == job.hash() and running.status.state in ("running", "queued", "succeeded"):
            return job.name
        for folder in job.clears:
            folder.mkdir(parents=True, exist_ok=True)
        attempt = _Attempt(job.hash(), running.lines if running else [])
        self.attempts[job.name] = attempt
        threading.Thread(target=self._run, args=(job, attempt), daemon=True).start()
        return job.name

    def status(self, name: str) -> JobStatus:
        """See `Backend.status`."""
        return self.attempts[name].status if name in self.attempts else JobStatus("failed", "no such job")

    def logs(self, name: str, since: int = 0) -> Iterator[tuple[int, str]]:
        """See `Backend.logs`. Offsets are numbers of lines."""
        if name in self.attempts:
            yield from ((number, line) for number, line in enumerate(self.attempts[name].lines, 1) if number > since)

    def logged(self, job: Job) -> int:
        """See `Backend.logged`."""
        return len(self.attempts[job.name].lines) if job.name in self.attempts else 0

    def written(self, name: str, root: Path) -> None:
        """See `Backend.written`."""

    def wait(self, seconds: float) -> None:
        """See `Backend.wait`."""
        time.sleep(seconds)

    def drained(self) -> bool:
        """See `Backend.drained`."""
        return False

    def cancel(self, name: str, *, force: bool = False) -> None:
        """See `Backend.cancel`."""
        attempt = self.attempts[name]
        attempt.canceled = True
        if attempt.process:
            with contextlib.suppress(ProcessLookupError):
                (attempt.process.kill if force else attempt.process.terminate)()

    def _run(self, job: Job, attempt: _Attempt) -> None:
        spec = job.folder.with_suffix(".spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(json.dumps(job.spec_json()))
        command = [sys.executable, "-u", "-m", job.module, str(spec)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            attempt.process, attempt.status = process, JobStatus("running")
            assert process.stdout
            attempt.lines.extend(line.rstrip("\n") for line in process.stdout)
        failed = JobStatus("failed", f"exit status {process.returncode}", final=True)
        stopped = JobStatus("interrupted") if attempt.canceled else failed
        attempt.status = JobStatus("succeeded") if process.returncode == 0 else stopped


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> dict[str, _Attempt]:
    """The jobs of the back end `thread`, which is registered for the test."""
    jobs: dict[str, _Attempt] = {}
    monkeypatch.setitem(BACKENDS, "thread", lambda profile: ThreadBackend(jobs))
    return jobs


def profile(store: Path, **values: object) -> Profile:
    return Profile.model_validate(
        {
            "name": "test",
            "backend": "thread",
            "store": str(store),
            "tracking": TrackingSettings(enabled=False),
            **values,
        }
    )


def test_a_profile_names_its_back_end() -> None:
    backend = make_backend(Profile(name="test"))
    assert isinstance(backend, LocalBackend)
    assert backend.max_nodes == 1
    with pytest.raises(ValueError, match=r"unknown back end 'locl'; did you mean 'local'\?"):
        Profile(name="test", backend="locl")


def test_names_are_labels_and_unique_to_a_folder(tmp_path: Path) -> None:
    name = job_name("train_reward: Ünï/code " + "x" * 80, tmp_path)
    assert name.startswith("train-reward-n-code-xxx")
    assert len(name) <= 63
    assert name != job_name("train_reward: Ünï/code " + "x" * 80, tmp_path / "other")
    assert job_name("!", tmp_path).startswith("job-")
    with pytest.raises(ValueError, match="not an RFC 1123 label"):
        Job("Train_1", "module", {}, tmp_path, tmp_path / "log")


def test_the_launcher_runs_on_it(tmp_path: Path, attempts: dict[str, _Attempt]) -> None:
    here = profile(tmp_path)
    lines: list[str] = []
    launch(make_backend(here), make_job(tmp_path), here.jobs, lines.append)
    assert lines == ["starts at step 0", "step 1/3", "step 2/3", "step 3/3"]
    failing = make_job(tmp_path / "failing", fail_at=1)
    with pytest.raises(TrainingError, match="exit status 1"):
        launch(make_backend(here), failing, here.jobs, print)

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            make_backend(here).cancel(long.name)

    long = make_job(tmp_path / "long", steps=1000, pause=0.05)
    with pytest.raises(Interrupted, match="run the same command again to resume"):
        launch(make_backend(here), long, here.jobs, stop)


def test_its_limits_are_asked_of_it(tmp_path: Path, attempts: dict[str, _Attempt]) -> None:
    nodes = ["profile.layouts.sft={nodes: 2}", "profile.layouts.annotate={nodes: 2}"]
    with pytest.raises(ConfigError, match="back end local allows at most 1 node"):
        check_layouts(load_recipe("demo", "laptop", nodes))
    check_layouts(load_recipe("demo", "laptop", [*nodes, "profile.backend=thread"]))


def test_a_training_stage_runs_on_it(
    tmp_path: Path, attempts: dict[str, _Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_job, "WORKER", "tests.trainjob.fake_trainer")
    monkeypatch.setattr("steerlm.models.folder.read_info", lambda folder: ModelInfo(kind="reward"))
    store = Store(tmp_path / "store")
    data, base = artifact(store, "prepare_data", "data"), artifact(store, "fetch_model", "base")
    here = profile(store.root, layouts={"reward": {"nodes": 2, "devices": 4}})
    config = train_reward.config(load_recipe("demo", "laptop").recipe, "")
    assert config is not None
    outcome = run_stage(train_reward.STAGE, config, {"data": data, "base": base}, store, here)
    ((name, attempt),) = attempts.items()
    assert name.startswith(f"train-reward-{outcome.artifact.key}-")
    assert attempt.status.state == "succeeded"
    spec = json.loads((outcome.artifact.path / "spec.json").read_text())
    assert (spec["objective"], spec["layout"]["nodes"]) == ("reward", 2)
    assert outcome.artifact.manifest.provenance["metrics"] == {"steps": 3, "validation/loss": 0.5}


def artifact(store: Store, stage: str, kind: str) -> Artifact:
    """A finished artifact with what the stage reads: regression samples, or a model folder."""
    store.begin(stage, "0" * 20, kind, {})
    folder = store.folder(stage, "0" * 20) / kind
    if kind == "data":
        sample = json.dumps({"text": "a<extra_id_2>", "label": [1.0] * 9})
        for split in ("train", "val"):
            (folder / f"regression_{split}.jsonl").write_text(f"{sample}\n" * 32)  # a global batch
    else:
        tiny_base(folder)
    return store.finish(stage, "0" * 20, kind, None, {"notes": {}})
