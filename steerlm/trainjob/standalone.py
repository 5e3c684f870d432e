# SPDX-License-Identifier: Apache-2.0
"""One training outside the pipeline and the store: files that are named in, a model folder out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.artifact import KEY, WORK, Store
from steerlm.checksums import digest_json, digest_source
from steerlm.errors import ConfigError, InputError, ModelError
from steerlm.files import write_json
from steerlm.jobs import environment
from steerlm.models.tokenizer import check_tokenizer_folder
from steerlm.pipeline.keys import explain
from steerlm.pipeline.run_log import RunLog
from steerlm.pipeline.tracking import recording
from steerlm.recipe import ResolvedRecipe
from steerlm.stages.base import StageContext
from steerlm.training.config import TrainSettings
from steerlm.training.layout import LayoutSettings
from steerlm.trainjob import job as train_job
from steerlm.trainjob.planning import trainings
from steerlm.trainjob.token_index import with_index
from steerlm.trainjob.worker import TrainSpec


@dataclass(frozen=True, slots=True)
class Files:
    """What to train on and from, and the model folder to make."""

    data: Sequence[Path]
    validation: Sequence[Path]
    model: Path | None
    tokenizer: Path | None
    output: Path


def train_alone(
    objective: str, resolved: ResolvedRecipe, files: Files, report_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Train with a recipe's settings; the result's metrics. `OUTPUT.work` keeps log, checkpoints and metrics.

    Raises what `make_spec` raises, before anything is made; `InputError` for an output that is something else; and what
    `launch` raises.
    """
    recipe, profile = resolved.recipe, resolved.profile
    spec, (_, layout) = make_spec(objective, resolved, files), _training(objective, resolved)
    if layout.nodes > 1:
        raise InputError(
            f"the layout has {layout.nodes} nodes and this command starts one machine's processes; "
            "--write-spec FILE writes what torchrun starts on each"
        )
    output = files.output.absolute()
    work = StageContext(f"train_{objective}", output.name, _work_folder(output), output, profile, report_progress)
    parts = {
        "config": spec["settings"],
        "attributes": recipe.attributes.model_dump(mode="json"),
        "inputs": {
            "data": [digest_source(str(path)) for path in files.data],
            "validation": [digest_source(str(path)) for path in files.validation],
            "model": digest_source(str(files.model)) if files.model else None,
        },
    }
    _claim(work, parts)
    result = work.scratch / train_job.RESULT
    if result.exists():
        report_progress(f"{files.output} is finished already; delete it and {work.folder.name} to train anew")
        return train_job.metrics(json.loads(result.read_text()))
    journal = work.folder / "journal.jsonl"
    journal.unlink(missing_ok=True)
    run_log, state = RunLog(journal), "FAILED"
    metrics: dict[str, Any] = {}
    with recording(f"train-{objective}", journal, profile.tracking, Store(profile.store).root):
        run_log.start(work.stage, work.stage, work.key, work.folder, parts)
        try:
            train_job.run_job(f"train-{objective}-{work.key}", spec, layout, work)
            metrics = train_job.metrics(json.loads(result.read_text()))
            state = "FINISHED"
        finally:
            run_log.end(work.stage, work.key, state, metrics, None)
    return metrics


def make_spec(objective: str, resolved: ResolvedRecipe, files: Files) -> dict[str, Any]:
    """The worker's SPEC.json; nothing is made. All paths in it are absolute.

    Raises `InputError` for a file or folder that is missing or of another kind, `ConfigError` for settings or a layout
    that do not fit the model.
    """
    settings, layout = _training(objective, resolved)
    tokenizer = files.tokenizer or files.model
    if tokenizer is None:
        raise InputError("give --model to start from, or --tokenizer to train text from random weights")
    for path in (*files.data, *files.validation):
        if not path.is_file():
            raise InputError(f"{path}: {'is a folder, a file was expected' if path.is_dir() else 'no such file'}")
    output = files.output.absolute()
    spec = train_job.make_spec(
        objective,
        settings,
        layout,
        resolved.profile.jobs.faults,
        train=[path.absolute() for path in files.data],
        validation=[path.absolute() for path in files.validation],
        model=files.model.absolute() if files.model else None,
        base=None,
        tokenizer=tokenizer.absolute(),
        attributes=None if objective == "text" else resolved.recipe.attributes,
        work=_work_folder(output) / WORK,
        output=output,
    )
    layout.check_fits(TrainSpec.model_validate({**spec, "settings": settings}).shape)
    if files.model and not any(files.model.glob("*.safetensors")):
        raise ModelError(f"{files.model}: no *.safetensors file; a Hugging Face model folder was expected")
    check_tokenizer_folder(tokenizer)
    return spec


def write_spec(
    objective: str, resolved: ResolvedRecipe, files: Files, path: Path, report_progress: Callable[[str], None]
) -> None:
    """Write the worker's SPEC.json to `path`, after building its token indexes, so that every machine finds them."""
    write_json(path, with_index(make_spec(objective, resolved, files), report_progress))


def torchrun(objective: str, resolved: ResolvedRecipe, spec: Path) -> str:
    """The command that trains a spec, with its environment; of several nodes, on each of them."""
    _, layout = _training(objective, resolved)
    nodes = "--standalone"
    if layout.nodes > 1:
        nodes = f"--nnodes {layout.nodes} --node-rank RANK --master-addr FIRST_NODE --master-port 29500"
    patience = f"--shutdown-timeout {resolved.profile.jobs.grace_seconds:.0f}"
    variables = " ".join(f"{name}={value}" for name, value in environment.variables(layout).items())
    return f"{variables} torchrun {nodes} --nproc-per-node {layout.devices} {patience} -m {train_job.WORKER} {spec}"


def _work_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


def _training(objective: str, resolved: ResolvedRecipe) -> tuple[TrainSettings, LayoutSettings]:
    found = trainings(resolved).get("base" if objective == "text" else objective)
    if found is None:
        section = "base.train" if objective == "text" else objective
        raise ConfigError(f"the recipe {resolved.recipe.name} has no section {section}")
    return found


def _claim(work: StageContext, parts: dict[str, Any]) -> None:
    """Make the working folder, or check that it is of the same training."""
    record = work.folder / KEY
    if record.exists():
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if digest_json(earlier) != digest_json(parts):
            raise InputError(
                f"{work.files} was begun otherwise: {explain(parts, [earlier])}; "
                f"name another --output, or delete it and {work.folder}"
            )
    elif work.files.exists() and any(work.files.iterdir()):
        raise InputError(f"{work.files} is there already and was not made by this command; name another --output")
    for place in (work.scratch, work.logs):
        place.mkdir(parents=True, exist_ok=True)
    write_json(record, parts)
