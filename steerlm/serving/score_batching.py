# SPDX-License-Identifier: Apache-2.0
"""Micro-batching of scoring: texts of several clients that arrive within a few milliseconds share a forward pass.

One worker thread owns the scorer. It knows nothing of HTTP.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from steerlm.errors import SteerLMError
from steerlm.serving.config import ScoreSettings

Scores = npt.NDArray[np.float32]


class TokenScorer(Protocol):
    """What scores texts of token ids: [n, attributes] fp32 for n texts. The batcher needs no more of a scorer."""

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores: ...


@dataclass(slots=True)
class _Request:
    texts: list[list[int]]
    alone: bool
    future: "Future[Scores]" = field(default_factory=Future)


class ScoreBatcher:
    """`score` from any number of tasks; one call of the scorer for what came together.

    The first request of a batch waits `wait_ms` for others; a batch is closed early at `max_batch` texts.
    """

    def __init__(self, scorer: TokenScorer, settings: ScoreSettings) -> None:
        self._scorer, self._settings = scorer, settings
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="score-batcher", daemon=True)
        self.batches = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Score what is queued, then end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive()

    async def score(self, texts: Sequence[list[int]], *, alone: bool = False) -> Scores:
        """[n, attributes] fp32 of n texts of token ids; `alone`: in a call of the scorer that has no other texts.

        Raises what the scorer raised.
        """
        if not self.healthy:
            raise SteerLMError("the scoring thread is not running")
        request = _Request(list(texts), alone)
        self._queue.put(request)
        return await asyncio.wrap_future(request.future)

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch, ended = self._collect(first)
            batch = [request for request in batch if request.future.set_running_or_notify_cancel()]
            shared = [request for request in batch if not request.alone]
            for together in ([shared] if shared else []) + [[request] for request in batch if request.alone]:
                self._score(together)
            if ended:
                return

    def _collect(self, first: _Request) -> tuple[list[_Request], bool]:
        batch, texts = [first], len(first.texts)
        if first.alone:
            return batch, False
        deadline = time.monotonic() + self._settings.wait_ms / 1000
        while texts < self._settings.max_batch:
            try:
                request = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                return batch, True
            batch.append(request)
            texts += len(request.texts)
        return batch, False

    def _score(self, batch: list[_Request]) -> None:
        self.batches += 1
        try:
            scores = np.asarray(self._scorer.score_tokens([text for request in batch for text in request.texts]))
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One client's bad text must not fail the others.
            for request in batch:
                self._score([request])
            return
        at = 0
        for request in batch:
            request.future.set_result(scores[at : at + len(request.texts)])
            at += len(request.texts)
