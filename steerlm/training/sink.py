# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: the `Sink` protocol, a file, the terminal, several at once. Trackers are passed in from outside."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from tqdm import tqdm

from steerlm.files import atomic_writer

log = logging.getLogger(__name__)

Metrics = Mapping[str, float]


class Sink(Protocol):
    """Receives metrics. A step may be logged in several parts, and again after a resume."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Record the metrics of a step, by name."""

    def close(self) -> None:
        """Release the file or terminal; nothing is logged afterwards."""


class Sinks:
    """Several sinks as one; without any, a sink that discards everything."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self.sinks = tuple(sinks)

    def log(self, metrics: Metrics, step: int) -> None:
        """Pass the metrics to each sink, in the order given."""
        for sink in self.sinks:
            sink.log(metrics, step)

    def close(self) -> None:
        """Close each sink."""
        for sink in self.sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonlSink:
    """One line of JSON per call, with its `step` and `time` (seconds since 1970).

    After a resume, steps beyond the last checkpoint are logged again: a new line replaces every line of a later step,
    and a line of the same step that has any of its keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._step, self._keys = -1, set[str]()
        for line in self._lines():
            self._remember(line)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def log(self, metrics: Metrics, step: int) -> None:
        """Append one line and flush it; first remove the lines that an earlier run wrote for this or a later step."""
        line = {"step": step, "time": round(time.time(), 3), **metrics}
        if step < self._step or (step == self._step and self._keys & metrics.keys()):
            self._rewind(step, set(metrics))
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._remember(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewind(self, step: int, keys: set[str]) -> None:
        self._file.close()
        kept = [
            line for line in self._lines() if line["step"] < step or (line["step"] == step and not keys & line.keys())
        ]
        with atomic_writer(self.path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._step, self._keys = -1, set()
        for line in kept:
            self._remember(line)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def _remember(self, line: Mapping[str, Any]) -> None:
        if line["step"] != self._step:
            self._step, self._keys = line["step"], set()
        self._keys |= line.keys() - {"step", "time"}

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of the file, removing an unfinished last line that a killed process has left."""
        if not self.path.exists():
            return []
        whole, newline, torn = self.path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            with atomic_writer(self.path) as file:
                file.write(whole + newline)
        return [json.loads(line) for line in whole.splitlines()]


class ProgressSink:
    """A progress bar on a terminal; elsewhere a log line at most every `every` seconds and for each validation."""

    SHOWN = ("train/loss", "train/lr", "train/grad_norm", "train/tokens_per_second", "train/real_token_share")

    def __init__(self, total: int, description: str, every: float = 5.0) -> None:
        self.total, self.description, self.every = total, description, every
        self._bar = (
            tqdm(total=total, desc=description, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        )
        self._last = -math.inf

    def log(self, metrics: Metrics, step: int) -> None:
        """Show the metrics named in `SHOWN` and the validation loss; metrics without any of these show nothing."""
        shown = {name.rpartition("/")[2]: f"{metrics[name]:.4g}" for name in self.SHOWN if name in metrics}
        if "validation/loss" in metrics:
            shown["validation_loss"] = f"{metrics['validation/loss']:.4g}"
        if not shown:
            return
        if self._bar is not None:
            if self._last < 0:
                self._bar.initial = step - 1  # after a resume, the rate counts only this process's steps
            self._last = self._bar.n = step
            self._bar.set_postfix(shown)
        elif "validation/loss" in metrics or time.monotonic() - self._last >= self.every or step == self.total:
            self._last = time.monotonic()
            text = " ".join(f"{name}={value}" for name, value in shown.items())
            log.info("%s step %d/%d %s", self.description, step, self.total, text)

    def close(self) -> None:
        """Close the bar and leave it on the screen, if there is one."""
        if self._bar is not None:
            self._bar.close()
