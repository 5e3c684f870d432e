"""One training outside the pipeline and the store: files that are named in, a model folder out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.artifact import KEY, Store, digest_json
from steerlm.errors import ConfigError, InputError
from steerlm.recipe import Recipe, ResolvedRecipe
from steerlm.records import write_json
from steerlm.stages import train_job
from steerlm.stages.base import Work
from steerlm.stages.events import Events
from steerlm.stages.keys import explain
from steerlm.stages.tracking import recording
from steerlm.storage import digest_source
from steerlm.training.config import TrainSettings

SECTIONS = {"text": "base.train", "reward": "reward", "sft": "sft"}


@dataclass(frozen=True, slots=True)
class Files:
    """What to train on and from, and the model folder to make."""

    data: Sequence[Path]
    validation: Sequence[Path]
    model: Path | None
    tokenizer: Path | None
    output: Path


def train_alone(objective: str, resolved: ResolvedRecipe, files: Files, say: Callable[[str], None]) -> dict[str, Any]:
    """Train with a recipe's settings; the result's metrics. `OUTPUT.work` keeps log, checkpoints and metrics.

    Raises `InputError` for files that are missing or an output that is something else, and what `launch` raises.
    """
    recipe, profile = resolved.recipe, resolved.profile
    settings = _settings(objective, recipe)
    tokenizer = files.tokenizer or files.model
    if tokenizer is None:
        raise InputError("give --model to start from, or --tokenizer to train text from random weights")
    for path in (*files.data, *files.validation, tokenizer, *([files.model] if files.model else [])):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    layout = {"text": profile.layouts.base, "reward": profile.layouts.reward, "sft": profile.layouts.sft}[objective]
    output = files.output.absolute()
    work = Work(f"train_{objective}", output.name, output.with_name(f"{output.name}.work"), output, profile, say)
    parts = {
        "config": settings.model_dump(mode="json"),
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
        say(f"{files.output} is finished already; delete it and {work.folder.name} to train anew")
        return train_job.metrics(json.loads(result.read_text()))
    spec = train_job.make_spec(
        objective,
        settings,
        layout,
        train=[path.absolute() for path in files.data],
        validation=[path.absolute() for path in files.validation],
        model=files.model.absolute() if files.model else None,
        base=None,
        tokenizer=tokenizer.absolute(),
        attributes=None if objective == "text" else recipe.attributes,
        work=work.scratch,
        output=output,
    )
    journal = work.folder / "journal.jsonl"
    journal.unlink(missing_ok=True)
    events, state = Events(journal), "FAILED"
    metrics: dict[str, Any] = {}
    with recording(f"train-{objective}", journal, profile.tracking, Store(profile.store).root):
        events.start(work.stage, work.stage, work.key, work.folder, parts)
        try:
            train_job.run_job(f"train-{objective}-{work.key}", spec, layout, work)
            metrics = train_job.metrics(json.loads(result.read_text()))
            state = "FINISHED"
        finally:
            events.end(work.stage, work.key, state, metrics, None)
    return metrics


def _claim(work: Work, parts: dict[str, Any]) -> None:
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


def _settings(objective: str, recipe: Recipe) -> TrainSettings:
    found: TrainSettings | None = None
    if objective == "text":
        found = recipe.base.train if recipe.base else None
    elif objective == "reward":
        found = recipe.reward
    else:
        found = recipe.sft.settings() if recipe.sft else None
    if found is None:
        raise ConfigError(f"the recipe {recipe.name} has no section {SECTIONS[objective]}")
    return found
