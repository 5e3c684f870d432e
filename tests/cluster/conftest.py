# SPDX-License-Identifier: Apache-2.0
"""A running cluster with the operators: the lab's (`make cluster`), or the one that STEERLM_KUBECONFIG names."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

# What the lab wrote when it came up. For another cluster: a file of your own with the same keys.
FACTS = Path(os.environ.get("STEERLM_CLUSTER_FACTS", "/var/lib/steerlm-lab/lab.json"))
JOBS = Path(__file__).resolve().parent.parent.parent / "manifests" / "jobs"
REQUIRED = os.environ.get("STEERLM_CLUSTER_REQUIRED") == "1"
HERE = Path(__file__).resolve().parent
STARTED = datetime.now(UTC).isoformat()
"""When this session began, as the API server writes times."""
OPERATORS = ("jobset-system", "kubeflow", "kubeflow-system", "kueue-system", "mpi-operator")
"""The namespaces of the lab's operators."""
T = TypeVar("T")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only who asks for these tests gets them, also when a cluster happens to run: they change it."""
    asked = (Path(word.split("::")[0]).resolve() for word in config.args)
    return None if REQUIRED or any(path == HERE or HERE in path.parents for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A cluster takes longer than a process: images are built and pulled, pods wait for each other."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))


@dataclass(frozen=True)
class Server:
    """A server beside the cluster: its address from the test's process, and from a pod."""

    address: str
    in_cluster: str
    access_key: str = ""
    secret_key: str = ""


@dataclass(frozen=True)
class Cluster:
    """Clients of the cluster, and the addresses of what stands beside it.

    Attributes:
        lab: The folder of the lab's scripts (`process.sh`, `fake-nodes.sh`); None on another cluster, whose servers
            and nodes no test may stop.
        audit_log: The API server's audit log, one JSON object a line; None on another cluster.
        volumes: A folder of the node for hostPath volumes; None on another cluster.
        bin: The folder of the lab's programs (kubectl, helm, kubeconform); None on another cluster: they are on PATH.
    """

    kubeconfig: Path
    registry: str
    base_image: str
    minio: Server
    mlflow: Server
    lab: Path | None
    audit_log: Path | None
    volumes: Path | None
    bin: Path | None
    core: client.CoreV1Api
    custom: client.CustomObjectsApi
    api: client.ApiClient

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints; its complaint as an error."""
        program = self.bin / "kubectl" if self.bin else "kubectl"
        command = [program, "--kubeconfig", self.kubeconfig, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl(
            "apply",
            "--server-side",
            "-f",
            "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        )

    def script(self, name: str, *words: str) -> None:
        """Run one of the lab's scripts; skips on another cluster."""
        if self.lab is None:
            pytest.skip("needs the lab's own cluster: make cluster")
        subprocess.run([self.lab / name, *words], check=True)

    def restart_api_server(self) -> None:
        """Restart it, and wait until it answers, and until the operators do too.

        They lose their locks by it and end; after a few times the kubelet would wait minutes to start them again.
        """
        self.script("process.sh", "restart", "kube-apiserver")
        kubectl = [str(self.bin / "kubectl") if self.bin else "kubectl", "--kubeconfig", str(self.kubeconfig)]
        files = [word for path in sorted(JOBS.glob("demo-train-sft-*.yaml")) for word in ("-f", str(path))]
        said = ""

        def answer() -> bool:
            nonlocal said
            self._end_back_off()
            command = [*kubectl, "create", "--dry-run=server", *files]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
            return not re.search("failed calling webhook|refused|EOF|timeout|Unauthorized", said, re.IGNORECASE)

        wait_for("API server and operators", answer, 180, lambda: said)

    def _end_back_off(self) -> None:
        """Replace the pods of operators that wait to be started again."""
        for namespace in OPERATORS:
            with contextlib.suppress(ApiException, HTTPError):
                for pod in self.core.list_namespaced_pod(namespace).items:
                    states = [status.state.waiting for status in pod.status.container_statuses or []]
                    if any(waiting and waiting.reason == "CrashLoopBackOff" for waiting in states):
                        self.core.delete_namespaced_pod(pod.metadata.name, namespace)

    def run(self, namespace: str, image: str, *command: str, timeout: float = 120, **spec: Any) -> str:
        """The output of a pod that runs the command to its end on the real node; a failed pod is an error."""
        name = f"run-{secrets.token_hex(4)}"
        container = {"name": "main", "image": image, "command": list(command)}
        pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec}
        self.core.create_namespaced_pod(namespace, {"metadata": {"name": name}, "spec": pod})

        def ended() -> str | None:
            phase = self.core.read_namespaced_pod(name, namespace).status.phase
            return str(phase) if phase in ("Succeeded", "Failed") else None

        phase = wait_for(
            f"the end of pod {name}", ended, timeout, lambda: self.kubectl("-n", namespace, "get", "events")
        )
        output = str(self.core.read_namespaced_pod_log(name, namespace))
        assert phase == "Succeeded", output
        return output


def wait_for(
    what: str, condition: Callable[[], T | None], timeout: float = 60, explain: Callable[[], str] = lambda: ""
) -> T:
    """The condition's first value that is true, asked for five times a second."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"no {what} within {timeout:g} s\n{explain()}"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    named = os.environ.get("STEERLM_KUBECONFIG")
    if not FACTS.is_file():
        where = "STEERLM_CLUSTER_FACTS: a file with the keys of lab.json" if named else "make cluster"
        message = f"needs a running cluster, and {FACTS} does not exist ({where})"
        pytest.fail(message) if REQUIRED else pytest.skip(message)
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    kubeconfig = Path(named or facts["kubeconfig"])
    api = config.new_client_from_config(str(kubeconfig))
    mine = {key: None if named else Path(facts[key]) for key in ("scripts", "audit_log", "volumes", "bin")}
    return Cluster(
        kubeconfig=kubeconfig,
        registry=facts["registry"],
        base_image=facts["base_image"],
        minio=Server(**facts["minio"]),
        mlflow=Server(**facts["mlflow"]),
        lab=mine["scripts"],
        audit_log=mine["audit_log"],
        volumes=mine["volumes"],
        bin=mine["bin"],
        core=client.CoreV1Api(api),
        custom=client.CustomObjectsApi(api),
        api=api,
    )


def worker_account(namespace: str) -> dict[str, Any]:
    """The service account of a job's pods, without which no pod of one is admitted."""
    metadata = {"name": "steerlm-worker", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace of this module, deleted with all in it afterwards."""
    words = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rsplit(".", 1)[-1])
    name = f"{words}-{secrets.token_hex(3)}"
    cluster.core.create_namespace({"metadata": {"name": name}})
    # Pods need it, and a controller makes it a moment later.
    wait_for(
        "default service account",
        lambda: [a for a in cluster.core.list_namespaced_service_account(name).items if a.metadata.name == "default"],
    )
    cluster.apply(worker_account(name))
    yield name
    cluster.core.delete_namespace(name)
