# SPDX-License-Identifier: Apache-2.0
"""Invariants of the pods in every render: rights, credentials, probes, how they end, what a change replaces."""

from typing import Any

import pytest
import yaml

from steerlm.jobs.kubernetes.images import reference
from tests.charts.render import CASES, GOLDEN, Helm, values

Json = dict[str, Any]


def objects(text: str, kind: str) -> list[Json]:
    return [one for one in yaml.safe_load_all(text) if one and one["kind"] == kind]


def golden(name: str, kind: str) -> list[Json]:
    return objects((GOLDEN / f"{name}.yaml").read_text(), kind)


DEPLOYMENTS = {f"{case} {one['metadata']['name']}": one["spec"] for case in CASES for one in golden(case, "Deployment")}
PODS: dict[str, Json] = {name: spec["template"]["spec"] for name, spec in DEPLOYMENTS.items()}
PODS |= {f"{case} test": golden(case, "Pod")[0]["spec"] for case in CASES}
CONTAINERS: dict[str, Json] = {
    f"{name}/{container['name']}": container
    for name, pod in PODS.items()
    for container in (*pod.get("initContainers", []), *pod["containers"])
}
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_restricted_and_has_no_token(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostIPC", "hostPID", "hostNetwork"} & pod.keys()
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_no_rights(name: str) -> None:
    container = CONTAINERS[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]["cpu"]
    assert container["resources"]["limits"]["memory"]
    assert "@sha256:" in container["image"] or container["image"].rpartition(":")[2] not in ("", "latest")


def secrets_of(container: Json) -> set[str]:
    sources = [one.get("valueFrom", {}).get("secretKeyRef", {}).get("name") for one in container.get("env", [])]
    return {name for name in sources if name}


@every_deployment
def test_only_the_init_container_sees_the_models_credentials_and_writes_models(name: str) -> None:
    for container in (*PODS[name].get("initContainers", []), *PODS[name]["containers"]):
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "models"]
        if container["name"] == "fetch":
            continue
        assert mount["readOnly"]
        rates = name == "everything dials-policy" and container["name"] == "server"
        assert secrets_of(container) == ({"ratings-keys"} if rates else set())


def test_ratings_in_a_store_have_an_address_credentials_and_a_way_there(helm: Helm) -> None:
    """Even if the model itself is on a claim, and nothing else would need the network."""
    ratings = "policy.ratings.uri=s3://b/ratings,policy.ratings.existingSecret=write,store.endpoint=http://minio:9000"
    text = helm.template("--values", str(values("pvc")), "--set", ratings)
    (deployment,), (policy,) = objects(text, "Deployment"), objects(text, "NetworkPolicy")
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "--ratings=s3://b/ratings" in server["args"] and secrets_of(server) == {"write"}
    names = {one["name"]: one.get("value") for one in server["env"]}
    assert names["S3_ENDPOINT"] == "http://minio:9000"
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} < names.keys()
    ports = [port["port"] for rule in policy["spec"]["egress"] if "to" not in rule for port in rule["ports"]]
    assert ports == [443, 9000]


def test_ratings_on_a_claim_are_a_folder_that_the_server_alone_may_write() -> None:
    pod = PODS["pvc steerlm-policy"]
    (server,) = pod["containers"]
    assert "--ratings=/ratings/studio" in server["args"]
    assert [one["name"] for one in server["volumeMounts"] if not one.get("readOnly")] == ["tmp", "ratings"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "ratings"]
    assert volume["persistentVolumeClaim"] == {"claimName": "ratings"}


TRUST = {"name": "SSL_CERT_FILE", "value": "/etc/steerlm/tls/ca.crt"}
SECURE = "tls.existingSecret=serving-tls"
RATED = "policy.ratings.uri=s3://b/ratings,policy.ratings.existingSecret=write"


