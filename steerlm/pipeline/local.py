# SPDX-License-Identifier: Apache-2.0
"""Runs the Kubeflow pipeline on this machine through `kfp.local`, each step a process, and reports its progress.

The engine's own output goes to a file; the user sees the events that the steps write to the run log. Signals are
forwarded to the running step; it has a process group of its own, so that Ctrl-C reaches it once.
"""

import contextlib
import logging
import os
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from steerlm import locks
from steerlm.artifact import LOCK, LOGS, RUNS, Store
from steerlm.errors import ConfigError, InputError, Interrupted, SteerLMError
from steerlm.files import write_json
from steerlm.pipeline.parameters import engine_parameters
from steerlm.pipeline.requirements import check_recipe
from steerlm.pipeline.run_log import RunLog, RunLogReader
from steerlm.pipeline.step import RUN_LOG
from steerlm.pipeline.tracking import recording
from steerlm.recipe import ResolvedRecipe
from steerlm.signals import CTRL_C_EXIT_CODE, handled
from steerlm.stages.registry import STEPS, select_sections, skip_reason
from steerlm.trainjob.machine import check_machine
from steerlm.trainjob.preflight import check_layouts
from steerlm.trainjob.sections import training_sections

POLL_SECONDS = 0.25
RUN = "STEERLM_RUN"
"""Environment variable of a launcher's pod: the name of the run, which its successor goes on with."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Event = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """The result of a run.

    Args:
        folder: Holds the run log, the engine's log and `result.json`.
        store: Where the artifacts are.
        outcomes: The `outcome` events in order: `label`, `status`, `reason`, `seconds`, and of an artifact `stage`,
            `key`, `digest`, `uri`, `path`.
        seconds: How long the run took.
    """

    folder: Path
    store: Store
    outcomes: list[dict[str, Any]]
    seconds: float

    def outcome(self, label: str) -> dict[str, Any]:
        """Return the outcome of a step."""
        return next(o for o in self.outcomes if o["label"] == label)


def run_pipeline(resolved: ResolvedRecipe, show: Callable[[Event], None]) -> PipelineRun:
    """Run a recipe's pipeline on this machine. A run after a failure resumes where it stopped.

    Args:
        resolved: Recipe, profile and options of the run.
        show: Called with every event of the run log soon after it happens.

    Raises:
        InputError: A step failed because of bad input. Like the errors below it names the step and its log.
        Interrupted: The run was stopped by SIGTERM or SIGHUP.
        KeyboardInterrupt: The run was stopped by Ctrl-C.
        SteerLMError: A step failed for another reason.
    """
    started = time.monotonic()
    check_run(resolved)
    recipe, store = resolved.recipe, Store(resolved.profile.store)
    profile = resolved.profile.model_copy(update={"store": store.uri})
    own = f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.folder_name}-{secrets.token_hex(4)}"
    folder = store.root / RUNS / (os.environ.get(RUN) or own)
    folder.mkdir(parents=True, exist_ok=True)
    run_log = _new_run_log(folder)
    RunLog(run_log).emit("plan", "", steps=_steps(resolved))
    follower = _Follower(run_log, show)
    with locks.hold(folder / LOCK), recording(recipe.name, run_log, profile.tracking, store.root):
        with _environment(RUN_LOG, str(run_log)), follower.following():
            completed = _run_engine(folder, engine_parameters(replace(resolved, profile=profile)))
        run = PipelineRun(folder, store, follower.outcomes, time.monotonic() - started)
        write_json(folder / "result.json", {"seconds": run.seconds, "outcomes": run.outcomes})
        _raise_failure(run, completed, follower.signals)
    return run


def check_run(resolved: ResolvedRecipe) -> None:
    """Raise `ConfigError` for options that name no step of the run, or a layout that cannot run where it shall."""
    recipe, options = resolved.recipe, resolved.options
    selected = select_sections(recipe, options.until)
    check_recipe(selected)
    check_layouts(replace(resolved, recipe=selected))
    for name in options.again:
        if reason := skip_reason(name, recipe.model_dump(mode="json"), options.until):
            raise ConfigError(f"--again {name}: the step does not run: {reason}")
    layouts = {one.name: one.layout for one in training_sections(replace(resolved, recipe=selected))}
    computing = {"annotate": selected.annotate, "evaluate": selected.evaluate}
    layouts |= {name: getattr(resolved.profile.layouts, name) for name, section in computing.items() if section}
    check_machine(resolved.profile, layouts)


def _new_run_log(folder: Path) -> Path:
    """Return the path of the run log; that of a launcher which this one takes over from is kept beside it."""
    path = folder / "run_log.jsonl"
    if path.exists():
        earlier = len(list(folder.glob("run_log*.jsonl")))
        path.rename(folder / f"run_log-{earlier}.jsonl")
    return path


def _steps(resolved: ResolvedRecipe) -> list[str]:
    """Return the steps that are not skipped."""
    sections = resolved.recipe.model_dump(mode="json")
    return [name for name in STEPS if not skip_reason(name, sections, resolved.options.until)]


def _run_engine(folder: Path, parameters: Mapping[str, str]) -> bool:
    """Run the pipeline and return whether every step succeeded."""
    try:
        from kfp import local
    except ImportError:
        raise InputError("running a pipeline needs kfp: pip install 'steerlm[pipeline]'") from None
    # By name: in a checkout the folder `pipelines` is part of the package at run time only.
    pipeline = import_module("steerlm_kfp.pipelines.steerlm").steerlm
    with (
        open(folder / "engine.log", "w", encoding="utf-8", buffering=1) as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # kfp warns that the images are not named python
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "engine"),
            workspace_root=str(folder / "workspace"),
        )
        try:
            pipeline(**parameters)
        except RuntimeError as error:  # a step failed; the run log has the reason
            log.info("%s", error)
            return False
    return True


class _Follower(threading.Thread):
    """Passes on the run log's events, collects outcomes and forwards signals to the running step."""

    def __init__(self, run_log: Path, show: Callable[[Event], None]) -> None:
        super().__init__(name="run log", daemon=True)
        self.outcomes: list[dict[str, Any]] = []
        self.signals: list[int] = []
        self._step: int | None = None
        self._folders: dict[str, str] = {}
        self._reader, self._show = RunLogReader(run_log), show
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            self._read_events()
        self._read_events()

    def forward(self, number: int) -> None:
        """Handle a signal: send it to the running step. A step that starts later gets the first signal then.

        A closed terminal counts as a termination.
        """
        self.signals.append(signal.SIGTERM if number == signal.SIGHUP else number)
        self._signal(self.signals[-1])

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow the run log while the block runs; handle signals if it runs in the main thread."""
        with handled(SIGNALS, self.forward):
            self.start()
            try:
                yield
            finally:
                self._ending.set()
                self.join()

    def _read_events(self) -> None:
        for event in self._reader.new():
            label = event["label"]
            if event["event"] == "step":
                self._step = event["pid"]
                if self.signals:
                    self._signal(self.signals[0])
            elif event["event"] in ("start", "end") and "folder" in event:
                self._folders[label] = event["folder"]
            elif event["event"] == "outcome":
                self._step = None
                outcome = {k: v for k, v in event.items() if k not in ("event", "pid", "time")}
                if label in self._folders:
                    outcome["log"] = str(Path(self._folders[label]) / LOGS / "stage.log")
                self.outcomes.append(outcome)
            self._show(event)

    def _signal(self, number: int) -> None:
        if self._step is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._step, number)


def _raise_failure(run: PipelineRun, completed: bool, signals: list[int]) -> None:
    failed = next((o for o in run.outcomes if "code" in o), None)
    code = failed["code"] if failed else 0
    if code == CTRL_C_EXIT_CODE or (not completed and signals[:1] == [signal.SIGINT]):
        raise KeyboardInterrupt
    if code == Interrupted.exit_code or (not completed and signals):
        raise Interrupted(f"{failed['label'] if failed else 'the run'} was stopped; run the same command to resume")
    if failed:
        kind = InputError if code == InputError.exit_code else SteerLMError
        where = "" if "log: " in failed["reason"] else f" (log: {failed.get('log') or run.folder / 'engine.log'})"
        raise kind(f"{failed['label']} failed: {failed['reason']}{where}")
    if not completed:
        raise SteerLMError(
            f"a step ended without an outcome, killed or out of memory (log: {run.folder / 'engine.log'})"
        )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
