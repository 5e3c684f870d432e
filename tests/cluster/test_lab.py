# SPDX-License-Identifier: Apache-2.0
"""What the other tests of this folder build on is there: nodes, operators, queue, registry, stores."""

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from mlflow import MlflowClient

from tests.cluster.conftest import Cluster, wait_for

FAKE = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}
KINDS = {
    "pytorchjobs.kubeflow.org": ["v1"],
    "mpijobs.kubeflow.org": ["v2beta1"],
    "trainjobs.trainer.kubeflow.org": ["v1alpha1"],
    "trainingruntimes.trainer.kubeflow.org": ["v1alpha1"],
    "jobsets.jobset.x-k8s.io": ["v1alpha2"],
    "clusterqueues.kueue.x-k8s.io": ["v1beta1", "v1beta2"],
    "localqueues.kueue.x-k8s.io": ["v1beta1", "v1beta2"],
    "workloads.kueue.x-k8s.io": ["v1beta1", "v1beta2"],
}


def ready(node: Any) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions or [])


def get(cluster: Cluster, namespace: str, plural: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.custom.get_namespaced_custom_object("kubeflow.org", "v1", namespace, plural, name)
    return found


def conditions(job: dict[str, Any]) -> dict[str, bool]:
    return {c["type"]: c["status"] == "True" for c in job.get("status", {}).get("conditions", [])}


def pytorch_job(name: str, image: str, command: list[str], replicas: dict[str, int], **fields: Any) -> dict[str, Any]:
    """A PyTorchJob whose replicas all run the command; `fields` are more of the container, the pod and the metadata."""
    container = {"name": "pytorch", "image": image, "command": command, **fields.get("container", {})}
    template = {"spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **fields.get("pod", {})}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, **fields.get("metadata", {})},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "None", "backoffLimit": 0},
            "pytorchReplicaSpecs": {
                role: {"replicas": count, "restartPolicy": "Never", "template": template}
                for role, count in replicas.items()
            },
        },
    }


@pytest.mark.fast
def test_one_real_node_and_32_with_8_gpus_are_ready(cluster: Cluster) -> None:
    nodes = cluster.core.list_node().items
    assert all(ready(node) for node in nodes)
    gpus = [node.status.allocatable.get("nvidia.com/gpu", "0") for node in nodes]
    assert sorted(gpus) == ["0"] + 32 * ["8"]


@pytest.mark.fast
def test_kubernetes_1_34_serves_every_kind_in_the_version_that_the_product_writes(cluster: Cluster) -> None:
    assert json.loads(cluster.kubectl("get", "--raw", "/version"))["gitVersion"].startswith("v1.34.")
    found = json.loads(cluster.kubectl("get", "crd", "-o", "json", *KINDS))["items"]
    served = {kind["metadata"]["name"]: [v["name"] for v in kind["spec"]["versions"] if v["served"]] for kind in found}
    assert served == KINDS


@pytest.mark.fast
def test_a_pod_reaches_dns_minio_and_mlflow_by_name(cluster: Cluster, namespace: str) -> None:
    code = f"""
import socket, urllib.request
socket.getaddrinfo("kubernetes.default.svc.cluster.local", 443)
for address in "{cluster.minio.in_cluster}/minio/health/ready", "{cluster.mlflow.in_cluster}/health":
    assert urllib.request.urlopen(address, timeout=20).status == 200
print("reached")
"""
    assert cluster.run(namespace, cluster.base_image, "python3", "-c", code) == "reached\n"


@pytest.mark.fast
def test_minio_and_mlflow_keep_what_a_client_outside_writes(cluster: Cluster, tmp_path: Path) -> None:
    bucket = f"lab-{secrets.token_hex(4)}"
    host = cluster.minio.address.removeprefix("http://")
    store = Minio(endpoint=host, access_key=cluster.minio.access_key, secret_key=cluster.minio.secret_key, secure=False)
    store.make_bucket(bucket_name=bucket)
    (tmp_path / "text").write_text("kept")
    store.fput_object(bucket_name=bucket, object_name="text", file_path=str(tmp_path / "text"))
    assert store.get_object(bucket_name=bucket, object_name="text").read() == b"kept"
    store.remove_object(bucket_name=bucket, object_name="text")
    store.remove_bucket(bucket_name=bucket)

    tracking = MlflowClient(tracking_uri=cluster.mlflow.address)
    run = tracking.create_run(tracking.create_experiment(bucket)).info.run_id
    tracking.log_metric(run, "loss", 0.5)
    tracking.log_artifact(run, str(tmp_path / "text"))
    assert tracking.get_run(run).data.metrics == {"loss": 0.5}
    assert [entry.path for entry in tracking.list_artifacts(run)] == ["text"]


