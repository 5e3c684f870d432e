# SPDX-License-Identifier: Apache-2.0
"""The product on the cluster: images in its registry, the lab's overlay, a secret, a bucket; and `steerlm run`."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from mlflow import MlflowClient

from steerlm.jobs.kubernetes import labels
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.platform import NAMESPACE, TAG, install
from tests.conftest import ROOT

IMAGES = ("launcher", "reaper", "train-base", "train-reward", "annotate", "train-sft", "evaluate")
BUCKET = "steerlm"
SMALL = (
    "prepare_data.sources.0.conversations=400",
    "base.train.max_steps=4",
    "base.train.optimizer.warmup_steps=1",
    "reward.epochs=100",
    "reward.max_steps=6",
    "reward.validate_every=3",
    "reward.save_every=2",
    "reward.optimizer.warmup_steps=1",
    "sft.max_steps=4",
    "sft.validate_every=4",
    "sft.optimizer.warmup_steps=1",
    "baseline=null",
    "evaluate.questions=8",
    "evaluate.curve_questions=2",
    "report.goals={}",
)
"""The demo's recipe, so small that its trainings take seconds."""
KILL = """
import os, pathlib
for one in pathlib.Path("/proc").glob("[0-9]*"):
    if b"steerlm.jobs.worker" in (one / "cmdline").read_bytes() and int(one.name) != os.getpid():
        os.kill(int(one.name), 9)
"""
"""Kills the training processes of the container that it runs in."""
Json = dict[str, Any]


