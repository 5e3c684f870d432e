# SPDX-License-Identifier: Apache-2.0
"""`steerlm run` on a real cluster: launcher, jobs, queue, store and tracking."""

import re

import pytest

from steerlm.jobs.kubernetes import labels
from tests.cluster.product import BUCKET, Product
from tests.cluster.product import product as product

JOBS = ("train-base", "train-reward", "annotate", "train-sft", "evaluate")
"""The stages that are jobs of the back end; the launcher does the others itself."""
STAGES = ("prepare_data", "train_base", "train_reward", "annotate", "train_sft", "evaluate", "report")

METRICS = {
    "train_base": "train/loss",
    "train_reward": "train/loss",
    "train_sft": "train/loss",
    "evaluate": "final/steering_spearman_mean",
}


@pytest.mark.fast
def test_a_job_of_two_nodes_trains_the_demos_reward_model(product: Product) -> None:
    product.clear()
    output = product.run("--stage", "train_reward")
    assert re.search(r"\[3/3\] train_reward +run", output), output
    (job,) = product.objects("pytorchjobs", "app.kubernetes.io/component=train-reward")
    assert {name: one["replicas"] for name, one in job["spec"]["pytorchReplicaSpecs"].items()} == {
        "Master": 1,
        "Worker": 1,
    }
    assert "step 6/6" in product.log(job)
    names = {one.object_name for one in product.s3.list_objects("steerlm", "store/train_reward/", recursive=True)}
    assert any(name.endswith("/COMPLETE") for name in names)
    assert any(name.endswith(".safetensors") for name in names)


def test_the_demo_ends_with_its_artifacts_in_minio_and_its_metrics_in_mlflow(product: Product) -> None:
    """From the data to the report; each stage that computes is a job of two nodes, or of one where it says so."""
    product.clear()
    output = product.run(base__train__save_minutes=product.unique(), sft__save_minutes=product.unique())
    outcomes = {one["label"]: one for one in product.outcomes(output)}
    assert all(outcomes[stage]["status"] in ("run", "hit") for stage in STAGES), output
    jobs = product.objects("pytorchjobs", labels.JOB)
    assert {job["metadata"]["labels"][labels.COMPONENT] for job in jobs} == set(JOBS)
    assert all(job["metadata"]["labels"][labels.ATTEMPT] == "1" for job in jobs)

    keys = {stage: outcomes[stage]["key"] for stage in STAGES}
    objects = {one.object_name for one in product.s3.list_objects(BUCKET, "store/", recursive=True)}
    for stage, key in keys.items():
        assert f"store/{stage}/{key}/COMPLETE" in objects, f"{stage} {key}"

    for stage, metric in METRICS.items():
        run = product.tracked(keys[stage])
        assert run.info.status == "FINISHED" and metric in run.data.metrics, sorted(run.data.metrics)
