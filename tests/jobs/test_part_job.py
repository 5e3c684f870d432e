# SPDX-License-Identifier: Apache-2.0
"""Parts that other machines have written, on a file system that shows them late."""

import threading
import time
from pathlib import Path

import pytest

from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.parts import Parts
from steerlm.jobs.place import JobPlace
from steerlm.training.layout import LayoutSettings
from steerlm.visibility import LIMIT, wait_for_path
from tests.jobs.test_registry import attempts as attempts
from tests.jobs.test_registry import profile

WORKER = "tests.jobs.fake_worker"


def run(folder: Path, parts: Parts, backend: str = "thread") -> None:
    place = JobPlace("parts", folder / "job", folder / "job.log", profile(folder, backend=backend))
    spec = {"work": str(folder), "steps": 1}
    run_part_job(place, WORKER, spec, LayoutSettings(), lambda line: None, lambda: 0 not in parts)


def test_the_launcher_waits_until_it_sees_all_parts(
    tmp_path: Path, attempts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "20")
    parts = Parts(tmp_path)

    def show() -> None:
        while not (tmp_path / "step-0").exists():  # the job has not ended
            time.sleep(0.02)
        time.sleep(1.0)
        parts.write(0, {}, "late")

    writer = threading.Thread(target=show)
    writer.start()
    run(tmp_path, parts)
    assert 0 in parts
    writer.join()


def test_a_part_that_is_never_seen_is_the_callers_error(
    tmp_path: Path, attempts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0.5")
    start = time.monotonic()
    run(tmp_path, Parts(tmp_path))
    assert time.monotonic() - start > 0.5


def test_only_a_process_of_a_pod_waits_for_what_its_launcher_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "20")
    monkeypatch.delenv("STEERLM_ATTEMPT_FOLDER", raising=False)
    assert not wait_for_path(tmp_path / "plan").exists()
    monkeypatch.setenv("STEERLM_ATTEMPT_FOLDER", str(tmp_path))
    timer = threading.Timer(0.5, (tmp_path / "plan").touch)
    timer.start()
    assert wait_for_path(tmp_path / "plan").exists()
    timer.join()
