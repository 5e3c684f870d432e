# SPDX-License-Identifier: Apache-2.0
"""One training outside the pipeline and the store: from named files to a model folder."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from steerlm.artifact import KEY, LOGS, WORK
from steerlm.checksums import digest_json, digest_source
from steerlm.errors import InputError
from steerlm.files import write_json
from steerlm.jobs import environment
from steerlm.jobs.place import JobPlace
from steerlm.jobs.registry import make_backend
from steerlm.recipe import ResolvedRecipe
from steerlm.training.checkpoints import CHECKPOINTS, COMPLETE
from steerlm.trainjob.job import WORKER, result_metrics, run_training
from steerlm.trainjob.machine import check_machine
from steerlm.trainjob.preflight import check_training
from steerlm.trainjob.sections import training_section
from steerlm.trainjob.spec import RESULT, TrainSpec, nonempty
from steerlm.trainjob.token_index import build_indexes

KeyParts = Mapping[str, Any]
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
"""Endings of files with rows that have to be converted first."""


@dataclass(frozen=True, slots=True)
class TrainFiles:
    """What to train on and start from, and the model folder to write."""

    data: Sequence[Path]
    validation: Sequence[Path]
    model: Path | None
    tokenizer: Path | None
    output: Path

    @property
    def work(self) -> Path:
        """The folder beside the output that keeps log, checkpoints and metrics."""
        output = self.output.absolute()
        return output.with_name(f"{output.name}.work")


class RunRecord(Protocol):
    """The part of the pipeline's run log that a training writes."""

    def start(self, label: str, stage: str, key: str, folder: Path, parts: KeyParts) -> None:
        """Record that a training starts in `folder`. `parts`: what its key is made of."""

    def end(self, label: str, key: str, state: str, metrics: Mapping[str, float], digest: str | None) -> None:
        """Record the training's final state and metrics. `digest`: its model folder's; None if there is none."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """Where a training reports to; the caller brings it, since this package does not import the pipeline.

    Attributes:
        progress: Shows a line of progress.
        record: Opens a new run log at a path, and what follows it.
        explain: Names the differences between the parts of a key and earlier ones.
    """

    progress: Callable[[str], None]
    record: Callable[[Path], AbstractContextManager[RunRecord]]
    explain: Callable[[KeyParts, Sequence[KeyParts]], str]


def train_standalone(
    objective: str, resolved: ResolvedRecipe, files: TrainFiles, reporting: Reporting
) -> dict[str, float]:
    """Train with a recipe's settings and return the metrics of the result. Called again, it resumes.

    Raises:
        SteerLMError: What `make_spec` raises, before anything is written, and what `run_training` raises.
        InputError: The layout has more nodes than the back end, or the output was started with other settings.
    """
    spec, profile = make_spec(objective, resolved, files), resolved.profile
    limit = make_backend(profile).max_nodes
    if limit is not None and spec.layout.nodes > limit:
        raise InputError(
            f"the layout has {spec.layout.nodes} nodes and the back end {profile.backend} allows at most {limit}; "
            "--write-spec FILE writes a spec that torchrun starts on each node"
        )
    parts = {
        "config": spec.settings.model_dump(mode="json"),
        "attributes": resolved.recipe.attributes.model_dump(mode="json"),
        "inputs": {
            "data": [digest_source(str(path)) for path in files.data],
            "validation": [digest_source(str(path)) for path in files.validation],
            "model": digest_source(str(files.model)) if files.model else None,
        },
    }
    label, title = f"train_{objective}", f"train-{objective}-{spec.output.name}"
    place = JobPlace(title, files.work / "job", files.work / LOGS / "train.log", profile)
    check_machine(profile, {training_section(resolved, objective).name: spec.layout})
    _claim(spec.output, files.work, place, parts, reporting)
    result = spec.work / RESULT
    if result.exists():
        reporting.progress(f"{files.output} is already trained; delete it and {files.work.name} to train again")
        return result_metrics(json.loads(result.read_text(encoding="utf-8")))
    metrics: dict[str, float] = {}
    state = "FAILED"
    with reporting.record(files.work / "run_log.jsonl") as record:
        record.start(label, label, spec.output.name, files.work, parts)
        try:
            metrics = result_metrics(run_training(spec, place, reporting.progress).result)
            state = "FINISHED"
        finally:
            record.end(label, spec.output.name, state, metrics, None)
    return metrics


def make_spec(objective: str, resolved: ResolvedRecipe, files: TrainFiles) -> TrainSpec:
    """Return the worker's spec with absolute paths; write nothing.

    Raises:
        InputError: A file or folder is missing or of another kind, or the recipe validates and there is no data for it.
        ConfigError: The recipe has no such training.
        SteerLMError: What `check_training` raises.
    """
    section = training_section(resolved, objective)
    tokenizer = files.tokenizer or files.model
    if tokenizer is None:
        raise InputError("give --model to start from, or --tokenizer to train text from random weights")
    for path in (*files.data, *files.validation):
        if not path.is_file():
            raise InputError(f"{path}: {'is a folder, a file was expected' if path.is_dir() else 'no such file'}")
        if path.name.endswith(TABLES):
            raise InputError(f"{path}: training reads JSON lines; steerlm data convert makes conversations of tables")
    spec = TrainSpec(
        objective=objective,
        settings=section.settings,
        layout=section.layout,
        faults=resolved.profile.jobs.faults,
        attributes=resolved.recipe.attributes if section.entry.uses_attributes else None,
        model_folder=files.model.absolute() if files.model else None,
        tokenizer_folder=tokenizer.absolute(),
        train=[path.absolute() for path in files.data],
        validation=nonempty([path.absolute() for path in files.validation]),
        work=files.work / WORK,
        output=files.output.absolute(),
    )
    check_training(spec)
    if spec.settings.validate_every and not spec.validation:
        raise InputError(
            f"--validation is {'empty' if files.validation else 'not given'}, and {section.name}.validate_every is "
            f"{spec.settings.validate_every}: give a file of held-out data, or --set "
            f"{section.name}.validate_every=null: then the last step becomes the model"
        )
    return spec


def write_spec(
    objective: str, resolved: ResolvedRecipe, files: TrainFiles, path: Path, report_progress: Callable[[str], None]
) -> None:
    """Build the token indexes, so that every machine finds them, and write the worker's SPEC.json to `path`."""
    build_indexes(make_spec(objective, resolved, files), report_progress).write(path)


