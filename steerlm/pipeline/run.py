# SPDX-License-Identifier: Apache-2.0
"""Runs a stage once per key: a finished key is returned, an unfinished one resumed, whoever calls.

Two callers of one key on a machine take turns, and the second finds it done.
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
from steerlm.errors import SteerLMError
from steerlm.pipeline.code_digest import ROOT
from steerlm.pipeline.keys import explain, key_of, key_parts
from steerlm.pipeline.run_log import RunLog
from steerlm.recipe import Profile
from steerlm.stages.base import ConfigT, Inputs, Stage, StageContext, StageResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An artifact; whether it was there, was made or gone on with; why; and the seconds this call took."""

    artifact: Artifact
    what: Literal["hit", "run", "resumed"]
    why: str
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
) -> Outcome:
    """Return the artifact of a stage, making it if it is not finished yet.

    `label` names the call in `run_log`, which show its progress and record what tracking needs. What the stage raises
    passes through; its folder stays, and the next call goes on with it.
    """
    began = time.monotonic()
    label, run_log = label or stage.name, run_log or RunLog(None)
    parts = key_parts(stage, config, inputs)
    key = key_of(parts)
    if found := store.find(stage.name, key):
        return Outcome(found, "hit", _finished(found), time.monotonic() - began)

    def wait(who: str) -> None:
        run_log.emit("progress", label, text=f"waiting for {who}, which makes {stage.name}/{key}")

    with store.lock(stage.name, key, wait):
        if found := store.find(stage.name, key):
            why = f"another process has made it meanwhile; {_finished(found)}"
            return Outcome(found, "hit", why, time.monotonic() - began)
        why = explain(parts, [record for record in store.records(stage.name) if record.get("label") == label])
        earlier = store.begin(stage.name, key, stage.kind, {"label": label, **parts})
        if earlier:
            why = f"begun {earlier['started']} and not finished"
        folder = store.folder(stage.name, key)
        with _log_file(folder / LOGS / "stage.log"), _told(run_log, label, stage.name, key, folder, parts) as told:
            log.info("%s/%s %s: %s", stage.name, key, "resumed" if earlier else "run", why)
            here = {name: store.materialise(artifact) for name, artifact in inputs.items()}
            work = StageContext(
                stage=stage.name,
                key=key,
                folder=folder,
                files=folder / stage.kind,
                profile=profile,
                report_progress=lambda text: run_log.emit("progress", label, text=text),
            )
            told.made = stage.make(config, here, work)
            seconds = time.monotonic() - began
            provenance = _provenance(parts, inputs, profile, seconds, told.made)
            told.artifact = store.finish(stage.name, key, stage.kind, told.made.attributes, provenance)
            log.info("%s/%s finished in %.1f s, digest %s", stage.name, key, seconds, told.artifact.digest[:12])
    return Outcome(told.artifact, "resumed" if earlier else "run", why, seconds)


@dataclass
class _Told:
    made: StageResult = field(default_factory=StageResult)
    artifact: Artifact | None = None


@contextmanager
def _told(run_log: RunLog, label: str, stage: str, key: str, folder: Path, parts: Mapping[str, Any]) -> Iterator[_Told]:
    """Tell the journal that a stage starts and how it ends; log what it raises."""
    told, state = _Told(), "FAILED"
    run_log.start(label, stage, key, folder, parts)
    try:
        yield told
        state = "FINISHED"
    except Exception as error:
        log.error("%s", error, exc_info=not isinstance(error, SteerLMError))
        raise
    except BaseException:
        state = "KILLED"
        raise
    finally:
        numbers = {k: v for k, v in told.made.metrics.items() if isinstance(v, int | float)}
        run_log.end(label, key, state, numbers, told.artifact.digest if told.artifact else None)


def _finished(artifact: Artifact) -> str:
    return f"made {artifact.manifest.provenance.get('finished', 'before')}"


def _provenance(
    parts: Mapping[str, Any], inputs: Inputs, profile: Profile, seconds: float, made: StageResult
) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 2),
        "metrics": dict(made.metrics),
        "notes": dict(made.notes),
        "key": dict(parts),
        "inputs": {name: {"uri": a.uri, "key": a.key, "digest": a.digest} for name, a in inputs.items()},
        "profile": profile.model_dump(mode="json"),
        "steerlm": steerlm.__version__,
        "commit": _commit(),
        "host": platform.node(),
    }


def _commit() -> str | None:
    """The commit of the checkout that runs; None for an installed wheel."""
    if not (ROOT.parent / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything logged meanwhile goes to the stage's log too."""
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
