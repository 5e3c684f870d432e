# SPDX-License-Identifier: Apache-2.0
"""The back end with a server whose objects a test can change; with real operators it is tested in tests/cluster."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from steerlm.attempt import STOP
from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.attempt_watch import CONNECTING
from steerlm.jobs.kubernetes.attempts import attempt_folder, lines, main_log
from steerlm.jobs.kubernetes.backend import KubernetesBackend
from steerlm.jobs.kubernetes.config import ClusterSettings, WorkspaceSettings
from steerlm.jobs.launcher import launch
from tests.jobs.kubernetes.fake_api import FakeApi
from tests.jobs.kubernetes.test_client import JOBS, PODS, eventually
from tests.jobs.kubernetes.test_client import api as api
from tests.jobs.test_local import make_job


def backend(workspace: Path, kind: str = "pytorchjob") -> KubernetesBackend:
    """A launcher's back end; a second one stands for another launcher."""
    settings = ClusterSettings(workspace=WorkspaceSettings.model_validate({"path": str(workspace)}))
    return KubernetesBackend(kind, settings, JobSettings())


def test_a_job_is_created_by_a_server_that_has_just_started(api: FakeApi, tmp_path: Path) -> None:
    refusals = {"list": 1, "create": 2}

    def refuse(verb: str, path: str, token: str) -> int:
        refusals[verb] = refusals.get(verb, 0) - 1
        return 403 if refusals[verb] >= 0 else 0

    api.refuse = refuse
    back = backend(tmp_path)
    name = back.ensure(make_job(tmp_path))
    assert api.statuses("create", JOBS) == [403, 403, 201]
    assert back.status(name).state in ("queued", "starting")


def test_a_runtime_that_was_reaped_before_its_job_was_made_is_made_again(api: FakeApi, tmp_path: Path) -> None:
    trainer = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/steerlm"
    api.collections |= {f"{trainer}/trainjobs": [], f"{trainer}/trainingruntimes": []}

    def refuse(verb: str, path: str, token: str) -> int:
        if (verb, path) != ("create", f"{trainer}/trainjobs") or api.statuses(verb, path):
            return 0
        api.collections[f"{trainer}/trainingruntimes"].clear()
        return 422  # as the Trainer's webhook refuses a job whose runtime does not exist

    api.refuse = refuse
    backend(tmp_path, "trainjob").ensure(make_job(tmp_path))
    assert [len(api.collections[f"{trainer}/{name}"]) for name in ("trainjobs", "trainingruntimes")] == [1, 1]


@pytest.mark.parametrize("other", ["runs", "has stopped"])
@pytest.mark.parametrize("canceled", [False, True])
def test_a_deleted_pod_is_named_though_its_controller_was_first(
    api: FakeApi, tmp_path: Path, other: str, canceled: bool
) -> None:
    """The job has failed by it and ends its other pod, which saves and stops: as after a cancel, and none was asked."""
    back, job = backend(tmp_path), dataclasses.replace(make_job(tmp_path), nodes=2)
    name = back.ensure(job)
    path = f"{JOBS}/{api.collections[JOBS][0]['metadata']['name']}"
    of_job = {labels.MANAGED_BY: labels.STEERLM, labels.JOB: name, labels.ATTEMPT: "1", labels.ROLE: labels.NODE_ROLE}
    running = {"phase": "Running", "containerStatuses": [{"image": "i", "state": {"running": {}}}]}
    with api.mutex:
        api.answer("PATCH", path, {}, {"status": {"conditions": [{"type": "Running", "status": "True"}]}})
        for pod in ("master-0", "worker-0"):
            spec: Any = {"metadata": {"name": pod, "labels": of_job}, "spec": {"nodeName": "n"}, "status": running}
            api.answer("POST", PODS, {}, spec)
    eventually(lambda: back.status(name).message == CONNECTING)
    if canceled:
        (attempt_folder(job.folder, 1) / STOP).touch()
    stopped = {"exitCode": 143, "message": '{"kind": "retryable", "exit_code": 143, "message": "stopped"}'}
    with api.mutex:
        api.answer("PATCH", path, {}, {"status": {"conditions": [{"type": "Failed", "status": "True"}]}})
        api.answer("DELETE", f"{PODS}/worker-0", {}, {})
        if other == "has stopped":
            ended = {**running, "containerStatuses": [{"image": "i", "state": {"terminated": stopped}}]}
            api.answer("PATCH", f"{PODS}/master-0", {}, {"status": ended})
    eventually(lambda: back.status(name).ended)
    status = back.status(name)
    if not canceled:
        assert (status.state, status.message) == (
            "failed",
            "the pod worker-0 was deleted; pods are not restarted alone",
        )
    else:
        assert status.state == ("interrupted" if other == "has stopped" else "failed")


def test_a_launcher_shows_no_lines_of_an_earlier_run(api: FakeApi, tmp_path: Path) -> None:
    """The object of an attempt that failed is deleted, its records and its log stay."""
    job = make_job(tmp_path)
    backend(tmp_path).ensure(job)
    main_log(job.folder, 1).write_text("old 1\nold 2\nunfinished")
    with api.mutex:
        api.collections[JOBS].clear()

    def operator() -> None:
        eventually(lambda: api.collections[JOBS])
        with open(main_log(job.folder, 1), "a") as late:
            late.write(" line of a process that was left\n")
        main_log(job.folder, 2).write_text("new 1\nnew 2\n")
        with api.mutex:
            name = api.collections[JOBS][0]["metadata"]["name"]
            ended = {"conditions": [{"type": "Succeeded", "status": "True"}]}
            api.answer("PATCH", f"{JOBS}/{name}", {}, {"status": ended})

    thread = threading.Thread(target=operator)
    thread.start()
    shown: list[str] = []
    launch(backend(tmp_path), job, JobSettings(), shown.append)
    thread.join()
    assert shown == ["new 1", "new 2"]
    assert [line for _, line in lines(job.folder)] == ["old 1", "old 2", "new 1", "new 2"]


def test_a_launcher_that_attaches_shows_what_comes_after(api: FakeApi, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    first, second = backend(tmp_path), backend(tmp_path)
    assert first.logged(job) == 0, "never started"
    first.ensure(job)
    log = main_log(job.folder, 1)
    log.write_text("step 1\n")
    offset = second.logged(job)
    assert second.ensure(job) == job.name and not attempt_folder(job.folder, 2).exists()
    with open(log, "a") as file:
        file.write("step 2\n")
    assert [line for _, line in second.logs(job.name, offset)] == ["step 2"]
    assert [line for _, line in backend(tmp_path).logs(job.name)] == ["step 1", "step 2"], "found by its object"
