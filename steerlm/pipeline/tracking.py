# SPDX-License-Identifier: Apache-2.0
"""MLflow: one run per pipeline run, one nested run per executed stage. The only module that imports MLflow.

Importing MLflow and opening its database takes seconds, so it happens once per pipeline run, in a thread of the process
that started the run, and only if a stage is executed: the thread reads the run log and the metrics that training
writes. A failure here is a warning and never stops a stage. Telemetry is off.
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import steerlm
from steerlm.artifact import LOGS, WORK
from steerlm.errors import first_line
from steerlm.files import write_json
from steerlm.pipeline.keys import flatten
from steerlm.pipeline.run_log import RunLogReader
from steerlm.recipe import TrackingSettings
from steerlm.stages.base import METRICS

POLL_SECONDS = 1.0
RUN_FILE = "mlflow.json"
"""Names the MLflow run of a pipeline run, in its folder, and of a stage, among its logs."""
BATCH = 1000
"""Metrics in one request: MLflow's limit."""
PARAM_LENGTH = 6000
log = logging.getLogger(__name__)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default retries for minutes
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def recording(name: str, run_log: Path, settings: TrackingSettings, root: Path) -> Iterator[None]:
    """Record the block, by its run log, as the MLflow run `name`. `root`: the store's local folder."""
    if not settings.enabled:
        yield
        return
    recorder = Recorder(name, run_log, settings, root)
    recorder.start()
    state = "FAILED"
    try:
        yield
        state = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        state = "KILLED"
        raise
    finally:
        recorder.close(state)


class Recorder(threading.Thread):
    """Follows a run log and writes it to MLflow."""

    def __init__(self, name: str, run_log: Path, settings: TrackingSettings, root: Path) -> None:
        super().__init__(name="tracking", daemon=True)
        self.run_name, self.settings, self.uri = name, settings, settings.resolve_uri(root)
        self._root, self._run_log = root, RunLogReader(run_log)
        self._client: Any = None
        self._experiment = ""
        self._parent = os.environ.get("MLFLOW_RUN_ID")
        self._own_parent = False
        self._stages: dict[str, _StageRun] = {}
        self._closing = threading.Event()
        self._problem = ""
        self._state = "FINISHED"

    def close(self, state: str, seconds: float = 60.0) -> None:
        """Write the remaining events and end the runs; give up after `seconds`. Any failure is one warning."""
        self._state = state
        self._closing.set()
        self.join(seconds)
        if self.is_alive():
            self._problem = f"did not answer within {seconds:g} s"
        if self._problem:
            log.warning("MLflow at %s: %s; its records of this run end early", self.uri, self._problem)

    def run(self) -> None:
        """Copy events and metrics to MLflow until closed; keep the first line of an error instead of raising it."""
        try:
            closing = False
            while not closing:
                closing = self._closing.wait(POLL_SECONDS)
                for event in self._run_log.new():
                    self._handle(event)
                for stage in self._stages.values():
                    stage.log_new(self._client)
            if self._own_parent:
                self._client.set_terminated(self._parent, self._state)
        except Exception as error:
            self._problem = first_line(error)

    def _handle(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            self._open()
            self._stages[event["label"]] = self._start(event)
        elif event["event"] == "end" and event["label"] in self._stages:
            self._stages.pop(event["label"]).end(self._client, event)

    def _open(self) -> None:
        """Open the client, the experiment and the parent run when the first stage is executed."""
        if self._client is not None:
            return
        self._client = _client(self.uri)
        experiment = self._client.get_experiment_by_name(self.settings.experiment)
        location = (self._root / "mlflow").as_uri() if self.uri.startswith("sqlite:") else None
        self._experiment = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(self.settings.experiment, artifact_location=location)
        )
        if self._parent:
            self._experiment = self._client.get_run(self._parent).info.experiment_id
            return
        tags = {"steerlm.version": steerlm.__version__}
        self._parent = self._resume(self._run_log.path.with_name(RUN_FILE), self.run_name, tags)
        self._own_parent = True

    def _resume(self, path: Path, name: str, tags: Mapping[str, str]) -> str:
        """Return the run that `path` names, for a launcher that takes over from a lost one, or create it."""
        place = {"uri": self.uri, "parent": self._parent}
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if {key: known[key] for key in place} == place:
                self._client.update_run(known["run"], status="RUNNING")
                return str(known["run"])
        run = str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        write_json(path, {**place, "run": run})
        return run

    def _start(self, event: Mapping[str, Any]) -> "_StageRun":
        parts = event["parts"]
        tags = {
            "mlflow.parentRunId": str(self._parent),
            "steerlm.stage": event["stage"],
            "steerlm.key": event["key"],
            "steerlm.code": parts.get("code", ""),
            "steerlm.folder": event["folder"],
            **{f"steerlm.input.{name}": str(digest) for name, digest in flatten(parts["inputs"])},
        }
        run = self._resume(Path(event["folder"]) / LOGS / RUN_FILE, event["label"], tags)
        params = {name: str(value)[:PARAM_LENGTH] for name, value in flatten(parts["config"])}
        _log(self._client, run, [], params)
        return _StageRun(run, Path(event["folder"]))


class _StageRun:
    """One nested run: records new lines of the stage's metrics."""

    def __init__(self, run: str, folder: Path) -> None:
        self.run = run
        self._metrics = RunLogReader(folder / WORK / METRICS)
        self._folder = folder
        self._last = (-1, 0.0)

    def log_new(self, client: Any) -> None:
        lines = [line for line in self._metrics.new() if (line["step"], line["time"]) > self._last]
        if lines:
            self._last = max((line["step"], line["time"]) for line in lines)
            _log(client, self.run, [_metric(k, v, s["time"], s["step"]) for s in lines for k, v in _values(s)], {})

    def end(self, client: Any, event: Mapping[str, Any]) -> None:
        if not self._metrics.path.exists():  # the stage was finished before its last lines were read
            self._metrics.path = Path(event.get("folder", self._folder)) / LOGS / METRICS
        self.log_new(client)
        final = [_metric(f"final/{k}", v, event["time"], 0) for k, v in event["metrics"].items()]
        _log(client, self.run, final, {})
        if event["digest"]:
            client.set_tag(self.run, "steerlm.digest", event["digest"])
        client.set_terminated(self.run, event["state"])


def _values(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in line.items() if name not in ("step", "time"))


def _metric(name: str, value: float, seconds: float, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(name, float(value), int(seconds * 1000), int(step))


def _log(client: Any, run: str, metrics: list[Any], params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    if params:
        client.log_batch(run, params=[Param(name, value) for name, value in params.items()])
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run, metrics=metrics[first : first + BATCH])
