# SPDX-License-Identifier: Apache-2.0
"""Releases of the chart on the cluster: its image, small models sealed in MinIO, Helm, clients inside and outside."""

import json
import os
import secrets
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio import Minio
from openai import OpenAI, OpenAIError

from steerlm.artifact import Store
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.platform import TAG
from tests.cluster.product import make_images
from tests.conftest import ROOT

CHART = ROOT / "charts" / "steerlm-serving"
BUCKET = "serving"
QUESTION = "What is a good pet?"
Json = dict[str, Any]


@dataclass(frozen=True)
class Models:
    """Addresses in MinIO, as values of the chart; `policy` knows a question by heart, `other` talks at random."""

    policy: Json
    other: Json
    reward: Json


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace of its own.

    Attributes:
        cluster: The cluster.
        name: Of the release.
        namespace: Its namespace, in which Pod Security enforces `restricted`.
        folder: For the files of values.
        key: A key that its servers accept.
    """

    cluster: Cluster
    name: str
    namespace: str
    folder: Path
    key: str

    def helm(self, *words: str) -> "subprocess.CompletedProcess[str]":
        program = self.cluster.bin / "helm" if self.cluster.bin else "helm"
        command = [program, *words, "--namespace", self.namespace]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    def apply(self, verb: str, values: Mapping[str, Any], *words: str) -> "subprocess.CompletedProcess[str]":
        """`helm install` or `helm upgrade` with a file of values, as a person would call it."""
        path = self.folder / f"release-{secrets.token_hex(3)}.yaml"
        path.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
        return self.helm(verb, self.name, str(CHART), "-f", str(path), *words)

    def must(self, verb: str, values: Mapping[str, Any]) -> str:
        """The same, waiting until every pod is ready; a failure is an error."""
        done = self.apply(verb, values, "--wait", "--timeout", "8m")
        assert done.returncode == 0, done.stderr + self.explain()
        return done.stdout

    def pods(self, kind: str) -> list[Json]:
        """Pods of a model that are not being deleted."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={kind}"
        text = self.cluster.kubectl("-n", self.namespace, "get", "pods", "-l", selector, "-o", "json")
        return [one for one in json.loads(text)["items"] if "deletionTimestamp" not in one["metadata"]]

    def ready(self, kind: str) -> list[str]:
        """Names of pods that are ready."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(kind)
            if any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
        ]

    def url(self, kind: str) -> str:
        """The address outside: the service's port of the node."""
        service = json.loads(
            self.cluster.kubectl("-n", self.namespace, "get", "service", f"{self.name}-{kind}", "-o", "json")
        )
        nodes = self.cluster.core.list_node(label_selector="type!=kwok").items
        (address, *_) = [one.address for node in nodes for one in node.status.addresses if one.type == "InternalIP"]
        return f"http://{address}:{service['spec']['ports'][0]['nodePort']}"

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url('policy')}/v1", api_key=self.key, timeout=60, **options)

    def ask(self, client: OpenAI, model: str = "policy", **attributes: int) -> str:
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=8,
            temperature=0,
            extra_body={"attributes": attributes} if attributes else None,
        )
        return str(reply.choices[0].message.content)

    def get(self, kind: str, path: str, body: Json | None = None, method: str | None = None) -> str:
        """The answer to one request on a connection of its own, without a second attempt."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url(kind) + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(reply.read().decode())

    def explain(self) -> str:
        shown = self.cluster.kubectl("-n", self.namespace, "get", "pods", "-o", "wide")
        shown += self.cluster.kubectl("-n", self.namespace, "get", "events", "--sort-by=.lastTimestamp")
        for pod in self.pods("policy") + self.pods("reward"):
            words = ("logs", pod["metadata"]["name"], "--all-containers", "--tail=20", "--ignore-errors")
            shown += self.cluster.kubectl("-n", self.namespace, *words)
        return shown


@dataclass
class Load:
    """What clients saw that asked without a pause: answers in order of arrival, and errors."""

    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def load(release: Release) -> Iterator[Load]:
    """Two clients that ask the policy again and again: OpenAI's, which keeps its connection, and one without retries
    that opens a connection for each request.
    """
    seen, ended = Load(), threading.Event()
    client = release.client()
    body = {"model": "policy", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "temperature": 0}

    def single() -> str:
        reply = json.loads(release.get("policy", "/v1/chat/completions", body))
        return str(reply["choices"][0]["message"]["content"])

    def run(ask: Any) -> None:
        while not ended.is_set():
            try:
                seen.answers.append(ask())
            except (OpenAIError, OSError) as error:
                seen.errors.append(f"{time.strftime('%X')} {ask}: {error!r}")

    threads = [threading.Thread(target=run, args=(ask,)) for ask in (lambda: release.ask(client), single)]
    for thread in threads:
        thread.start()
    try:
        wait_for("answers under load", lambda: len(seen.answers) > 4, 60, lambda: str(seen.errors))
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def seal(store: Store, stage: str, kind: str, folder: Path) -> Json:
    """Make a model folder a finished artifact; its address and digest as values of the chart."""
    key = secrets.token_hex(4)
    store.begin(stage, key, kind, {})
    shutil.copytree(folder, store.folder(stage, key) / kind, dirs_exist_ok=True)
    made = store.finish(stage, key, kind, None, {})
    return {"uri": f"{made.uri}/{kind}", "digest": f"sha256:{made.digest}"}


@pytest.fixture(scope="module")
def models(
    cluster: Cluster,
    taught_folder: Path,
    policy_folder: Path,
    reward_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Models:
    minio = cluster.minio
    s3 = Minio(
        minio.address.removeprefix("http://"), access_key=minio.access_key, secret_key=minio.secret_key, secure=False
    )
    if not s3.bucket_exists(BUCKET):
        s3.make_bucket(BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_ENDPOINT", minio.address)
        patch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
        store = Store(f"s3://{BUCKET}/store", tmp_path_factory.mktemp("store"))
        return Models(
            policy=seal(store, "train_sft", "policy", taught_folder),
            other=seal(store, "train_sft", "policy", policy_folder),
            reward=seal(store, "train_reward", "reward", reward_folder),
        )


@pytest.fixture(scope="module")
def values(cluster: Cluster, models: Models) -> Json:
    """A release file for a small cluster: both models, small requests, keys, presets."""
    make_images(cluster, "serving", "gateway")
    image = {"repository": f"{cluster.registry}/serving", "tag": TAG, "pullPolicy": "Always"}
    small = {"requests": {"cpu": "100m", "memory": "400Mi"}, "limits": {"memory": "2Gi"}}
    return {
        "image": image,
        "gateway": {"image": {**image, "repository": f"{cluster.registry}/gateway"}},
        "policy": {
            "model": models.policy,
            "replicas": 2,
            "resources": small,
            "podDisruptionBudget": {"minAvailable": 1},
            "presets": {"funny": {"attributes": {"humor": 4}}, "grave": {"attributes": {"humor": 0}}},
            "rewardKey": {"existingSecret": "serving-keys"},
        },
        "reward": {"model": models.reward, "resources": small},
        "store": {"endpoint": cluster.minio.in_cluster, "existingSecret": "store-keys"},
        "cache": {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}},
        "apiKeys": {"existingSecret": "serving-keys"},
        "service": {"type": "NodePort"},
        "shutdown": {"preStopSeconds": 4, "drainSeconds": 20},
        "rollout": {"minReadySeconds": 1},
    }


@pytest.fixture(scope="module")
def release(cluster: Cluster, namespace: str, values: Json, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release, not installed yet, and the Secrets that it needs."""
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.core.patch_namespace(namespace, label)
    key = secrets.token_hex(16)
    contents = {
        "store-keys": {
            "AWS_ACCESS_KEY_ID": cluster.minio.access_key,
            "AWS_SECRET_ACCESS_KEY": cluster.minio.secret_key,
        },
        "serving-keys": {"api-keys.yaml": yaml.safe_dump({"keys": {"test": key}}), "api-key": key},
    }
    for name, content in contents.items():
        cluster.core.create_namespaced_secret(namespace, {"metadata": {"name": name}, "stringData": content})
    return Release(cluster, "dials", namespace, tmp_path_factory.mktemp("releases"), key)
