# SPDX-License-Identifier: Apache-2.0
"""One step of a pipeline: what a Kubeflow component calls. Translates between its artifacts and ours, nothing more.

An artifact of the pipeline engine carries the store's address of ours in its metadata, and the manifest as its file;
no model is ever copied through the engine. A step that the recipe has no section for passes on that it was skipped.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from steerlm.errors import InputError, Interrupted, SteerLMError, StorageError
from steerlm.pipeline.run_log import RunLog
from steerlm.signals import CTRL_C_EXIT_CODE, interrupted_by_sigterm

if TYPE_CHECKING:
    from steerlm.artifact import Artifact, Store
    from steerlm.pipeline.run import Outcome

JOURNAL = "STEERLM_JOURNAL"
"""Environment variable: the journal of the run that a step belongs to; whoever set it does the tracking."""
TERMINATED = "terminated; run the same command to resume"
log = logging.getLogger(__name__)


class Step(NamedTuple):
    """A stage in a role. `section`: of the recipe; null there, the step does not apply. `passes_on`: the input that
    then takes the place of a result."""

    stage: str
    section: str
    role: str = ""
    passes_on: str | None = None


STEPS = {
    "prepare_data": Step("prepare_data", "prepare_data"),
    "fetch_model": Step("fetch_model", "base.fetch", "policy"),
    "train_base": Step("train_base", "base.train", passes_on="base"),
    "fetch_reward_base": Step("fetch_model", "base.reward", "reward"),
    "train_reward": Step("train_reward", "reward"),
    "annotate": Step("annotate", "annotate"),
    "train_sft": Step("train_sft", "sft", "policy"),
    "train_baseline": Step("train_sft", "baseline", "baseline"),
    "evaluate": Step("evaluate", "evaluate"),
    "report": Step("report", "report"),
}
"""In pipeline order."""


class EngineArtifact(Protocol):
    """What we use of `kfp.dsl.Artifact`."""

    path: str
    metadata: dict[str, Any]


def run_step(
    label: str,
    recipe: str,
    profile: str,
    inputs: Mapping[str, Sequence[EngineArtifact]],
    output: EngineArtifact,
) -> None:
    """Run a step of `STEPS` and describe its artifact in `output`. `recipe` and `profile` are JSON.

    Of each input's candidates the first that was not skipped is taken. Exits with the error's status (2 bad input,
    1 failure, 130 Ctrl-C, 143 terminated) after telling the journal.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if JOURNAL in os.environ:  # whoever runs the pipeline here passes signals on, so that they arrive once
        os.setpgid(0, 0)
    began = time.monotonic()
    taken = {name: found for name, several in inputs.items() if (found := _first(several))}
    if not _applies(STEPS[label].section, json.loads(recipe)):  # before anything is imported
        _skip(label, taken, output)
        return
    with _journal(recipe, profile) as run_log, interrupted_by_sigterm(TERMINATED):
        run_log.emit("step", label)
        try:
            outcome = _run(label, recipe, profile, taken, run_log)
        except (KeyboardInterrupt, SteerLMError) as error:
            code = error.exit_code if isinstance(error, SteerLMError) else CTRL_C_EXIT_CODE
            _failed(run_log, label, error, code, began)
            raise SystemExit(code) from None
        except Exception as error:
            _failed(run_log, label, error, 1, began)
            raise
        artifact = outcome.artifact
        output.metadata.update(describe(artifact))
        Path(output.path).write_text(artifact.manifest.model_dump_json(indent=2))
        seconds = time.monotonic() - began
        told = {"what": outcome.what, "why": outcome.why, "seconds": seconds, "path": str(artifact.path)}
        run_log.emit("outcome", label, **told, **describe(artifact))


def _applies(section: str, recipe: Any) -> bool:
    for key in section.split("."):
        recipe = None if recipe is None else recipe.get(key)
    return recipe is not None


def _skip(label: str, inputs: Mapping[str, EngineArtifact], output: EngineArtifact) -> None:
    passed_on = inputs.get(STEPS[label].passes_on or "")
    output.metadata.update(passed_on.metadata if passed_on else {"skipped": "true"})
    Path(output.path).write_text(json.dumps(output.metadata))
    path = os.environ.get(JOURNAL)
    run_log = RunLog(Path(path) if path else None)
    run_log.emit("outcome", label, what="skipped", why="the recipe has no such section", seconds=0.0)


def describe(artifact: "Artifact") -> dict[str, str]:
    """The metadata by which the next step finds an artifact."""
    return {
        "stage": artifact.manifest.stage,
        "kind": artifact.kind,
        "uri": artifact.uri,
        "key": artifact.key,
        "digest": artifact.digest,
    }


def _run(label: str, recipe: str, profile: str, inputs: Mapping[str, EngineArtifact], run_log: RunLog) -> "Outcome":
    from steerlm.artifact import Store
    from steerlm.pipeline.run import run_stage
    from steerlm.recipe import Profile, Recipe

    step, where = STEPS[label], Profile.model_validate_json(profile)
    module = import_module(f"steerlm.stages.{step.stage}")
    config = module.config(Recipe.model_validate_json(recipe), step.role)
    store = Store(where.store)
    found = {name: _open(store, artifact) for name, artifact in inputs.items()}
    return run_stage(module.STAGE, config, found, store, where, label=label, run_log=run_log)


def _open(store: "Store", artifact: EngineArtifact) -> "Artifact":
    metadata = artifact.metadata
    try:
        found = store.open(metadata["stage"], metadata["key"])
    except KeyError as error:
        raise InputError(f"{artifact.path}: not an artifact of ours, its metadata has no {error}") from None
    if found.digest != metadata["digest"]:
        raise StorageError(f"{found.uri}: made anew since this run began; run the pipeline again")
    return found


def _first(candidates: Sequence[EngineArtifact]) -> EngineArtifact | None:
    return next((a for a in candidates if "skipped" not in a.metadata), None)


def _failed(run_log: RunLog, label: str, error: BaseException, code: int, began: float) -> None:
    text = str(error) if isinstance(error, SteerLMError) else f"{type(error).__name__}: {error}"
    log.error("%s: %s", label, text)
    what = "stopped" if code in (CTRL_C_EXIT_CODE, Interrupted.exit_code) else "failed"
    run_log.emit("outcome", label, what=what, why=text, seconds=time.monotonic() - began, code=code)


@contextmanager
def _journal(recipe: str, profile: str) -> Iterator[RunLog]:
    """The journal of the run we belong to; without one, as in a pod, one of our own, tracked here."""
    if path := os.environ.get(JOURNAL):
        yield RunLog(Path(path))
        return
    from steerlm.artifact import Store
    from steerlm.pipeline.tracking import recording
    from steerlm.recipe import Profile, Recipe

    where = Profile.model_validate_json(profile)
    name = Recipe.model_validate_json(recipe).name
    with tempfile.TemporaryDirectory(prefix="steerlm-") as folder:
        journal = Path(folder) / "journal.jsonl"
        with recording(name, journal, where.tracking, Store(where.store).root):
            yield RunLog(journal)