def test_an_image_built_and_pushed_here_runs_in_a_pod(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    word, image = secrets.token_hex(8), f"{cluster.registry}/test/word:{secrets.token_hex(4)}"
    (tmp_path / "word").write_text(word)
    (tmp_path / "Containerfile").write_text(f"FROM {cluster.base_image}\nCOPY word /\nUSER 1000\nRUN test -r /word\n")
    settings = {"CONTAINERS_CONF": str(cluster.lab / "containers.conf")} if cluster.lab else {}
    environment = {**os.environ, **settings}
    for words in (["build", "--network", "host", "--tag", image, str(tmp_path)], ["push", image], ["rmi", image]):
        insecure = [] if words[0] == "rmi" else ["--tls-verify=false"]
        subprocess.run(["podman", words[0], *insecure, *words[1:]], check=True, env=environment)
    assert cluster.run(namespace, image, "cat", "/word", securityContext={"runAsNonRoot": True}) == word


@pytest.mark.fast
def test_a_pytorch_job_of_two_pods_talks_and_succeeds(cluster: Cluster, namespace: str) -> None:
    code = """
import os, socket, time
assert os.environ["WORLD_SIZE"] == "2"
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["RANK"] == "0":
    peer = socket.create_server(("", place[1])).accept()[0]
    assert peer.recv(5) == b"hello"
else:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(place).sendall(b"hello")
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)
"""
    container = {"env": [{"name": "PYTHONUNBUFFERED", "value": "1"}]}
    replicas = {"Master": 1, "Worker": 1}
    job = pytorch_job("pair", cluster.base_image, ["python3", "-c", code], replicas, container=container)
    cluster.custom.create_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", job)
    ended = wait_for(
        "end of the job",
        lambda: (
            {"Succeeded", "Failed"}
            & {k for k, v in conditions(get(cluster, namespace, "pytorchjobs", "pair")).items() if v}
        ),
        120,
        lambda: cluster.kubectl("-n", namespace, "describe", "pods"),
    )
    assert ended == {"Succeeded"}


def test_kueue_holds_a_job_back_until_its_gpus_are_free(cluster: Cluster, namespace: str) -> None:
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    resources = [{"name": "cpu", "nominalQuota": "100"}, {"name": "nvidia.com/gpu", "nominalQuota": "8"}]
    flavors = [{"name": namespace, "resources": resources}]
    cluster.apply(
        {**queue, "kind": "ResourceFlavor", "metadata": {"name": namespace}, "spec": {"nodeLabels": {"type": "kwok"}}},
        {
            **queue,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": ["cpu", "nvidia.com/gpu"], "flavors": flavors}],
            },
        },
        {
            **queue,
            "kind": "LocalQueue",
            "metadata": {"name": "gpus", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    )

    def submit(name: str, gpus: int) -> None:
        resources = {"limits": {"cpu": "1", "nvidia.com/gpu": str(gpus)}}
        job = pytorch_job(
            name,
            cluster.base_image,
            ["true"],
            {"Master": 1},
            container={"resources": resources},
            pod={"tolerations": [FAKE]},
            metadata={"labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
        )
        cluster.custom.create_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", job)

    def running(name: str) -> bool:
        job = get(cluster, namespace, "pytorchjobs", name)
        return not job["spec"]["runPolicy"].get("suspend") and conditions(job).get("Running", False)

    def told_to_wait() -> bool:
        events = cluster.core.list_namespaced_event(namespace, field_selector="reason=Pending").items
        return any("insufficient unused quota" in event.message for event in events)

    try:
        submit("six", 6)
        wait_for("admission of the first job", lambda: running("six"))
        submit("four", 4)
        wait_for("word of the queue", told_to_wait)
        assert get(cluster, namespace, "pytorchjobs", "four")["spec"]["runPolicy"]["suspend"]
        cluster.custom.delete_namespaced_custom_object("kubeflow.org", "v1", namespace, "pytorchjobs", "six")
        wait_for("admission of the second job", lambda: running("four"))
    finally:
        cluster.kubectl("-n", namespace, "delete", "pytorchjobs", "--all")
        cluster.kubectl("delete", "clusterqueue,resourceflavor", namespace, "--wait=false")


def test_a_33rd_node_can_be_added_and_fall_silent(cluster: Cluster) -> None:
    cluster.script("fake-nodes.sh", "add", "32")
    try:
        assert ready(cluster.core.read_node("gpu-32"))
        cluster.script("fake-nodes.sh", "silence", "gpu-32")
        wait_for("silence", lambda: not ready(cluster.core.read_node("gpu-32")), 60)
        cluster.script("fake-nodes.sh", "wake", "gpu-32")
        wait_for("answer", lambda: ready(cluster.core.read_node("gpu-32")), 60)
    finally:
        cluster.script("fake-nodes.sh", "remove", "gpu-32")


def test_a_restarted_api_server_answers_again(cluster: Cluster, namespace: str) -> None:
    cluster.restart_api_server()
    assert cluster.core.read_namespace_status(namespace).status.phase == "Active"


def test_the_audit_log_names_verb_resource_and_user(cluster: Cluster, namespace: str) -> None:
    if cluster.audit_log is None:
        pytest.skip("the audit log of another cluster cannot be read")
    log = cluster.audit_log
    cluster.core.list_namespaced_config_map(namespace)

    def entry() -> list[dict[str, Any]]:
        lines = [
            json.loads(line) for line in log.read_text().splitlines() if namespace in line and "configmaps" in line
        ]
        return [line for line in lines if line["verb"] == "list" and line["user"]["username"] == "admin"]

    assert wait_for("line in the audit log", entry)[0]["objectRef"]["resource"] == "configmaps"