@pytest.mark.parametrize(
    ("set_values", "trusted"),
    [
        ("", []),
        (SECURE, [TRUST]),
        (f"{SECURE},policy.bestOfN=false", []),
        (f"{SECURE},policy.rewardUrl=https://reward.example.com", []),
        (f"{SECURE},policy.extraEnv[0].name=SSL_CERT_FILE,policy.extraEnv[0].value=/a", [{**TRUST, "value": "/a"}]),
        (f"{SECURE},{RATED},store.endpoint=http://minio:9000", [TRUST]),
        (f"{SECURE},{RATED},store.endpoint=https://s3.example.com", []),
    ],
)
def test_the_policy_trusts_the_authority_of_the_release_s_certificate(
    helm: Helm, set_values: str, trusted: list[Json]
) -> None:
    """Unless something else in the container is checked by the same variable."""
    text = helm.template("--values", str(values("cpu")), "--set", set_values)
    policy, reward = [one["spec"]["template"]["spec"]["containers"][0] for one in objects(text, "Deployment")]
    assert [one for one in policy["env"] if one["name"] == "SSL_CERT_FILE"] == trusted
    assert not [one for one in reward["env"] if one["name"] == "SSL_CERT_FILE"]
    if TRUST in trusted:
        assert {"name": "tls", "mountPath": "/etc/steerlm/tls", "readOnly": True} in policy["volumeMounts"]


def test_the_studio_can_be_left_out() -> None:
    studio = {name: "--no-studio" not in one["args"] for name, one in CONTAINERS.items() if name.endswith("/server")}
    assert {name for name, there in studio.items() if not there} == {"vllm steerlm-policy/server"}


@every_deployment
def test_the_time_to_end_adds_up(name: str) -> None:
    pod = PODS[name]
    (server,) = pod["containers"]
    needed = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    for container in (server, *pod.get("initContainers", [])):
        for word in container["args"]:
            option, _, value = word.partition("=")
            if option in ("--drain-seconds", "--shutdown-timeout"):
                needed += int(value)
    assert pod["terminationGracePeriodSeconds"] >= needed + 10


@every_deployment
def test_three_probes_with_three_purposes(name: str) -> None:
    (server,) = PODS[name]["containers"]
    startup, readiness, liveness = (server[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    assert len({probe["httpGet"]["path"] for probe in (startup, readiness, liveness)}) == 3
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800
    assert liveness["failureThreshold"] >= 10
    assert readiness["failureThreshold"] < liveness["failureThreshold"]
    assert liveness["timeoutSeconds"] >= 5


@every_deployment
def test_an_upgrade_waits_for_the_new_pods(name: str) -> None:
    strategy = DEPLOYMENTS[name]["strategy"]["rollingUpdate"]
    assert strategy == (
        {"maxSurge": 0, "maxUnavailable": 1} if "everything" in name else {"maxSurge": 1, "maxUnavailable": 0}
    )


def test_selectors_stay_the_same_whatever_changes(helm: Helm) -> None:
    """A Deployment's selector cannot be changed."""
    words = ("--values", str(values("cpu")))
    changed = ("--set", "policy.podLabels.team=x,image.tag=v9,policy.name=other,policy.replicas=5")
    before, after = (
        [one["spec"]["selector"] for one in objects(helm.template(*all_words), "Deployment")]
        for all_words in (words, (*words, *changed))
    )
    assert before == after
    assert len(before) == 2


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        (f"policy.model.digest=sha256:{'1' * 64}", {"steerlm-policy"}),
        ("policy.presets.brief.attributes.verbosity=0", {"steerlm-policy"}),
        ("image.tag=v9", {"steerlm-policy", "steerlm-reward"}),
        ("gateway.image.tag=v9", set()),
        ("policy.replicas=3", set()),
        ("metrics.podMonitor.interval=5s", set()),
    ],
)
def test_what_a_change_replaces(helm: Helm, change: str, replaced: set[str]) -> None:
    words = ("--values", str(values("cpu")))
    before, after = (
        {one["metadata"]["name"]: one["spec"]["template"] for one in objects(helm.template(*all_words), "Deployment")}
        for all_words in (words, (*words, "--set", change))
    )
    assert {name for name in before if before[name] != after[name]} == replaced


def test_changed_presets_replace_pods(helm: Helm) -> None:
    words = ("--values", str(values("pvc")))
    (before,), (after,) = (
        objects(helm.template(*all_words), "Deployment")
        for all_words in (words, (*words, "--set", "policy.presets.brief.attributes.verbosity=1"))
    )
    checksums = [one["spec"]["template"]["metadata"]["annotations"]["checksum/presets"] for one in (before, after)]
    assert checksums[0] != checksums[1]


def test_vllm_listens_to_its_own_pod_and_outlives_the_server() -> None:
    vllm = CONTAINERS["vllm steerlm-policy/vllm"]
    assert "--host=127.0.0.1" in vllm["args"]
    assert "ports" not in vllm
    assert vllm["restartPolicy"] == "Always"  # a sidecar: started before the server and ended after it
    assert "--upstream=http://127.0.0.1:8000" in CONTAINERS["vllm steerlm-policy/server"]["args"]
    assert CONTAINERS["vllm steerlm-reward/vllm"]["args"][-4:-2] == ["--runner=pooling", "--convert=classify"]


