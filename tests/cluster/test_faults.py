# SPDX-License-Identifier: Apache-2.0
"""What clusters do to a run and its launcher: what happens, and what the person who started it reads.

What befalls the pods of a training is in test_kinds.py, for each kind of job.
"""

import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes import labels
from tests.cluster.conftest import wait_for
from tests.cluster.platform import NAMESPACE
from tests.cluster.product import Json, Product
from tests.cluster.product import product as product
from tests.cluster.registry import retag

SLOW = {"reward__max_steps": "1000", "reward__validate_every": "1000"}
"""A training that goes on until a test ends it."""


@pytest.fixture(scope="module", autouse=True)
def base(product: Product) -> None:
    """The base model is there, so that each run here is one job."""
    product.run("--stage", "train_base")
    product.clear()


def test_an_evicted_launcher_leaves_its_job_to_its_successor(product: Product) -> None:
    """And before that the API server restarts, which nobody notices."""
    sizes = {"reward__max_steps": "200", "reward__validate_every": "200", "reward__save_every": "50"}
    with product.running("--stage", "train_reward", **sizes) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 5)
        if product.cluster.lab:
            product.cluster.restart_api_server()
        (first,) = run.launchers()
        evict(product, first)
        output = run.end(0)
        (only,) = product.objects("pytorchjobs", f"{labels.COMPONENT}=train-reward")
        assert only["metadata"]["uid"] == job["metadata"]["uid"], "no second attempt"
        assert [path.name for path in product.attempt_folder(job).parent.iterdir() if path.is_dir()] == ["1"]
        (successor,) = run.launchers()
        assert successor["metadata"]["uid"] != first["metadata"]["uid"]
    assert "goes on, and the same command attaches to it" in output
    assert product.recorded_steps(job) == list(range(1, 201)), "no step is lost or made twice, in one MLflow run"


def evict(product: Product, pod: Json) -> None:
    """By the Eviction API, as a drain of the node does."""
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    product.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def test_a_deleted_launcher_ends_its_job(product: Product) -> None:
    with product.running("--stage", "train_reward", **SLOW) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 3)
        name = run.launchers()[0]["metadata"]["name"]
        product.cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=false")
        run.end(143)
        assert product.record(job)["outcome"] == "interrupted", "it has saved"
        wait_for("the end of the job's pods", lambda: not product.objects("pods", labels.JOB), 60, product.explain)
        assert all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in run.launchers()), "no successor"


def test_the_reaper_deletes_the_job_of_a_launcher_that_was_killed_for_good(product: Product) -> None:
    with product.running("--stage", "train_reward", **SLOW) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 3)
        product.cluster.kubectl("-n", NAMESPACE, "delete", "job", run.name, "--cascade=orphan")
        os.kill(first_process(run.launchers()[0]["metadata"]["name"]), signal.SIGKILL)
        assert f"{run.name} failed" in run.end(1)
        step = product.step(job)
        product.wait_for_step(job, step + 5)  # it goes on alone
        eleven = (datetime.now(UTC) - timedelta(minutes=11)).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = job["metadata"]["name"]
        product.cluster.kubectl(
            "-n", NAMESPACE, "annotate", "--overwrite", f"pytorchjob/{name}", f"{labels.HEARTBEAT}={eleven}"
        )
        reap = f"reap-{secrets.token_hex(3)}"
        product.cluster.kubectl("-n", NAMESPACE, "create", "job", reap, "--from=cronjob/steerlm-reaper")
        wait_for("the end of the job", lambda: not product.objects("pods", labels.JOB), 120, product.explain)
        assert not product.objects("pytorchjobs", labels.JOB)
        said = product.cluster.kubectl(
            "-n", NAMESPACE, "logs", "-l", f"{labels.COMPONENT}=reaper", "--tail=-1", "--ignore-errors"
        )
        assert re.search(rf"{name}: heartbeat 11\.\d min old, deleted \(limit 10.0 min\)", said), said
        product.cluster.kubectl("-n", NAMESPACE, "delete", "job", reap)


