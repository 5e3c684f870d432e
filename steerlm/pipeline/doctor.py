# SPDX-License-Identifier: Apache-2.0
"""`steerlm doctor`: whether this machine, or the cluster of a profile, has what its runs need.

Nothing is left behind but what was there before: a probe's files and pods are deleted again.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Mapping

import steerlm
from steerlm.artifact import Store
from steerlm.errors import InputError, SteerLMError, first_line
from steerlm.jobs.finding import Finding, right, wrong
from steerlm.jobs.registry import LOCAL
from steerlm.recipe import Profile, ResolvedRecipe
from steerlm.trainjob.planning import TrainingPlan, plan_recipe

Plans = Mapping[str, TrainingPlan]
OLDEST_PYTHON = (3, 11)
LEAST_MEMORY = 4 << 30
"""Bytes of memory with which the demo runs."""
LEAST_DISK = 2 << 30
"""Bytes that the demo's artifacts and checkpoints take."""


def examine(profile: Profile, resolved: ResolvedRecipe | None = None, *, pods: bool = True) -> Iterator[Finding]:
    """Yield the findings on the place where a profile runs.

    Args:
        profile: Whose back end, store and tracking are examined.
        resolved: A recipe, whose trainings' memory and space are compared with what there is.
        pods: Start pods on the profile's cluster that look from inside.
    """
    yield _python()
    plans: Plans = {}
    if resolved is not None:
        try:
            plans = plan_recipe(resolved, {}, {})
        except SteerLMError as error:
            yield wrong("recipe", first_line(error), f"steerlm plan {resolved.recipe.name}, which says more")
    needed = needed_space(plans) if plans else None
    if profile.backend == LOCAL:
        yield from _machine(profile, plans)
        yield from _places(profile, needed)
    else:
        yield from _cluster(profile, needed, pods)


def needed_space(plans: Plans) -> int:
    """Return the bytes that a run of these trainings takes at most where it works.

    The model folders that are read and made stay; the checkpoints of a training are deleted after it, so the largest
    ones count. Of the data, the token ids that are trained on count; the conversations are small beside them.
    """
    footprints = [plan.footprint for plan in plans.values()]
    checkpoints = max(footprint.storage_bytes - footprint.model_folder_bytes for footprint in footprints)
    made = sum(footprint.model_folder_bytes for footprint in footprints)
    read = {plan.model: plan.footprint.model_folder_bytes for plan in plans.values()}
    tokens = sum(4 * int(footprint.tokens_per_step * (footprint.steps or 0)) for footprint in footprints)
    return checkpoints + made + sum(read.values()) + tokens


def _python() -> Finding:
    text = f"steerlm {steerlm.__version__}, Python {platform.python_version()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return wrong("python", f"{text}; {oldest} or later was expected", f"python{oldest} -m venv .venv")
    return right("python", text)


def _machine(profile: Profile, plans: Plans) -> Iterator[Finding]:
    """Check torch, GPUs and memory of this machine."""
    layouts = [layout for _, layout in profile.layouts]
    nodes, devices = max(layout.nodes for layout in layouts), max(layout.devices for layout in layouts)
    if nodes > 1:
        text = f"the back end local has one node, a layout of the profile {profile.name} has {nodes}"
        yield wrong("profile", text, "set backend in the profile, or nodes: 1 (docs/kubernetes.md)")
    missing = [name for name in ("torch", "transformers", "megatron") if importlib.util.find_spec(name) is None]
    if missing:
        yield wrong("torch", f"{', '.join(missing)} cannot be imported", "pip install 'steerlm[train,serve]'")
        return
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    _, _, built_for = torch.__version__.partition("+")
    built = f", built for {built_for}" if built_for else ""
    yield right("torch", f"torch {torch.__version__}{built}")
    has = f"{count} x {torch.get_device_module().get_device_name(0)}" if count else f"{count} GPUs"
    if profile.gpu is not None and count < devices:
        text = f"{has}; a layout of the profile {profile.name} has {devices}"
        yield wrong("gpu", text, "nvidia-smi; or another profile, such as --profile laptop")
    elif count:
        yield right("gpu", has)
    else:
        yield right("gpu", f"none; {os.cpu_count()} CPU cores, and the profile needs no GPU")
    yield _memory(profile, plans)


def _memory(profile: Profile, plans: Plans) -> Finding:
    """Compare this machine's memory with what the processes of a training hold."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text, needed = f"{memory / 2**30:.1f} GiB", LEAST_MEMORY
    if plans:
        needed = max(
            plan.host_memory_per_node if profile.gpu else int(plan.footprint.memory.total * plan.layout.devices)
            for plan in plans.values()
        )
        text += f", the recipe's trainings hold {needed / 2**30:.1f} GiB"
    if memory < needed:
        return wrong("memory", text, "a smaller model or micro_batch, or a larger machine; see: steerlm plan RECIPE")
    return right("memory", text)


def _places(profile: Profile, needed: int | None) -> Iterator[Finding]:
    """Check store, its disk and the tracking server, from this machine."""
    from steerlm.jobs.kubernetes.probe import check_mlflow, check_space, check_store, existing

    yield check_store(profile.store)
    try:
        root = Store(profile.store).root
    except InputError:
        return  # the store's finding says so
    user = "the demo" if needed is None else "the recipe"
    yield check_space("disk", existing(root), LEAST_DISK if needed is None else needed, user)
    if not profile.tracking.enabled:
        yield right("mlflow", "tracking is off in the profile")
        return
    if importlib.util.find_spec("mlflow") is None:
        mend = "pip install 'steerlm[pipeline]', or --set profile.tracking.enabled=false"
        yield wrong("mlflow", "mlflow cannot be imported", mend)
    yield check_mlflow(profile.tracking.resolve_uri(root))


def _cluster(profile: Profile, needed: int | None, pods: bool) -> Iterator[Finding]:
    from steerlm.jobs.kubernetes.checks import ClusterCheckup
    from steerlm.jobs.kubernetes.doctor import ProbeTargets, check_cluster

    layouts = [layout for _, layout in profile.layouts]
    checkup = ClusterCheckup(
        backend=profile.backend,
        settings=profile.cluster,
        jobs=profile.jobs,
        nodes=max(layout.nodes for layout in layouts),
        devices=max(layout.devices for layout in layouts),
    )
    targets = ProbeTargets(profile.store, profile.tracking.enabled, profile.tracking.uri, needed) if pods else None
    try:
        yield from check_cluster(checkup, targets)
    except InputError as error:
        yield wrong("cluster", first_line(error), "export KUBECONFIG=FILE, or cluster.context of the profile")