@dataclass(frozen=True)
class BackgroundRun:
    """A `steerlm run` that goes on while a test does something to it. `name`: of the run on the cluster."""

    product: "Product"
    process: "subprocess.Popen[str]"
    name: str

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, code: int, timeout: float = 300) -> str:
        """Wait for the end, which must have this exit code; return what was said."""
        output, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == code, f"{output}\n{self.product.explain()}"
        return output

    def launchers(self) -> list[Json]:
        """The launcher's pods, oldest first."""
        found = self.product.objects("pods", f"{labels.RUN}={self.name}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def log(self) -> str:
        """What the launchers have said so far."""
        selector = f"{labels.RUN}={self.name}"
        words = ("logs", "-l", selector, "--tail=-1", "--ignore-errors")
        return self.product.cluster.kubectl("-n", NAMESPACE, *words)


@dataclass(frozen=True)
class Product:
    cluster: Cluster
    workspace: Path
    s3: Minio

    def command(self, *words: str, **settings: str) -> list[str]:
        """`steerlm run demo` on the lab's profile with small sizes."""
        own = {"reward__save_minutes": self.unique(), **settings}
        overrides = [*SMALL, *(f"{key.replace('__', '.')}={value}" for key, value in own.items())]
        options = [*self.images(), *(word for override in overrides for word in ("--set", override))]
        return [sys.executable, "-m", "steerlm.cli", "run", "demo", "--profile", "lab", *options, *words]

    def images(self) -> list[str]:
        """Options of a command: the images that these tests have made."""
        values = {"registry": self.cluster.registry, "tag": TAG, "pull_policy": "Always"}
        return [word for name, value in values.items() for word in ("--set", f"profile.cluster.images.{name}={value}")]

    @staticmethod
    def unique() -> str:
        """A value of `save_minutes` that no run had: it makes a training's key new, and its model stays the same."""
        return str(1000 + secrets.randbelow(10**9) / 1000)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}

    def run(self, *words: str, **settings: str) -> str:
        """The output of a run that must succeed."""
        done = subprocess.run(
            self.command(*words, **settings), env=self.environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.explain()}"
        return done.stdout

    def outcomes(self, output: str) -> list[Json]:
        """How each step of a run that printed `output` has ended."""
        (folder,) = re.findall(r"^run /workspace/(\S+)$", output, re.MULTILINE)
        found: list[Json] = json.loads((self.workspace / folder / "result.json").read_text())["outcomes"]
        return found

    @contextmanager
    def running(self, *words: str, **settings: str) -> Iterator[BackgroundRun]:
        """A run in the background; nothing is left of it and of its jobs at the end."""
        command = self.command(*words, **settings)
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout
            first = process.stdout.readline()
            found = re.search(r"submitted (\S+)", first)
            assert found, first + process.stdout.read()
            yield BackgroundRun(self, process, found[1])
        finally:
            process.kill()
            process.wait()
            self.clear()

    def explain(self) -> str:
        shown = self.cluster.kubectl("-n", NAMESPACE, "get", "pods,jobs,pytorchjobs,mpijobs,trainjobs,workloads")
        events = self.cluster.kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp")
        return shown + "\n".join(events.splitlines()[-40:])

    def objects(self, kind: str, selector: str = "") -> list[Json]:
        words = ["-l", selector] if selector else []
        found: list[Json] = json.loads(self.cluster.kubectl("-n", NAMESPACE, "get", kind, "-o", "json", *words))[
            "items"
        ]
        return found

    def wait_for_job(self, kind: str = "pytorchjobs", attempt: int = 1, component: str = "train-reward") -> Json:
        """The object of an attempt as soon as it is there."""
        selector = f"{labels.COMPONENT}={component},{labels.ATTEMPT}={attempt}"

        def unfinished() -> Json | None:
            found = self.objects(kind, selector)
            return next((one for one in found if not _ended(one)), None)

        return wait_for(
            f"attempt {attempt} of {component}",
            unfinished,
            300,
            self.explain,
        )

    def wait_for_step(self, job: Json, step: int, timeout: float = 300) -> None:
        """Wait until the job's workers have reported a step."""
        folder = self.attempt_folder(job)
        wait_for(f"step {step} in {folder}", lambda: self.step(job) >= step, timeout, self.explain)

    def step(self, job: Json) -> int:
        """The newest step that the workers of an attempt have reported; -1 if they have not."""
        path = self.attempt_folder(job) / "heartbeat.json"
        return int(json.loads(path.read_text())["step"]) if path.exists() else -1

    def record(self, job: Json) -> Json:
        """What the launcher has written of an attempt."""
        found: Json = json.loads((self.attempt_folder(job) / "attempt.json").read_text())
        return found

    def key(self, job: Json) -> str:
        """The key of the artifact that a job makes."""
        found = re.search(r"/([0-9a-f]{20})/", str(job["metadata"]["annotations"][labels.FOLDER]))
        assert found
        return found[1]

    def attempt_folder(self, job: Json) -> Path:
        """The folder of an attempt as this machine sees it: pods mount the workspace elsewhere."""
        metadata = job["metadata"]
        inside = Path(str(metadata["annotations"][labels.FOLDER])).relative_to("/workspace")
        return self.workspace / inside / "attempts" / str(metadata["labels"][labels.ATTEMPT])

    def pods(self, job: Json) -> list[str]:
        """The names of the pods of a job's attempt that compute; the first process is in the first."""
        wanted = job["metadata"]["labels"]
        found = self.objects("pods", labels.selector(wanted[labels.JOB], int(wanted[labels.ATTEMPT]), labels.NODE_ROLE))
        return sorted(pod["metadata"]["name"] for pod in found)

    def kill_worker(self, job: Json) -> None:
        """Kill the training process in the job's last pod."""
        *_, pod = self.pods(job)
        self.cluster.kubectl("-n", NAMESPACE, "exec", pod, "--", "python", "-c", KILL)

    def recorded_steps(self, job: Json) -> list[int]:
        """The steps that MLflow has of a job's training, in the order in which they were made; it has one run."""
        found = self.tracked(self.key(job))
        assert found.info.status == "FINISHED"
        history = self.tracking.get_metric_history(found.info.run_id, "train/loss")
        return [one.step for one in sorted(history, key=lambda one: int(one.timestamp))]

    @property
    def tracking(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.cluster.mlflow.address)

    def tracked(self, key: str) -> Any:
        """The only MLflow run of an artifact."""
        (experiment,) = self.tracking.search_experiments(filter_string="name = 'steerlm'")
        (found,) = self.tracking.search_runs([experiment.experiment_id], f"tags.`steerlm.key` = '{key}'")
        return found

    def model(self, key: str, stage: str = "train_reward") -> Path:
        """The folder of a finished model in the workspace."""
        (path,) = (self.workspace / "cache/stores/steerlm/store" / stage / key).glob("*/config.json")
        return path.parent

    def store_secret(self) -> None:
        """Write the Secret that the profile names."""
        minio, mlflow = self.cluster.minio, self.cluster.mlflow
        keys = {
            "S3_ENDPOINT": minio.in_cluster,
            "AWS_ACCESS_KEY_ID": minio.access_key,
            "AWS_SECRET_ACCESS_KEY": minio.secret_key,
            "MLFLOW_TRACKING_URI": mlflow.in_cluster,
        }
        self.cluster.apply(secret("steerlm-store", keys))

    def clear(self) -> None:
        """Delete every run and job."""
        for kind in ("jobs", "pytorchjobs", "mpijobs", "trainjobs", "pods"):  # a pod may have lost its job
            self.cluster.kubectl(
                "-n", NAMESPACE, "delete", kind, "-l", f"{labels.MANAGED_BY}={labels.STEERLM}", "--wait=true"
            )
        wait_for("the end of all pods", lambda: not self.objects("pods", f"{labels.MANAGED_BY}={labels.STEERLM}"), 120)

    def log(self, job: Json, rank: int = 0) -> str:
        return (self.attempt_folder(job) / f"rank-{rank}.log").read_text()


