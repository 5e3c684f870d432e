# SPDX-License-Identifier: Apache-2.0
"""One step of a pipeline, as a Kubeflow component calls it: translates between the engine's artifacts and the store's.

An artifact of the pipeline engine carries the store's address in its metadata and the manifest as its file; no model is
copied through the engine. A step that does not run passes on that it was skipped.
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
from typing import TYPE_CHECKING, Any, Protocol

from steerlm.errors import ConfigError, InputError, Interrupted, SteerLMError, StorageError
from steerlm.pipeline.run_log import RunLog
from steerlm.signals import CTRL_C_EXIT_CODE, interrupted_by_sigterm
from steerlm.stages.registry import STEPS, select_sections, skip_reason

if TYPE_CHECKING:
    from steerlm.artifact import Artifact, Store
    from steerlm.pipeline.run import Outcome

RUN_LOG = "STEERLM_RUN_LOG"
"""Environment variable: the run log of the run that a step belongs to; the process that sets it does the tracking."""
TERMINATED = "terminated; run the same command to resume"
log = logging.getLogger(__name__)


class EngineArtifact(Protocol):
    """The part of `kfp.dsl.Artifact` used here."""

    path: str
    metadata: dict[str, Any]


def run_step(
    label: str,
    recipe: str,
    profile: str,
    inputs: Mapping[str, Sequence[EngineArtifact]],
    output: EngineArtifact,
    options: str = "{}",
) -> None:
    """Run a step and describe its artifact in `output`.

    Exits with the error's status (2 bad input, 1 failure, 130 Ctrl-C, 143 terminated) after writing it to the run log.

    Args:
        label: Name of the step in `STEPS`.
        recipe: The recipe as JSON.
        profile: The profile as JSON.
        inputs: Candidates of each of the stage's inputs; the first that was not skipped is taken.
        output: The engine's artifact to fill in.
        options: The run's options (`recipe.RunOptions`) as JSON.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if RUN_LOG in os.environ:  # the process that runs the pipeline forwards signals: receive them from it only
        os.setpgid(0, 0)
    started = time.monotonic()
    given = {name: taken for name, candidates in inputs.items() if (taken := _first(candidates))}
    if reason := skip_reason(
        label, json.loads(recipe), json.loads(options).get("until")
    ):  # before anything is imported
        _skip(label, reason, given, output)
        return
    with _run_log(recipe, profile) as run_log, interrupted_by_sigterm(TERMINATED):
        run_log.emit("step", label)
        try:
            outcome = _run(label, recipe, profile, given, run_log, options)
        except (KeyboardInterrupt, SteerLMError) as error:
            code = error.exit_code if isinstance(error, SteerLMError) else CTRL_C_EXIT_CODE
            _record_failure(run_log, label, error, code, started)
            raise SystemExit(code) from None
        except Exception as error:
            _record_failure(run_log, label, error, 1, started)
            raise
        artifact = outcome.artifact
        output.metadata.update(describe(artifact))
        Path(output.path).write_text(artifact.manifest.model_dump_json(indent=2))
        run_log.emit(
            "outcome",
            label,
            status=outcome.status,
            reason=outcome.reason,
            seconds=time.monotonic() - started,
            path=str(artifact.path),
            **describe(artifact),
        )


def describe(artifact: "Artifact") -> dict[str, str]:
    """Return the metadata by which the next step finds an artifact."""
    return {
        "stage": artifact.manifest.stage,
        "kind": artifact.kind,
        "uri": artifact.uri,
        "key": artifact.key,
        "digest": artifact.digest,
    }


def _skip(label: str, reason: str, inputs: Mapping[str, EngineArtifact], output: EngineArtifact) -> None:
    passed_on = inputs.get(STEPS[label].passes_on or "")
    output.metadata.update(passed_on.metadata if passed_on else {"skipped": "true"})
    Path(output.path).write_text(json.dumps(output.metadata))
    path = os.environ.get(RUN_LOG)
    run_log = RunLog(Path(path) if path else None)
    run_log.emit("outcome", label, status="skipped", reason=reason, seconds=0.0)


def _run(
    label: str, recipe: str, profile: str, inputs: Mapping[str, EngineArtifact], run_log: RunLog, options: str
) -> "Outcome":
    from steerlm.artifact import Store
    from steerlm.pipeline.requirements import check_data
    from steerlm.pipeline.run import run_stage
    from steerlm.recipe import Profile, Recipe, RunOptions

    step, run_profile = STEPS[label], Profile.model_validate_json(profile)
    parsed, chosen = Recipe.model_validate_json(recipe), RunOptions.model_validate_json(options)
    module = import_module(f"steerlm.stages.{step.stage}")
    config = module.config(parsed, step.role)
    store = Store(run_profile.store)
    artifacts = {name: _open(store, artifact) for name, artifact in inputs.items()}
    outcome = run_stage(
        module.STAGE, config, artifacts, store, run_profile, label=label, run_log=run_log, again=label in chosen.again
    )
    if label == "prepare_data":
        try:
            check_data(select_sections(parsed, chosen.until), outcome.artifact.manifest.provenance["metrics"])
        except ConfigError as error:
            raise ConfigError(f"the data are ready and do not fit the recipe: {error}") from None
    return outcome


def _open(store: "Store", given: EngineArtifact) -> "Artifact":
    """Return the store's artifact that the engine's describes. Raises `StorageError` if it was replaced since."""
    metadata = given.metadata
    try:
        artifact = store.open(metadata["stage"], metadata["key"], metadata["digest"])
    except KeyError as error:
        raise InputError(f"{given.path}: not an artifact of SteerLM, its metadata has no {error}") from None
    if artifact.digest != metadata["digest"]:
        raise StorageError(f"{artifact.uri}: replaced since this run started; run the pipeline again")
    return artifact


def _first(candidates: Sequence[EngineArtifact]) -> EngineArtifact | None:
    return next((a for a in candidates if "skipped" not in a.metadata), None)


def _record_failure(run_log: RunLog, label: str, error: BaseException, code: int, started: float) -> None:
    reason = str(error) if isinstance(error, SteerLMError) else f"{type(error).__name__}: {error}"
    log.error("%s: %s", label, reason)
    status = "stopped" if code in (CTRL_C_EXIT_CODE, Interrupted.exit_code) else "failed"
    run_log.emit("outcome", label, status=status, reason=reason, seconds=time.monotonic() - started, code=code)


@contextmanager
def _run_log(recipe: str, profile: str) -> Iterator[RunLog]:
    """Open the run log of the run this step belongs to; without one, as in a pod, a new one that is tracked here."""
    if path := os.environ.get(RUN_LOG):
        yield RunLog(Path(path))
        return
    from steerlm.artifact import Store
    from steerlm.pipeline.tracking import recording
    from steerlm.recipe import Profile, Recipe

    run_profile = Profile.model_validate_json(profile)
    name = Recipe.model_validate_json(recipe).name
    with tempfile.TemporaryDirectory(prefix="steerlm-") as folder:
        own = Path(folder) / "run_log.jsonl"
        with recording(name, own, run_profile.tracking, Store(run_profile.store).root):
            yield RunLog(own)