def torchrun(objective: str, resolved: ResolvedRecipe, spec: Path) -> str:
    """Return the command, with its environment, that trains a spec; for several nodes, to be run on each."""
    layout = training_section(resolved, objective).layout
    nodes = "--standalone"
    if layout.nodes > 1:
        nodes = f"--nnodes {layout.nodes} --node-rank RANK --master-addr FIRST_NODE --master-port 29500"
    timeout = f"--shutdown-timeout {resolved.profile.jobs.grace_seconds:.0f}"
    variables = " ".join(f"{name}={value}" for name, value in environment.variables(layout).items())
    return f"{variables} torchrun {nodes} --nproc-per-node {layout.devices} {timeout} -m {WORKER} {spec}"


def _claim(output: Path, work: Path, place: JobPlace, parts: KeyParts, reporting: Reporting) -> None:
    """Create the work folder, or check that it belongs to the same training.

    What a training has left that ended before its first checkpoint is removed: it refuses no corrected second try.
    """
    record = work / KEY
    if record.exists():
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if digest_json(earlier) != digest_json(parts):
            if _worth_keeping(work / WORK) or place.running():
                raise InputError(
                    f"{output} was started with other settings: {reporting.explain(parts, [earlier])}; "
                    f"name another --output, or delete it and {work}"
                )
            for leftover in (work / WORK, output):
                shutil.rmtree(leftover, ignore_errors=True)
    elif output.exists() and any(output.iterdir()):
        raise InputError(f"{output} exists and was not made by this command; name another --output")
    for folder in (work / WORK, work / LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(record, parts)


def _worth_keeping(work: Path) -> bool:
    """Return whether a training has a result, or a checkpoint from which it would resume."""
    return (work / RESULT).exists() or any((work / CHECKPOINTS).glob(f"*/{COMPLETE}"))
