# SPDX-License-Identifier: Apache-2.0
"""`steerlm run` on a real cluster: launcher, jobs, queue, store and tracking."""

import re

import pytest

from tests.cluster.product import Product
from tests.cluster.product import product as product


@pytest.mark.fast
def test_a_job_of_two_nodes_trains_the_demos_reward_model(product: Product) -> None:
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
