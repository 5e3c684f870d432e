# SPDX-License-Identifier: Apache-2.0
"""Micro-batching of scoring: texts that arrive within a few milliseconds share a forward pass.

One worker thread owns the scorer.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from steerlm.errors import SteerLMError
from steerlm.serving.config import ScoreSettings
from steerlm.serving.engines import Scores
from steerlm.serving.service import ServiceLoad


class BatchScorer(Protocol):
    """The part of a scorer that the batcher uses."""

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """Return [n, attributes] fp32 scores of n texts of token ids."""
        ...


@dataclass(slots=True, eq=False)
class _Request:
    texts: list[list[int]]
    alone: bool
    future: "Future[Scores]" = field(default_factory=Future)


class ScoreBatcher:
    """Scores the texts of many tasks with few calls of a scorer.

    The first request of a batch waits `wait_ms` for others; a batch closes early at `max_batch` texts.

    Attributes:
        batches: Number of calls of the scorer.
    """

    def __init__(self, scorer: BatchScorer, settings: ScoreSettings) -> None:
        self._scorer, self._settings = scorer, settings
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="score-batcher", daemon=True)
        self.batches = 0
        self._unfinished: set[_Request] = set()
        self._late_at = math.inf

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Score the queued texts, then end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether the thread is alive and its batch does not take too long."""
        return self._thread.is_alive() and time.monotonic() < self._late_at

    async def load(self) -> ServiceLoad:
        """Return how many requests are being scored and wait. To be called where `score` is."""
        running = sum(request.future.running() for request in self._unfinished)
        texts = sum(len(request.texts) for request in self._unfinished)
        return ServiceLoad(running, len(self._unfinished) - running, texts)

    async def score(self, texts: Sequence[list[int]], *, alone: bool = False) -> Scores:
        """Return [n, attributes] fp32 scores.

        Args:
            texts: n texts of token ids.
            alone: Score them in a call of their own.

        Raises:
            SteerLMError: The thread is not running, or what the scorer raised.
        """
        if not self.healthy:
            raise SteerLMError("the scoring thread is not running, or makes no progress")
        request = _Request(list(texts), alone)
        self._unfinished.add(request)
        self._queue.put(request)
        try:
            return await asyncio.wrap_future(request.future)
        finally:
            self._unfinished.discard(request)

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch, stopping = self._collect(first)
            batch = [request for request in batch if request.future.set_running_or_notify_cancel()]
            shared = [request for request in batch if not request.alone]
            for requests in ([shared] if shared else []) + [[request] for request in batch if request.alone]:
                self._score(requests)
            if stopping:
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
        texts = [text for request in batch for text in request.texts]
        allowed = math.ceil(max(1, len(texts)) / self._settings.max_batch) * self._settings.stall_seconds
        self._late_at = time.monotonic() + allowed
        try:
            scores = np.asarray(self._scorer.score_tokens(texts))
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # A bad text of one client must not fail the others.
            for request in batch:
                self._score([request])
            return
        finally:
            self._late_at = math.inf
        start = 0
        for request in batch:
            request.future.set_result(scores[start : start + len(request.texts)])
            start += len(request.texts)
