# SPDX-License-Identifier: Apache-2.0
"""Runs a stage once per key: returns a finished artifact, resumes an unfinished one, makes a missing one.

Callers of one key take turns; the second finds the artifact finished.
"""

import logging
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import steerlm
from steerlm.artifact import LOGS, Artifact, Store
from steerlm.checksums import digest_json
from steerlm.errors import SteerLMError
from steerlm.pipeline.keys import explain, key_of, key_parts
from steerlm.pipeline.provenance import ROOT, changed_files, code_digests
from steerlm.pipeline.run_log import RunLog
from steerlm.recipe import Profile
from steerlm.stages.base import ConfigT, Inputs, Stage, StageContext, StageResult

NAMED_FILES = 3
"""Files of other code that a hit names; more are counted."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An artifact, how this call came by it, the reason, and the seconds it took."""

    artifact: Artifact
    status: Literal["hit", "run", "resumed"]
    reason: str
    seconds: float


def run_stage(
    stage: Stage[ConfigT],
    config: ConfigT,
    inputs: Inputs,
    store: Store,
    profile: Profile,
    *,
    label: str | None = None,
    run_log: RunLog | None = None,
    again: bool = False,
) -> Outcome:
    """Return the artifact of a stage, making it if it is not finished yet.

    What the stage raises passes through; its folder stays, and the next call resumes it.

    Args:
        stage: The stage.
        config: Its config, from the recipe.
        inputs: Finished artifacts by input name.
        store: Where artifacts are kept.
        profile: Where work runs.
        label: Name of the step in the run log; the stage's by default.
        run_log: Gets the stage's progress and what tracking records.
        again: Make a finished artifact again. The finished one stays in place until the new one is complete.
    """
    started = time.monotonic()
    label, run_log = label or stage.name, run_log or RunLog(None)
    parts = key_parts(stage, config, inputs)
    key = key_of(parts)
    finished = store.find(stage.name, key)
    if finished and not again:
        return Outcome(finished, "hit", _hit_reason(finished, stage), time.monotonic() - started)

    def wait(holder: str) -> None:
        run_log.emit("note", label, text=f"waiting for {holder}, which makes {stage.name}/{key}")

    replace = finished is not None
    with store.lock(stage.name, key, wait, replace=replace) as held:
        latest = store.find(stage.name, key)
        if latest and (finished is None or latest.manifest != finished.manifest):
            reason = f"another process has just made it; {_hit_reason(latest, stage)}"
            return Outcome(latest, "hit", reason, time.monotonic() - started)
        reason = explain(parts, [record for record in store.records(stage.name) if record.get("label") == label])
        earlier = store.begin(stage.name, key, stage.kind, {"label": label, **parts}, replace=replace)
        if replace:
            reason = "requested by --again"
        if earlier:
            reason = f"started {earlier['started']} and not finished"
        code = code_digests(stage.code, stage.without)
        folder = store.folder(stage.name, key, replace=replace)
        recorded = {**parts, "code": digest_json(code)}
        with (
            _log_file(folder / LOGS / "stage.log"),
            _recording(run_log, label, stage.name, key, folder, recorded) as execution,
        ):
            log.info("%s/%s %s: %s", stage.name, key, "resumed" if earlier else "run", reason)
            local_inputs = {name: store.materialize(artifact) for name, artifact in inputs.items()}
            context = StageContext(
                stage=stage.name,
                key=key,
                folder=folder,
                files=folder / stage.kind,
                profile=profile,
                report_progress=lambda text: run_log.emit("progress", label, text=text),
                report_note=lambda text: run_log.emit("note", label, text=text),
            )
            result = execution.result = stage.make(config, local_inputs, context)
            seconds = time.monotonic() - started
            provenance = _provenance(parts, code, inputs, profile, seconds, result)
            for one in result.left_out:
                log.log(logging.WARNING if one.much else logging.INFO, "%s", one)
            artifact = store.finish(
                stage.name,
                key,
                stage.kind,
                result.attributes,
                provenance,
                replace=replace,
                held=held,
                expected=result.files,
            )
            execution.artifact = artifact
            log.info("%s/%s finished in %.1f s, digest %s", stage.name, key, seconds, artifact.digest[:12])
    return Outcome(artifact, "resumed" if earlier else "run", reason, seconds)


@dataclass
class _Execution:
    """What the run log's `end` event needs to know; filled while a stage is executed."""

    result: StageResult = field(default_factory=StageResult)
    artifact: Artifact | None = None


@contextmanager
def _recording(
    run_log: RunLog, label: str, stage: str, key: str, folder: Path, parts: Mapping[str, Any]
) -> Iterator[_Execution]:
    """Write the start and the end of a stage to the run log; log what it raises."""
    execution, state = _Execution(), "FAILED"
    run_log.start(label, stage, key, folder, parts)
    try:
        yield execution
        state = "FINISHED"
    except Exception as error:
        log.error("%s", error, exc_info=not isinstance(error, SteerLMError))
        raise
    except BaseException:
        state = "KILLED"
        raise
    finally:
        numbers = {k: v for k, v in execution.result.metrics.items() if isinstance(v, int | float)}
        artifact = execution.artifact
        digest, now_in = (artifact.digest, artifact.folder) if artifact else (None, None)
        run_log.end(label, key, state, numbers, digest, now_in)


def _hit_reason(artifact: Artifact, stage: Stage[Any]) -> str:
    """Return when an artifact was made and, if the stage's code has changed since, in which files."""
    provenance = artifact.manifest.provenance
    finished = provenance.get("finished", "before")
    if "code" not in provenance:
        return f"made {finished}"
    files = changed_files(provenance["code"], code_digests(stage.code, stage.without))
    if not files:
        return f"made {finished}"
    more = f" and {len(files) - NAMED_FILES} more" if len(files) > NAMED_FILES else ""
    return f"made by other code: {', '.join(files[:NAMED_FILES])}{more} ({finished})"


def _provenance(
    parts: Mapping[str, Any],
    code: Mapping[str, str],
    inputs: Inputs,
    profile: Profile,
    seconds: float,
    result: StageResult,
) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 2),
        "metrics": dict(result.metrics),
        "notes": dict(result.notes),
        "dropped": [str(one) for one in result.left_out],
        "key": dict(parts),
        "inputs": {name: {"uri": a.uri, "key": a.key, "digest": a.digest} for name, a in inputs.items()},
        "profile": profile.model_dump(mode="json"),
        "steerlm": steerlm.__version__,
        "commit": _commit(),
        "code": dict(code),
        "host": platform.node(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that runs; None for an installed wheel."""
    if not (ROOT.parent / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write everything logged in the block to the stage's log as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
