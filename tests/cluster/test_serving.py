# SPDX-License-Identifier: Apache-2.0
"""The life of a release: installed from a values file, asked, upgraded and rolled back under load, hurt, removed.

The tests build on each other, in this order. vLLM's image is too large for the test cluster: a server of ours stands in
for it behind the engine `vllm`; its own pods are compared as renders (tests/charts).
"""

import copy
import dataclasses
import json
import re
import secrets
import shutil
import urllib.error
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import yaml

from steerlm.prompt import render_prompt, render_readout
from steerlm.records import Conversation, Turn
from tests.cluster.conftest import Cluster, wait_for
from tests.cluster.serving import CHART, QUESTION, Models, Release, load
from tests.cluster.serving import models as models
from tests.cluster.serving import release as release
from tests.cluster.serving import values as values
from tests.serving.conftest import ANSWERS
from tests.serving.conftest import policy_folder as policy_folder
from tests.serving.conftest import reward_folder as reward_folder
from tests.serving.conftest import taught_folder as taught_folder
from tests.serving.conftest import tokenizer_folder as tokenizer_folder

Json = dict[str, Any]


def changed(values: Json, **policy: Any) -> Json:
    """The values with other ones of the policy."""
    return {**values, "policy": {**copy.deepcopy(values["policy"]), **policy}}


def test_install(release: Release, values: Json) -> None:
    """One file of values, nothing else; Pod Security enforces `restricted`."""
    notes = release.must("install", values)
    assert "curl http://localhost:1427/v1/chat/completions" in notes
    assert len(release.ready("policy")) == 2
    assert len(release.ready("reward")) == 1


def test_helm_test(release: Release) -> None:
    done = release.helm("test", release.name, "--timeout", "3m")
    said = done.stdout + done.stderr  # Helm writes the pod's log among its own
    assert done.returncode == 0, said + release.explain()
    assert "policy quality:0" in said
    assert "policy quality:4" in said
    assert re.search(r"reward \{'quality': ", said)


def test_ask_and_score_from_outside(release: Release) -> None:
    with release.client() as client:
        assert {humor: release.ask(client, humor=humor) for humor in ANSWERS} == ANSWERS
        assert release.ask(client, "policy:funny") == ANSWERS[4]
        assert {one.id for one in client.models.list()} == {"policy", "policy:funny", "policy:grave"}
    scores = json.loads(release.get("reward", "/v1/score", {"prompt": QUESTION, "response": ANSWERS[0]}))
    assert len(scores["scores"][0]) == 4


def test_the_snippet_of_the_tutorial(release: Release) -> None:
    """`PUT /generate` with a filled template."""
    sentence = render_prompt([Turn(value=QUESTION, speaker="User")], "quality:4,toxicity:0,humor:4")
    body = {
        "sentences": [sentence],
        "tokens_to_generate": 40,
        "top_k": 1,
        "greedy": True,
        "end_strings": ["<extra_id_1>"],
    }
    reply = json.loads(release.get("policy", "/generate", body, method="PUT"))
    assert reply["sentences"][0][len(sentence) :] == f"{ANSWERS[4]}\n<extra_id_1>"


def test_tritonclient_gets_the_scores_of_the_json_route(release: Release) -> None:
    turns = [Turn(value=QUESTION, speaker="User"), Turn(value=ANSWERS[0], speaker="Assistant")]
    text = render_readout(Conversation(conversations=turns), 1)
    rows = np.array([[text.encode()]], dtype=np.object_)
    tensor = triton.InferInput("sentences", list(rows.shape), "BYTES")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(release.url("reward").removeprefix("http://")) as client:
        reply = client.infer("reward_model", [tensor], headers={"authorization": f"Bearer {release.key}"})
    scores = json.loads(release.get("reward", "/v1/score", {"prompt": QUESTION, "response": ANSWERS[0]}))["scores"]
    assert reply.as_numpy("rewards")[0].tolist() == pytest.approx(scores[0], abs=1e-5)


