# SPDX-License-Identifier: Apache-2.0
"""The part that the training stages share: run a `TrainSpec` as a job and describe the trained model."""

from pathlib import Path

from steerlm.artifact import Artifact
from steerlm.dropped import Dropped
from steerlm.jobs.place import JobPlace
from steerlm.stages.base import StageContext, StageResult
from steerlm.training.objectives.registry import OBJECTIVES
from steerlm.trainjob.job import WORKER, result_metrics, run_training
from steerlm.trainjob.preflight import check_training
from steerlm.trainjob.spec import TrainSpec

CODE = (WORKER,)
"""The modules that decide the result of a training: the worker's, not the launcher's."""


def other_objectives(objective: str) -> tuple[str, ...]:
    """Return the modules of the other objectives: a change there does not affect this one."""
    return tuple(f"steerlm.training.objectives.{name}" for name in OBJECTIVES if name != objective)


def train(context: StageContext, spec: TrainSpec) -> StageResult:
    """Run a stage's training to its end. Its model is in `context.files`, its metrics are in the logs.

    The attributes of the result are those that the model folder says were trained.

    Raises:
        SteerLMError: What `check_training` and `run_training` raise.
    """
    from steerlm.models.folder import read_info

    check_training(spec)
    title = f"{context.stage}-{context.key}"
    folder, logs = context.folder / "job", context.logs / "train.log"
    place = JobPlace(title, folder, logs, context.profile, context.image, context.report_note)
    trained = run_training(spec, place, context.report_progress)
    result = trained.result
    context.keep_metrics()
    info = read_info(context.files)
    metrics = dict(result_metrics(result) or info.metrics)
    dropped = [
        Dropped.from_counts(f"{split} data", counts, spec.entry.records)
        for split, counts in (result.get("counts") or {}).items()
    ]
    metrics |= {f"dropped/{one.where.split()[0]}": one.share for one in dropped}
    left_out = [one for one in dropped if one.number]
    return StageResult(
        attributes=info.attributes,
        metrics=metrics,
        notes={"result": result},
        left_out=left_out,
        files=trained.files,
    )


def origin(model: Artifact) -> str:
    """Return the name of the model that training starts from: its source, or the stage that trained it."""
    uri = str(model.manifest.provenance["notes"].get("uri", ""))
    name = uri if "://" in uri else Path(uri).name
    return name or f"{model.manifest.stage}/{model.key}"
