# SPDX-License-Identifier: Apache-2.0
"""A workspace between machines: no flock in any pod, files that show up late, two launchers on one key.

The pods of the lab share a kernel, so their images load a library that takes away what comes with that (no_flock.c).
"""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes import labels
from tests.cluster.conftest import HERE
from tests.cluster.product import BUCKET, Product
from tests.cluster.product import product as product
from tests.cluster.registry import derive

LATE = {
    # Written by the pods of the job, read by the launcher: the list of what is made, and a file of the model.
    "launcher": "/attempts/1/files.json:/reward/config.json",
    # Written by the launcher, read by the pods of the job.
    "train-reward": "/attempts/1/entry.json:/attempts/1/spec.json",
}
SECONDS_LATE = 19
STEPS = 12


LIBRARY = "/usr/local/lib/no_flock.so"


@pytest.fixture(scope="module")
def tag(product: Product, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tag of the images that load the library."""
    library = tmp_path_factory.mktemp("library") / "no_flock.so"
    words = "gcc -shared -fPIC -O2 -Wall -Wextra -Werror -o"
    subprocess.run([*words.split(), str(library), str(HERE / "no_flock.c")], check=True)
    for name, late in LATE.items():
        variables = {"LD_PRELOAD": LIBRARY, "LATE_FILES": late}
        derive(product.cluster, name, "no-flock", {LIBRARY: library.read_bytes()}, variables)
    return "no-flock"


def test_two_launchers_without_flock_make_one_job_one_index_and_one_model(product: Product, tag: str) -> None:
    product.run("--stage", "train_base")  # its image is not among the changed ones
    product.clear()
    settings = {
        "reward__save_minutes": product.unique(),
        "reward__max_steps": str(STEPS),
        "reward__validate_every": str(STEPS),
        "profile__cluster__images__tag": tag,
        "profile__layouts__reward__devices": "2",
        "profile__cluster__resources__cpu": "600m",
    }
    with (
        product.running("--stage", "train_reward", **settings) as one,
        # Another goal of the report makes another run; the training and its key are the same.
        product.running("--stage", "train_reward", **settings, report__goals="{reward_pearson: 0.5}") as two,
    ):
        outputs = [run.end(0, 600) for run in (one, two)]
        (job,) = product.objects("pytorchjobs", labels.JOB)
        log = product.log(job)
        folder = product.attempt_folder(job)
    rewards = [next(one for one in product.outcomes(text) if one["label"] == "train_reward") for text in outputs]
    assert sorted(one["status"] for one in rewards) == ["hit", "run"]
    assert len({(one["key"], one["digest"]) for one in rewards}) == 1
    assert re.findall(r"step (\d+)/", log)[-1] == str(STEPS)
    assert {path.name for path in folder.glob("rank-*.log")} == {f"rank-{rank}.log" for rank in range(4)}
    stage_log = (folder.parent.parent.parent / "logs" / "stage.log").read_text()
    assert stage_log.count("steerlm.training.dataset: regression_train.jsonl: ") == 1, "one index"
    assert "steerlm.training.dataset" not in "".join(path.read_text() for path in folder.glob("rank-*.log"))
    # Seen late in both directions: by the job's processes, and by the launcher.
    assert written(folder / "process-0.json") - written(folder / "entry.json") > SECONDS_LATE
    assert written(folder.parent.parent.parent / "COMPLETE") - written(folder / "files.json") > SECONDS_LATE
    assert is_complete(product, rewards[0]["key"])


def written(path: Path) -> float:
    return path.stat().st_mtime


def is_complete(product: Product, key: str) -> bool:
    """Whether the artifact in the bucket is sealed, and has exactly the files of its manifest."""
    prefix = f"store/train_reward/{key}/"
    found = {one.object_name for one in product.s3.list_objects(BUCKET, prefix=prefix, recursive=True)}
    assert f"{prefix}COMPLETE" in found
    files = json.loads(product.s3.get_object(BUCKET, f"{prefix}manifest.json").read())["content"]["files"]
    assert any(name.endswith(".safetensors") for name in files)
    for name, digest in files.items():
        content = product.s3.get_object(BUCKET, f"{prefix}reward/{name}").read()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (digest["size"], digest["sha256"]), name
    return True