def test_the_studio_opens_without_a_key_and_asks_with_one(release: Release) -> None:
    stranger = dataclasses.replace(release, key="")
    page = stranger.get("policy", "/studio")
    files = re.findall(r'(?:src|href)="([^":#]+\.(?:js|css|svg))"', page)
    assert files
    assert all(stranger.get("policy", f"/{file}") for file in files)
    assert json.loads(release.get("policy", "/v1/studio"))["scores"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.get("policy", "/v1/studio")


def test_no_key_no_answer(release: Release) -> None:
    stranger = dataclasses.replace(release, key="wrong")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.get("reward", "/v1/score", {"prompt": QUESTION, "response": "A dog."})


def test_alerts_and_dashboard_read_metrics_that_exist(release: Release) -> None:
    """Of both servers together. `up` and the process's own are Prometheus'."""
    served = stripped(
        re.findall(r"^# TYPE (\S+)", release.get("policy", "/metrics") + release.get("reward", "/metrics"), re.M)
    )
    text = (CHART / "files" / "dashboard.json").read_text() + (CHART / "templates" / "rules.yaml").read_text()
    read = stripped(re.findall(r"(?:vllm:|steerlm_)[a-z0-9_]+", text))
    assert len(read) > 8
    assert read - served == set()


def stripped(names: list[str]) -> set[str]:
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}


def test_upgrade_and_rollback_lose_no_request(release: Release, values: Json, models: Models) -> None:
    with load(release) as seen:
        old = seen.answers[0]

        def only(new: bool) -> bool:
            return all((answer != old) is new for answer in seen.answers[-6:])

        release.must("upgrade", changed(values, model=models.other))
        # Old pods still end: connections that a client keeps stay with them until then.
        wait_for("answers of the new model alone", lambda: only(new=True), 90, lambda: str(seen.errors))
        done = release.helm("rollback", release.name, "--wait", "--timeout", "8m")
        assert done.returncode == 0, done.stderr
        wait_for("answers of the old model alone", lambda: only(new=False), 90, lambda: str(seen.errors))
    assert seen.errors == []
    with release.client() as client:
        assert release.ask(client, humor=0) == ANSWERS[0]


def test_a_killed_pod_is_replaced(release: Release) -> None:
    """OpenAI's client, which tries again, notices nothing."""
    victim = release.ready("policy")[0]
    words = ("delete", "pod", victim, "--grace-period=0", "--force")
    with release.client(max_retries=4) as client:
        release.cluster.kubectl("-n", release.namespace, *words)
        for _ in range(10):
            assert release.ask(client, humor=0) == ANSWERS[0]
    wait_for("two pods", lambda: len(release.ready("policy")) == 2, 240, release.explain)
    assert victim not in release.ready("policy")


def evict(release: Release, pod: str) -> bool:
    """Ask for an eviction, as a drain of its node does; whether the budget allows it."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": release.namespace},
    }
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
    try:
        release.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    except AssertionError as error:
        assert "disruption budget" in str(error)
        return False
    return True


def test_a_drain_takes_one_pod_after_the_other(release: Release) -> None:
    """The budget lets the second go only when the first one's successor is ready; no request is lost."""
    first, second = release.ready("policy")
    with load(release) as seen:
        assert evict(release, first)
        assert not evict(release, second)
        wait_for("two pods", lambda: len(release.ready("policy")) == 2, 240, release.explain)
        wait_for("the second eviction", lambda: evict(release, second), 60)
        wait_for("two other pods", lambda: {*release.ready("policy")}.isdisjoint({first, second}), 240)
        wait_for("two pods", lambda: len(release.ready("policy")) == 2, 240, release.explain)
    assert seen.errors == []


def test_a_wrong_digest_leaves_the_old_release_serving(release: Release, values: Json, models: Models) -> None:
    wrong = {**models.policy, "digest": models.other["digest"]}
    before = release.ready("policy")
    done = release.apply("upgrade", changed(values, model=wrong))
    assert done.returncode == 0, done.stderr

    def message() -> str | None:
        """What Kubernetes shows of the new pod's init container."""
        for pod in release.pods("policy"):
            for one in pod["status"].get("initContainerStatuses", []):
                ended = one["state"].get("terminated") or one.get("lastState", {}).get("terminated") or {}
                if ended.get("exitCode"):
                    return str(ended["message"])
        return None

    shown = wait_for("a failed fetch", message, 120, release.explain)
    assert f"is {models.policy['digest']}, {wrong['digest']} was asked for" in shown
    assert set(before) <= set(release.ready("policy"))
    with release.client() as client:
        assert release.ask(client, humor=4) == ANSWERS[4]
    done = release.helm("rollback", release.name, "--wait", "--timeout", "4m")
    assert done.returncode == 0, done.stderr
    assert sorted(release.ready("policy")) == sorted(before)