@pytest.mark.parametrize(
    ("pods", "image"),
    [
        ("vllm steerlm-policy", reference("gateway")),
        ("vllm steerlm-reward", reference("gateway")),
        ("vllm test", reference("gateway")),
        ("hf steerlm-reward", reference("serving")),
        ("cpu steerlm-policy", f"{reference('serving')}-cpu"),
        ("cpu test", f"{reference('serving')}-cpu"),
        ("everything dials-policy", "registry.example.com/steerlm/gateway:0.2.0-1"),
        ("everything dials-reward", f"registry.example.com/steerlm/serving@sha256:{'1' * 64}"),
        ("everything test", "registry.example.com/steerlm/gateway:0.2.0-1"),
    ],
)
def test_one_image_of_this_release_per_pod_and_without_torch_before_vllm(pods: str, image: str) -> None:
    own = {name: one for name, one in CONTAINERS.items() if name.startswith(f"{pods}/") and name != f"{pods}/vllm"}
    assert own
    assert {one["image"] for one in own.values()} == {image}
    policy = "Always" if image.startswith("registry.example.com/steerlm/gateway") else "IfNotPresent"
    assert {one["imagePullPolicy"] for one in own.values()} == {policy}


def test_gpus_belong_to_whoever_computes() -> None:
    gpu = "nvidia.com/gpu"
    assert CONTAINERS["vllm steerlm-policy/vllm"]["resources"]["limits"][gpu] == 2
    assert gpu not in CONTAINERS["vllm steerlm-policy/server"]["resources"]["limits"]
    assert CONTAINERS["hf steerlm-reward/server"]["resources"]["limits"][gpu] == 1
    claimed = CONTAINERS["everything dials-policy/vllm"]["resources"]
    assert claimed["claims"] == [{"name": "gpus"}]
    assert gpu not in claimed["limits"]


OWN = {"app.kubernetes.io/name": "steerlm-serving", "app.kubernetes.io/instance": "steerlm"}


def test_a_release_that_is_closed_to_its_namespace_is_open_to_itself(helm: Helm) -> None:
    """The policy asks the reward server, and `helm test` asks both."""
    text = helm.template("--values", str(values("cpu")), "--set", "networkPolicy.sameNamespace=false")
    asking = [one["spec"]["template"] for one in objects(text, "Deployment")] + objects(text, "Pod")
    assert len(asking) == 3
    assert all(OWN.items() <= one["metadata"]["labels"].items() for one in asking)
    for policy in objects(text, "NetworkPolicy"):
        rule = {"from": [{"podSelector": {"matchLabels": OWN}}], "ports": [{"protocol": "TCP", "port": "http"}]}
        assert policy["spec"]["ingress"] == [rule]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://reward.example.com", 443),
        ("http://reward.example.com/v1", 80),
        ("http://reward.other.svc:1424", 1424),
        ("https://[2001:db8::1]", 443),
        ("https://[2001:db8::1]:8443/", 8443),
    ],
)
def test_a_reward_server_elsewhere_is_reached(helm: Helm, url: str, port: int) -> None:
    """At any address: a network policy knows no names of hosts."""
    text = helm.template("--values", str(values("pvc")), "--set", f"policy.rewardUrl={url}")
    (policy,) = objects(text, "NetworkPolicy")
    dns, reward = policy["spec"]["egress"]
    assert dns["ports"][0]["port"] == 53
    assert reward == {"ports": [{"protocol": "TCP", "port": port}]}


def test_network_policies_let_in_only_whom_the_values_name() -> None:
    (policy, reward) = golden("everything", "NetworkPolicy")
    sources = [rule["from"] for rule in policy["spec"]["ingress"]]
    assert sources == [
        [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    ]
    assert [port["port"] for port in policy["spec"]["ingress"][1]["ports"]] == ["http", "vllm"]
    assert [port["port"] for port in reward["spec"]["ingress"][1]["ports"]] == ["http"]
    (closed,) = golden("pvc", "NetworkPolicy")
    assert [one["from"] for one in closed["spec"]["ingress"]] == [[{"podSelector": {"matchLabels": OWN}}]]
    assert closed["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert len(closed["spec"]["egress"]) == 1  # DNS
