# SPDX-License-Identifier: Apache-2.0
"""What clusters do to a training, tried on PyTorchJobs: what happens, and what the person who started it reads."""

import json
import re
import signal
import time

from steerlm.jobs.kubernetes import labels
from tests.cluster.conftest import wait_for
from tests.cluster.platform import NAMESPACE
from tests.cluster.product import Product
from tests.cluster.product import product as product

SLOW = {"reward__max_steps": "400", "reward__validate_every": "400"}
"""A training that goes on until a test ends it."""


def test_a_killed_worker_ends_the_attempt_and_the_next_one_resumes(product: Product) -> None:
    sizes = {"reward__max_steps": "150", "reward__validate_every": "150"}
    with product.running("--stage", "train_reward", **sizes) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 6)
        selector = f"{labels.JOB}={job['metadata']['labels'][labels.JOB]},training.kubeflow.org/replica-type=worker"
        (pod,) = product.objects("pods", selector)
        name = pod["metadata"]["name"]
        product.cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force")
        second = product.wait_for_job(attempt=2)
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        first_step = re.search(r"step (\d+)/150", product.log(second))
        assert first_step and int(first_step[1]) > 4, "it begins at its newest checkpoint"


def test_ctrl_c_lets_the_job_save_and_leaves_nothing(product: Product) -> None:
    with product.running("--stage", "train_reward", **SLOW) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 5)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 130, output
        assert "canceling" in output
        assert "saved" in product.log(job) or "checkpoint" in product.log(job)
        record = json.loads((product.attempt_folder(job) / "attempt.json").read_text())
        assert record["outcome"] == "interrupted"
        wait_for("the end of the job's pods", lambda: not product.objects("pods", f"{labels.JOB}"), 60)


def test_an_evicted_launcher_leaves_its_job_to_its_successor(product: Product) -> None:
    with product.running("--stage", "train_reward", reward__max_steps="120", reward__validate_every="120") as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 5)
        (launcher,) = product.objects("pods", f"{labels.COMPONENT}=launcher")
        name = launcher["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        product.cluster.kubectl(
            "create",
            "--raw",
            f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction",
            "-f",
            "-",
            stdin=json.dumps(eviction),
        )
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        (only,) = product.objects("pytorchjobs", f"{labels.COMPONENT}=train-reward")
        assert only["metadata"]["uid"] == job["metadata"]["uid"], "no second attempt"
        assert only["metadata"]["labels"][labels.ATTEMPT] == "1"


def test_a_deleted_launcher_ends_its_job(product: Product) -> None:
    with product.running("--stage", "train_reward", **SLOW) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 3)
        (launcher,) = product.objects("pods", f"{labels.COMPONENT}=launcher")
        product.cluster.kubectl("-n", NAMESPACE, "delete", "pod", launcher["metadata"]["name"], "--wait=false")
        output, _ = run.communicate(timeout=180)
        assert run.returncode == 143, output
        wait_for("the end of the job's pods", lambda: not product.objects("pods", f"{labels.JOB}"), 60)
        assert not product.objects("pods", f"{labels.COMPONENT}=launcher,{labels.RUN}") or all(
            pod["status"]["phase"] in ("Failed", "Succeeded")
            for pod in product.objects("pods", f"{labels.COMPONENT}=launcher")
        )


def test_a_job_that_the_queue_has_no_room_for_says_so(product: Product) -> None:
    with product.running("--stage", "train_reward", profile__cluster__resources__memory="40Ti") as run:
        job = product.wait_for_job()
        wait_for("the queue's words", lambda: "insufficient quota" in launcher_log(product), 60, product.explain)
        assert job["spec"]["runPolicy"]["suspend"] is True
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=120)
        wait_for("the end of the job", lambda: not product.objects("pytorchjobs", labels.JOB), 60)


def launcher_log(product: Product) -> str:
    (pod,) = product.objects("pods", f"{labels.COMPONENT}=launcher")
    return product.cluster.kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"])


def test_suspended_is_not_stalled(product: Product) -> None:
    """Its queue suspends the job for longer than the progress limit; then it goes on in the same attempt."""
    with product.running(
        "--stage", "train_reward", profile__jobs__no_progress_minutes="0.5", reward__max_steps="40"
    ) as run:
        job = product.wait_for_job()
        product.wait_for_step(job, 4)
        queue = "clusterqueue/steerlm"
        product.cluster.kubectl("patch", queue, "--type=merge", "-p", '{"spec": {"stopPolicy": "HoldAndDrain"}}')
        try:
            wait_for("the end of the pods", lambda: not product.objects("pods", labels.JOB), 90, product.explain)
            begun = time.monotonic()
            while time.monotonic() - begun < 40:
                time.sleep(1)
                assert run.poll() is None
        finally:
            product.cluster.kubectl("patch", queue, "--type=merge", "-p", '{"spec": {"stopPolicy": "None"}}')
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        assert "attempts/1/" in str(product.attempt_folder(job)) + "/"
        assert len(product.objects("pytorchjobs", f"{labels.COMPONENT}=train-reward")) == 1