def test_bad_values_change_nothing(release: Release, values: Json) -> None:
    def revision() -> int:
        return int(json.loads(release.helm("status", release.name, "-o", "json").stdout)["version"])

    before = revision()
    done = release.apply("upgrade", changed(values, replica=3))
    assert done.returncode != 0
    assert "at '/policy': additional properties 'replica' not allowed" in done.stderr
    assert revision() == before


def claim(cluster: Cluster, namespace: str) -> str:
    """Make a claim for models on the node, which no provisioner does."""
    if cluster.volumes is None:
        pytest.skip("needs a folder of the node: make cluster")
    name = f"models-{secrets.token_hex(3)}"
    folder = cluster.volumes / name
    folder.mkdir()
    folder.chmod(0o2777)
    spec: Json = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name}
    size = {"storage": "1Gi"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": namespace, "name": name},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**spec, "resources": {"requests": size}},
        },
    )
    return name


def test_pods_that_share_a_claim_fetch_a_model_once_and_serve_it_by_its_path(
    cluster: Cluster, release: Release, values: Json
) -> None:
    name = claim(cluster, release.namespace)
    second = Release(cluster, "second", release.namespace, release.folder, release.key)
    reward = {**values["reward"], "replicas": 2}
    shared = {**values, "policy": {}, "reward": reward, "cache": {**values["cache"], "existingClaim": name}}
    try:
        second.must("install", shared)
        logs = [
            cluster.kubectl("-n", release.namespace, "logs", pod["metadata"]["name"], "-c", "fetch")
            for pod in second.pods("reward")
        ]
        assert [": complete" in log for log in logs] == [True, True]
        assert cluster.volumes is not None
        (folder,) = (cluster.volumes / name).glob("reward-*")
        assert (folder / "fetched.json").exists()
        done = second.helm("test", second.name, "--timeout", "3m")
        assert done.returncode == 0, done.stdout + done.stderr
        by_path = {**reward, "replicas": 1, "model": {"uri": f"pvc://{name}/{folder.name}"}}
        second.must("upgrade", {**shared, "reward": by_path})
        scores = json.loads(second.get("reward", "/v1/score", {"prompt": QUESTION, "response": "A dog."}))
        assert len(scores["scores"]) == 1
    finally:
        second.helm("uninstall", second.name, "--wait", "--timeout", "2m")
        cluster.kubectl("-n", release.namespace, "delete", "pvc", name)
        cluster.kubectl("delete", "pv", name)
        assert cluster.volumes is not None
        shutil.rmtree(cluster.volumes / name)


def test_the_server_before_an_engine_of_its_own(cluster: Cluster, release: Release, values: Json) -> None:
    """The pod of the engine `vllm`, a server of ours in vLLM's place: a sidecar that is up before the server starts."""
    third = Release(cluster, "third", release.namespace, release.folder, release.key)
    serve = 'exec steerlm serve generate "$0" --name policy --host 127.0.0.1 --port 8000'
    image = values["image"]
    small = values["policy"]["resources"]
    behind = changed(
        values, engine="vllm", replicas=1, podDisruptionBudget={"maxUnavailable": 1}, vllm={"resources": small}
    )
    behind |= {
        "reward": {},
        "vllm": {"image": image, "command": ["sh", "-c", serve]},
    }
    try:
        third.must("install", behind)
        (pod,) = third.pods("policy")
        with third.client() as client:
            assert {humor: third.ask(client, humor=humor) for humor in ANSWERS} == ANSWERS
        statuses = {one["name"]: one for one in pod["status"]["initContainerStatuses"]}
        assert statuses["vllm"]["started"]
        started = statuses["vllm"]["state"]["running"]["startedAt"]
        assert started <= pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    finally:
        third.helm("uninstall", third.name, "--wait", "--timeout", "2m")


def test_uninstall_leaves_nothing(cluster: Cluster, release: Release) -> None:
    done = release.helm("uninstall", release.name, "--wait", "--timeout", "2m")
    assert done.returncode == 0, done.stderr
    kinds = "all,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets"

    def left() -> list[str]:
        words = ("get", kinds, "-l", f"app.kubernetes.io/instance={release.name}", "-o", "name")
        found = cluster.kubectl("-n", release.namespace, *words).split()
        stored = yaml.safe_load(cluster.kubectl("-n", release.namespace, "get", "secrets", "-o", "yaml"))["items"]
        return found + [one["metadata"]["name"] for one in stored if one["type"] == "helm.sh/release.v1"]

    wait_for("nothing", lambda: not left(), 60, lambda: str(left()))
