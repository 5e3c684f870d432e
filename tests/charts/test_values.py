# SPDX-License-Identifier: Apache-2.0
"""Values that must be refused: each message has the key, and says what was expected."""

from pathlib import Path

import pytest
import yaml

from tests.charts.render import Helm, values

STORE = "policy.model.uri=s3://b/store/train_sft/k/policy"
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("policy.replica=2", "at '/policy': additional properties 'replica' not allowed"),
        ("reward.gpu.cout=1", "at '/reward/gpu': additional properties 'cout' not allowed"),
        ("policies.x=1", "additional properties 'policies' not allowed"),
        ("policy.engine=triton", "at '/policy/engine': value must be one of 'transformers', 'vllm'"),
        ("policy.model.uri=http://x/y", "at '/policy/model/uri': 'http://x/y' does not match pattern"),
        ("policy.model.digest=sha256:12", "at '/policy/model/digest'"),
        ("policy.replicas=two", "at '/policy/replicas': got string, want integer"),
        ("policy.autoscaling.kind=cpu", "at '/policy/autoscaling/kind': value must be one of"),
        ("image.digest=latest", "at '/image/digest'"),
        ("gateway.image.digest=latest", "at '/gateway/image/digest'"),
        ("gateway.replicas=2", "at '/gateway': additional properties 'replicas' not allowed"),
        ("store.endpoint=minio:9000", "at '/store/endpoint'"),
        ("shutdown.drainSeconds=0", "at '/shutdown/drainSeconds': minimum: got 0, want 1"),
        ("policy.presets.brief.verbosity=0", "at '/policy/presets/brief': missing property 'attributes'"),
        ("probes.liveness.path=livez", "at '/probes/liveness/path'"),
        ("policy.ratings.uri=/ratings", "at '/policy/ratings/uri': '/ratings' does not match pattern"),
        ("policy.ratings.uri=pvc://claim", "at '/policy/ratings/uri'"),
        ("policy.studio=off-please", "at '/policy/studio': got string, want boolean"),
        ("reward.ratings.uri=s3://b/r", "at '/reward': additional properties 'ratings' not allowed"),
    ],
)
def test_the_schema_names_the_key(helm: Helm, wrong: str, message: str) -> None:
    assert message in helm.refuse("--values", str(values("cpu")), "--set", wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("policy.podDisruptionBudget.minAvailable=1", "minAvailable is 1, which keeps 1 of 1 pods"),
        ("policy.replicas=3,policy.podDisruptionBudget.minAvailable=3", "keeps 3 of 3 pods"),
        ("policy.replicas=2,policy.podDisruptionBudget.minAvailable=51%", "minAvailable is 51%, which keeps 2 of 2"),
        (
            "policy.replicas=9,policy.autoscaling.kind=hpa,policy.podDisruptionBudget.minAvailable=1",
            "which keeps 1 of 1 pods",
        ),
        ("shutdown.terminationGracePeriodSeconds=79", "terminationGracePeriodSeconds is 79, policy needs 80"),
        ("policy.engine=vllm,shutdown.terminationGracePeriodSeconds=89", "policy needs 90"),
        ("store.existingSecret=", "policy.model.uri is in s3://: set store.existingSecret"),
        ("policy.model.uri=hf://a/b", "policy.model.digest: only artifacts in s3:// have a digest"),
        ("rollout.maxSurge=0", "rollout.maxSurge and rollout.maxUnavailable are both 0"),
        ("policy.autoscaling.kind=keda", "needs policy.autoscaling.prometheus"),
        ("policy.autoscaling.kind=hpa,policy.autoscaling.minReplicas=5", "minReplicas is 5, more than maxReplicas, 4"),
        (
            "policy.autoscaling.kind=hpa,policy.engine=vllm,policy.autoscaling.metric=vllm:kv_cache_usage_perc",
            "vllm:kv_cache_usage_perc is vLLM's own metric: set vllm.exposeMetrics",
        ),
        ("apiKeys.existingSecret=keys", "set policy.rewardKey.existingSecret"),
        ("ingress.enabled=true", "need policy.host, reward.host or both"),
        ("policy.ratings.uri=s3://b/r", "set policy.ratings.existingSecret, a Secret with AWS_ACCESS_KEY_ID"),
        ("policy.ratings.uri=pvc://c/r,policy.studio=false", "people rate in the studio: set policy.studio to true"),
        ("httpRoute.enabled=true", "httpRoute.enabled needs httpRoute.parentRefs"),
    ],
)
def test_values_that_contradict_each_other(helm: Helm, wrong: str, message: str) -> None:
    assert message in helm.refuse("--values", str(values("cpu")), "--set", wrong)


@pytest.mark.parametrize(
    "right",
    [
        "policy.replicas=2,policy.podDisruptionBudget.minAvailable=1",
        "policy.replicas=2,policy.podDisruptionBudget.minAvailable=50%",
        "policy.replicas=1,policy.podDisruptionBudget.minAvailable=0",
        "shutdown.terminationGracePeriodSeconds=80",
        "policy.autoscaling.kind=hpa,policy.engine=vllm",
        "policy.autoscaling.kind=hpa,policy.engine=vllm,policy.autoscaling.metric=steerlm_answers_in_flight",
    ],
)
def test_values_at_the_edge(helm: Helm, right: str) -> None:
    helm.template("--values", str(values("cpu")), "--set", right)


def test_nothing_to_serve(helm: Helm) -> None:
    assert "nothing to serve: set policy.model.uri, reward.model.uri or both" in helm.refuse()


def test_a_release_is_a_values_file(helm: Helm, tmp_path: Path) -> None:
    """Four lines of it are enough."""
    release = {"policy": {"model": {"uri": STORE.partition("=")[2], "digest": DIGEST}}}
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump({**release, "store": {"existingSecret": "keys"}}))
    assert f"policy@{DIGEST}" in helm.template("--values", str(path))