def first_process(pod: str) -> int:
    """The process on this machine that is a launcher pod's first one."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (path / "cmdline").read_bytes(), (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"steerlm.cli.launch" in words and f"STEERLM_POD={pod}".encode() in variables:
            return int(path.name)
    pytest.skip("the pods of another cluster are not processes of this machine")


def test_suspended_is_not_stalled(product: Product) -> None:
    """Its queue stops, then a job of a higher priority takes its place for longer than the progress limit."""
    sizes = {"reward__max_steps": "120", "reward__validate_every": "120", "profile__jobs__no_progress_minutes": "0.5"}
    with product.running("--stage", "train_reward", **sizes) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 4)
        queue = "clusterqueue/steerlm"
        product.cluster.kubectl("patch", queue, "--type=merge", "-p", '{"spec": {"stopPolicy": "HoldAndDrain"}}')
        try:
            wait_for("the end of the pods", lambda: not product.pods(job), 90, product.explain)
        finally:
            product.cluster.kubectl("patch", queue, "--type=merge", "-p", '{"spec": {"stopPolicy": "None"}}')
        saved = product.step(job)
        product.wait_for_step(job, saved + 4)
        product.cluster.apply(*greedy())
        try:
            wait_for("preemption", lambda: not product.pods(job), 90, product.explain)
            begun = time.monotonic()
            while time.monotonic() - begun < 40:  # longer than the limit of half a minute
                assert run.process.poll() is None
                time.sleep(1)
            said = run.log()
        finally:
            product.cluster.kubectl("-n", NAMESPACE, "delete", "pytorchjob/greedy", "workloadpriorityclass/lab-first")
        run.end(0)
        (only,) = product.objects("pytorchjobs", f"{labels.COMPONENT}=train-reward")
        assert only["metadata"]["uid"] == job["metadata"]["uid"], "the same attempt"
    assert "queued: Preempted to accommodate a workload" in said, said
    assert product.recorded_steps(job) == list(range(1, 121)), "it went on each time where it had saved"


def greedy() -> tuple[Json, Json]:
    """A job that wants all CPUs of the queue, and comes first; no node has room for it."""
    first: Json = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": "lab-first"},
        "value": 10_000,
    }
    container = {"name": "pytorch", "image": "none", "resources": {"limits": {"cpu": "3200"}}}
    job: Json = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": "greedy",
            "namespace": NAMESPACE,
            "labels": {labels.QUEUE: "steerlm", labels.WORKLOAD_PRIORITY: "lab-first"},
        },
        "spec": {
            "pytorchReplicaSpecs": {
                "Master": {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
            }
        },
    }
    return first, job


TINY = {"cluster__resources__cpu": "150m"}
"""The one node has room for four launchers and the pods of two such jobs."""
WAITS = {
    "full": ({"cluster__resources__memory": "40Ti"}, r"queued: .*insufficient quota for memory"),
    "unschedulable": (
        {"cluster__resources__cpu": "64"},
        r"unschedulable: 0/\d+ nodes are available: .*Insufficient cpu",
    ),
    "image": (
        {"cluster__images__tag": "launcher-only", "jobs__startup_minutes": "0.7", **TINY},
        r"starting: (ErrImagePull|ImagePullBackOff) of \S+/train-reward:launcher-only",
    ),
    "memory": (
        {"cluster__resources__memory": "450Mi", **TINY},
        r"failed: \S+ on node \S+ ran out of memory \(OOMKilled\)",
    ),
}
"""A setting of the profile each, and what the launcher says."""


def test_what_a_job_waits_for_or_dies_of_is_said_in_words(product: Product) -> None:
    """Four runs at a time: two wait until they are canceled, two fail."""
    retag(product.cluster, "launcher", "launcher-only")
    with ExitStack() as stack:
        runs = {}
        for name, (changes, _) in WAITS.items():
            settings = {f"profile__{key}": value for key, value in changes.items()}
            running = product.running("--stage", "train_reward", profile__jobs__attempts="1", **settings)
            runs[name] = stack.enter_context(running)
        for name, (_, words) in WAITS.items():
            log = runs[name].log
            wait_for(f"word of {name}", partial(said, log, words), 180, log)
        for name in ("full", "unschedulable"):
            runs[name].interrupt()
        codes = {"full": 130, "unschedulable": 130, "image": 1, "memory": 1}
        outputs = {name: run.end(codes[name]) for name, run in runs.items()}
        # The operator's init container does not heed its signal, and is there to the end of the grace period.
        wait_for("the end of the jobs", lambda: not product.objects("pods", labels.JOB), 150, product.explain)
        assert not product.objects("pytorchjobs", labels.JOB)
    assert re.search(r"did not start within 0.7 minutes: \w+ of \S+/train-reward:launcher-only", outputs["image"])


def said(log: Callable[[], str], words: str) -> bool:
    return re.search(words, log()) is not None
