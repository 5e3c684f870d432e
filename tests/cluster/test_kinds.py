# SPDX-License-Identifier: Apache-2.0
"""A training as each kind of job: a process killed, a pod lost, a cancel; the model is that of one undisturbed process.

One training a kind, in four attempts: what each of them is given up for, and what the next one begins with.
"""

import itertools
import re
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.kinds import KINDS
from tests.cluster.conftest import wait_for
from tests.cluster.platform import NAMESPACE
from tests.cluster.product import SMALL, Product, one_machine
from tests.cluster.product import product as product
from tests.megatron.material import weights

STEPS = 60
SIZES = {"reward__max_steps": str(STEPS), "reward__validate_every": str(STEPS), "reward__save_every": "4"}
TOLERANCE = 3e-5
"""Of a weight. Between layouts it is 1e-5 after four steps (tests/megatron/test_layouts.py). Here there are 64, with
learning rates of up to 3e-3, and two replicas add up in another order than one process."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reward model that one process on this machine trains with the same settings."""
    settings = [*SMALL, *(f"{key.replace('__', '.')}={value}" for key, value in SIZES.items())]
    return one_machine(tmp_path_factory.mktemp("one"), "train_reward", settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_survives_what_befalls_it(product: Product, undisturbed: Path, kind: str) -> None:
    product.clear()
    settings = {**SIZES, "profile__backend": kind, "reward__save_minutes": product.unique()}
    plural = KINDS[kind].plural
    with product.running("--stage", "train_reward", **settings) as run:
        first = product.wait_for_job(plural)
        product.wait_for_step(first, 6)
        product.kill_worker(first)
        second = product.wait_for_job(plural, attempt=2)
        product.wait_for_step(second, 14)
        *_, pod = product.pods(second)
        product.cluster.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force")
        third = product.wait_for_job(plural, attempt=3)
        product.wait_for_step(third, 22)
        run.interrupt()
        output = run.end(130)
        wait_for("the end of the job's pods", lambda: not product.pods(third), 60, product.explain)
    assert re.search(r"failed: rank \d \(\S+ on node \S+\): was killed by SIGKILL .*; starting attempt 2 of 3", output)
    assert re.search(rf"failed: .*{pod}.*; starting attempt 3 of 3", output), output
    assert "canceling" in output
    record = product.record(third)
    assert record["outcome"] == "interrupted" and record["step"] < STEPS

    output = product.run("--stage", "train_reward", **settings)
    (last,) = product.objects(plural, f"{labels.COMPONENT}=train-reward")
    assert last["metadata"]["labels"][labels.ATTEMPT] == "4"
    begun = [first_step(product.log(job)) for job in (first, second, third, last)]
    assert begun[0] == 1 and all(earlier < later for earlier, later in itertools.pairwise(begun)), begun
    assert begun[3] > record["step"], "the canceled attempt has saved its last step"
    (reward,) = [one for one in product.outcomes(output) if one["label"] == "train_reward"]
    difference = largest_difference(product.model(reward["key"], "train_reward"), undisturbed)
    assert difference <= TOLERANCE, difference


def first_step(log: str) -> int:
    """The first step that an attempt has logged."""
    found = re.search(rf"step (\d+)/{STEPS}", log)
    assert found, log
    return int(found[1])


def largest_difference(model: Path, other: Path) -> float:
    ours, theirs = weights(model), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
