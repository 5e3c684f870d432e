# SPDX-License-Identifier: Apache-2.0
"""Runs the Kubeflow pipeline on this machine through `kfp.local`, each step a process, and tells how it goes.

The engine's own output goes to a file; what the user sees comes from the journal that the steps write. Signals are
passed to the step that runs; it stands in a process group of its own, so that Ctrl-C reaches it once.
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
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from steerlm.artifact import LOGS, Store
from steerlm.errors import InputError, Interrupted, SteerLMError
from steerlm.files import write_json
from steerlm.pipeline.run_log import RunLogReader
from steerlm.pipeline.step import JOURNAL
from steerlm.pipeline.tracking import recording
from steerlm.recipe import ResolvedRecipe
from steerlm.signals import CTRL_C_EXIT_CODE, handled
from steerlm.trainjob.preflight import check_layouts

POLL_SECONDS = 0.25
RUNS = "runs"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Event = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """What a run came to. `folder`: journal, engine log, `result.json`; `outcomes`: the journal's `outcome` events in
    order (`label`, `what`, `why`, `seconds`, and of an artifact `stage`, `key`, `digest`, `uri`, `path`)."""

    folder: Path
    store: Store
    outcomes: list[dict[str, Any]]
    seconds: float

    def outcome(self, label: str) -> dict[str, Any]:
        return next(o for o in self.outcomes if o["label"] == label)


def run_pipeline(resolved: ResolvedRecipe, show: Callable[[Event], None]) -> PipelineRun:
    """Run a recipe's pipeline here. `show` gets every event of the journal soon after it happens.

    Raises an error that names the step that failed and its log: `InputError` for bad input, `Interrupted` after
    SIGTERM, `KeyboardInterrupt` after Ctrl-C, `SteerLMError` otherwise. Run again, it goes on where it broke.
    """
    began = time.monotonic()
    check_layouts(resolved)
    recipe, store = resolved.recipe, Store(resolved.profile.store)
    profile = resolved.profile.model_copy(update={"store": store.uri})
    folder = store.root / RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    journal = folder / "journal.jsonl"
    follower = _Follower(journal, show)
    with recording(recipe.name, journal, profile.tracking, store.root):
        with _environment(JOURNAL, str(journal)), follower.following():
            completed = _engine(folder, recipe.model_dump_json(), profile.model_dump_json())
        run = PipelineRun(folder, store, follower.outcomes, time.monotonic() - began)
        write_json(folder / "result.json", {"seconds": run.seconds, "outcomes": run.outcomes})
        _raise_failure(run, completed, follower.signals)
    return run


def _engine(folder: Path, recipe: str, profile: str) -> bool:
    """Run the pipeline; whether every step succeeded."""
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
        warnings.simplefilter("ignore")  # that our images are not named python
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "engine"),
            workspace_root=str(folder / "workspace"),
        )
        try:
            pipeline(recipe=recipe, profile=profile)
        except RuntimeError as error:  # a step failed; the journal knows why
            log.info("%s", error)
            return False
    return True


class _Follower(threading.Thread):
    """Hands the journal's events on, remembers where the run stands and passes signals to the step that runs."""

    def __init__(self, journal: Path, show: Callable[[Event], None]) -> None:
        super().__init__(name="journal", daemon=True)
        self.outcomes: list[dict[str, Any]] = []
        self.signals: list[int] = []
        self._step: int | None = None
        self._logs: dict[str, str] = {}
        self._reader, self._show = RunLogReader(journal), show
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            self._take()
        self._take()

    def pass_on(self, number: int) -> None:
        """A signal handler. A step that begins later gets the first signal then. A closed terminal is a termination."""
        self.signals.append(signal.SIGTERM if number == signal.SIGHUP else number)
        self._signal(self.signals[-1])

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow while the block runs; signals are handled if it runs in the main thread."""
        with handled(SIGNALS, self.pass_on):
            self.start()
            try:
                yield
            finally:
                self._ending.set()
                self.join()

    def _take(self) -> None:
        for event in self._reader.new():
            label = event["label"]
            if event["event"] == "step":
                self._step = event["pid"]
                if self.signals:
                    self._signal(self.signals[0])
            elif event["event"] == "start":
                self._logs[label] = str(Path(event["folder"]) / LOGS / "stage.log")
            elif event["event"] == "outcome":
                self._step = None
                kept = {k: v for k, v in event.items() if k not in ("event", "pid", "time")}
                self.outcomes.append(kept | ({"log": self._logs[label]} if label in self._logs else {}))
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
        raise Interrupted(f"{failed['label'] if failed else 'the run'} was stopped; run the same command to go on")
    if failed:
        kind = InputError if code == InputError.exit_code else SteerLMError
        where = "" if "log: " in failed["why"] else f" (log: {failed.get('log') or run.folder / 'engine.log'})"
        raise kind(f"{failed['label']} failed: {failed['why']}{where}")
    if not completed:
        raise SteerLMError(f"a step died without a word, killed or out of memory (log: {run.folder / 'engine.log'})")


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
