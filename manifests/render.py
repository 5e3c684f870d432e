# SPDX-License-Identifier: Apache-2.0
"""Writes `manifests/jobs/`: the trainings of the shipped recipes on 32 nodes, as each kind of job object.

`make manifests` runs it, and a test compares the files. `steerlm run` makes such an object for each attempt; these are
to read, to validate, and to try a queue with. Their pods need an attempt's folder, which only a launcher writes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from steerlm.jobs.kubernetes.images import reference
from steerlm.jobs.kubernetes.kinds import KINDS
from steerlm.jobs.kubernetes.pod import Manifest, PodPlan
from steerlm.recipe import ResolvedRecipe, load_recipe

JOBS = Path(__file__).resolve().parent / "jobs"
NODES = 32
STAGES = {"base": "train-base", "reward": "train-reward", "sft": "train-sft"}
"""Names of images by layout. The baseline's training differs from that of the policy in its data only."""
SHIPPED: dict[str, tuple[str, int | None]] = {
    "steerlm-llama2": ("llama2-32x8", None),
    "helpsteer2-70b": ("cluster", None),
    # The global batches of these are too small for 256 replicas: as many GPUs per node as they have samples for.
    "consumer-gpu": ("cluster", 2),
    "demo": ("cluster", 1),
    "demo-real": ("cluster", 1),
}
"""Profile of each recipe, and the devices of each node if the profile's layouts do not suit the recipe."""
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Written by `make manifests`: {stage} of the recipe {recipe} with the profile {profile}, as {kind}.
"""


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, which are hard to read where a template stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def resolve(recipe: str) -> ResolvedRecipe:
    """Return a shipped recipe with a profile in which its trainings take 32 nodes."""
    profile, devices = SHIPPED[recipe]
    layout = f"{{nodes: {NODES}, devices: {devices}}}"
    overrides = [f"profile.layouts.{name}={layout}" for name in STAGES] if devices else []
    return load_recipe(recipe, profile, overrides)


def plans(recipe: str) -> Iterator[PodPlan]:
    """Yield the plan of each training of a recipe."""
    resolved = resolve(recipe)
    settings = resolved.profile.cluster
    for section, stage in STAGES.items():
        layout = getattr(resolved.profile.layouts, section)
        if layout.nodes != NODES or not _has(resolved, section):
            continue
        job = f"{recipe}-{stage}"
        yield PodPlan(
            job=job,
            attempt=1,
            component=stage,
            image=reference(stage, settings.images),
            folder=f"{settings.workspace.path}/{job}/attempts/1",
            settings=settings,
            nodes=layout.nodes,
            devices=layout.devices,
            grace_seconds=resolved.profile.jobs.grace_seconds,
        )


def _has(resolved: ResolvedRecipe, section: str) -> bool:
    base = resolved.recipe.base
    return bool(base and base.train) if section == "base" else getattr(resolved.recipe, section) is not None


def render(plan: PodPlan, kind: str) -> list[Manifest]:
    """Return the objects of a plan as one kind of job."""
    return KINDS[kind].manifests(plan)


def render_all(folder: Path) -> list[Path]:
    """Write one file per job and kind into `folder` and return their paths; remove files that no job has any more."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for recipe, (profile, _) in SHIPPED.items():
        for plan in plans(recipe):
            for name, kind in KINDS.items():
                path = folder / f"{plan.job}-{name}.yaml"
                header = HEADER.format(stage=plan.component, recipe=recipe, profile=profile, kind=kind.name)
                text = yaml.dump_all(render(plan, name), Dumper=_Dumper, sort_keys=False, width=120)
                path.write_text(header + text, encoding="utf-8")
                written.append(path)
    for path in {*folder.glob("*.yaml")} - {*written}:
        path.unlink()
    return written


if __name__ == "__main__":
    render_all(JOBS)