def one_machine(folder: Path, until: str, settings: Sequence[str]) -> Path:
    """Run the demo to a stage in one process on this machine; return the folder of the stage's model."""
    profile = folder / "one.yaml"
    layout = "{devices: 1, micro_batch: 8, row_tokens: 2048}"
    profile.write_text(
        f"name: one\nbackend: local\nstore: {folder}/store\ntracking: {{enabled: false}}\n"
        f"layouts: {{base: {layout}, reward: {layout}, sft: {layout}}}\n"
    )
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "steerlm.cli", "run", "demo", "--profile", str(profile), "--stage", until]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "store" / until).glob("*/*/config.json")
    return path.parent


def _ended(job: Json) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(one["type"] in ("Succeeded", "Failed", "Complete") and one["status"] == "True" for one in conditions)


def make_images(cluster: Cluster, *names: str, **options: str) -> str:
    """Build and push; what has not changed is in the builder's cache and in the registry. Returns what is printed."""
    options = {
        "device": "cpu",
        "registry": cluster.registry,
        "tag": TAG,
        "base_image": cluster.base_image,
        "torch_backend": "",
        "build_flags": "--network=host --tls-verify=false",
        "push_flags": "--tls-verify=false",
        **options,
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "images.build", *words, *names],
        cwd=ROOT,
        env=builder_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def builder_environment() -> dict[str, str]:
    """The environment of podman, whose settings are the lab's."""
    return {**os.environ, "CONTAINERS_CONF": str(ROOT / "tests" / "cluster" / "lab" / "containers.conf")}


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Product:
    assert cluster.volumes is not None, "these tests look into the workspace: make cluster"
    make_images(cluster, *IMAGES)
    install(cluster)
    minio = cluster.minio
    s3 = Minio(
        minio.address.removeprefix("http://"), access_key=minio.access_key, secret_key=minio.secret_key, secure=False
    )
    if not s3.bucket_exists(BUCKET):
        s3.make_bucket(BUCKET)
    found = Product(cluster, cluster.volumes / "workspace", s3)
    found.store_secret()
    return found


def secret(name: str, values: Mapping[str, str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": dict(values),
    }
