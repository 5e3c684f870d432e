# SPDX-License-Identifier: Apache-2.0
"""What the training stages share: a spec for the worker, the job that runs it, and what it left behind."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steerlm.artifact import Artifact
from steerlm.attributes import AttributeSchema
from steerlm.jobs import environment
from steerlm.jobs.backend import Job
from steerlm.jobs.launcher import launch
from steerlm.jobs.local import LocalBackend
from steerlm.stages.base import StageContext, StageResult
from steerlm.training.config import TrainSettings
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.trainjob.token_index import with_index

WORKER = "steerlm.trainjob.worker"
CODE = (WORKER,)
"""The worker makes the result; what waits for it does not."""
RESULT = "result.json"
OBJECTIVES = ("text", "sft", "reward")


def others(objective: str) -> tuple[str, ...]:
    """The code of the other objectives: a change there makes no difference here."""
    return tuple(f"steerlm.training.objectives.{name}" for name in OBJECTIVES if name != objective)


def train(
    work: StageContext,
    objective: str,
    settings: TrainSettings,
    layout: LayoutSettings,
    *,
    train: Sequence[Path],
    validation: Sequence[Path],
    model: Artifact | None,
    tokenizer: Path,
    attributes: AttributeSchema | None,
) -> StageResult:
    """Run a training job to its end; the model folder lies in `work.files`, its metrics in the logs.

    The trained attributes of the result are what the model folder says. Raises what `launch` raises.
    """
    spec = make_spec(
        objective,
        settings,
        layout,
        work.profile.jobs.faults,
        train=train,
        validation=validation,
        model=model.path if model else None,
        base=_origin(model) if model else None,
        tokenizer=tokenizer,
        attributes=attributes,
        work=work.scratch,
        output=work.files,
    )
    run_job(f"{work.stage.replace('_', '-')}-{work.key}", spec, layout, work)
    work.keep_metrics()
    result = json.loads((work.scratch / RESULT).read_text()) if (work.scratch / RESULT).exists() else {}
    from steerlm.models.folder import read_info

    info = read_info(work.files)
    return StageResult(attributes=info.attributes, metrics=metrics(result) or info.metrics, notes={"result": result})


def make_spec(
    objective: str,
    settings: TrainSettings,
    layout: LayoutSettings,
    faults: FaultSettings,
    *,
    train: Sequence[Path],
    validation: Sequence[Path],
    model: Path | None,
    base: str | None,
    tokenizer: Path,
    attributes: AttributeSchema | None,
    work: Path,
    output: Path,
) -> dict[str, Any]:
    """The worker's SPEC.json. A validation file without a line is left out."""
    return {
        "objective": objective,
        "settings": settings.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "faults": faults.model_dump(mode="json"),
        "attributes": attributes.model_dump(mode="json") if attributes else None,
        "model_folder": str(model) if model else None,
        "base": base,
        "tokenizer_folder": str(tokenizer),
        "train": [str(path) for path in train],
        "validation": [str(path) for path in validation if path.exists() and path.stat().st_size],
        "work": str(work),
        "output": str(output),
        "tracking": None,
    }


def run_job(name: str, spec: dict[str, Any], layout: LayoutSettings, work: StageContext) -> None:
    """Build the token indexes here, launch the worker on the profile's back end and see it through; its records stay
    in `job/`."""
    spec = with_index(spec, work.report_progress)
    jobs = work.profile.jobs
    threads = layout.threads or max(1, (os.cpu_count() or 1) // layout.devices)
    job = Job(
        name=name,
        module=WORKER,
        spec=spec,
        folder=work.folder / "job",
        log=work.logs / "train.log",
        nodes=layout.nodes,
        devices=layout.devices,
        threads=threads,
        environment=environment.variables(layout),
    )
    backend = LocalBackend(jobs.grace_seconds)
    if backend.status(str(job.folder.resolve())).state not in ("running", "succeeded"):
        shutil.rmtree(work.files, ignore_errors=True)  # shards of another layout must not stay among the new ones
        work.files.mkdir(parents=True)
    launch(backend, job, jobs, work.line)


def _origin(model: Artifact) -> str:
    """What to call the model that training starts from: where it was fetched from, or the stage that made it."""
    uri = str(model.manifest.provenance["notes"].get("uri", ""))
    name = uri if "://" in uri else Path(uri).name
    return name or f"{model.manifest.stage}/{model.key}"


def metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a `TrainResult`, its validation metrics by their own names."""
    plain = {k: v for k, v in result.items() if isinstance(v, int | float)}
    return {**plain, **{f"validation/{k}": v for k, v in (result.get("metrics") or {}).items()}}
