# SPDX-License-Identifier: Apache-2.0
"""The committed 32-node jobs are what the recipes and profiles say, and small enough for every store on their way."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.render import JOBS, NODES, SHIPPED, STAGES, plans, render_all, resolve
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.recipe import shipped
from steerlm.training.layout import LayoutSettings
from tests.conftest import ROOT

ANNOTATION_BYTES = 262_144
"""kubectl keeps an applied object in an annotation, and all annotations of an object may have so many bytes."""
COMMITTED = sorted(JOBS.glob("*.yaml"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {path.name: path.read_text() for path in render_all(tmp_path_factory.mktemp("jobs"))}


def test_the_committed_jobs_are_those_of_the_recipes(rendered: dict[str, str]) -> None:
    advice = "run `make manifests` and commit what it writes"
    assert {path.name for path in COMMITTED} == set(rendered), advice
    for path in COMMITTED:
        assert path.read_text() == rendered[path.name], f"{path.relative_to(ROOT)}: {advice}"


def test_a_file_that_no_job_has_any_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("kind: PyTorchJob")
    render_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in COMMITTED}


def test_every_recipe_has_its_jobs_as_each_kind() -> None:
    assert set(SHIPPED) == set(shipped("recipes"))
    for recipe in SHIPPED:
        jobs = [plan.job for plan in plans(recipe)]
        assert jobs
        assert {f"{job}-{kind}.yaml" for job in jobs for kind in KINDS} <= {path.name for path in COMMITTED}


@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_layouts_suit_the_recipes(recipe: str) -> None:
    resolved = resolve(recipe)
    base = resolved.recipe.base
    trainings = {"base": base and base.train, "reward": resolved.recipe.reward, "sft": resolved.recipe.sft}
    for section, training in trainings.items():
        layout: LayoutSettings = getattr(resolved.profile.layouts, section)
        if training and layout.nodes == NODES:
            assert training.global_batch >= layout.data_parallel, f"{section}: replicas without a sample"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_job_has_32_nodes_and_fits_its_stores(path: Path) -> None:
    text = path.read_text()
    *_, job = objects = list(yaml.safe_load_all(text))
    kind = KINDS[path.stem.rpartition("-")[2]]
    assert (job["kind"], job["apiVersion"]) == (kind.name, f"{kind.group}/{kind.version}")
    assert _nodes(job) == NODES
    assert all(len(yaml.safe_dump(one)) < ANNOTATION_BYTES for one in objects)
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] in STAGES.values()


def _nodes(job: dict[str, Any]) -> int:
    spec = job["spec"]
    if "trainer" in spec:
        return int(spec["trainer"]["numNodes"])
    replicas = spec.get("pytorchReplicaSpecs") or spec["mpiReplicaSpecs"]
    return sum(one["replicas"] for name, one in replicas.items() if name != "Launcher")
