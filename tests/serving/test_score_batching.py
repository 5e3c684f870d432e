# SPDX-License-Identifier: Apache-2.0
"""Micro-batching: texts of several callers share a call, and one caller's failure is his own."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from steerlm.errors import InputError, SteerLMError
from steerlm.serving.config import ScoreSettings
from steerlm.serving.score_batching import ScoreBatcher, Scores

BAD = [6, 6, 6]


class Lengths:
    """Scores a text by its length; refuses `BAD`; the first call waits for `gate`."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        self.gate.wait(10)
        self.calls.append(len(rows))
        if BAD in rows:
            raise InputError("bad text")
        return np.array([[len(t), -len(t)] for t in rows], dtype=np.float32)


def test_requests_that_wait_share_a_batch_and_keep_their_order() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=1, max_batch=16))
    batcher.start()

    async def ask() -> list[Scores]:
        tasks = [asyncio.create_task(batcher.score([[0] * i] * (i % 3 + 1))) for i in range(1, 25)]
        await asyncio.sleep(0.2)
        scorer.gate.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(ask())
    batcher.stop()
    for i, scores in enumerate(results, 1):
        assert scores.tolist() == [[i, -i]] * (i % 3 + 1)
    assert sum(scorer.calls) == 48
    assert len(scorer.calls) < 8
    assert max(scorer.calls) <= 16 + 2


def test_a_request_that_wants_to_be_alone_shares_no_call() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=1, max_batch=16))
    batcher.start()

    async def ask() -> list[Scores]:
        sizes = [(1, False), (5, True), (2, False), (7, True), (3, False)]
        tasks = [asyncio.create_task(batcher.score([[0] * n] * n, alone=alone)) for n, alone in sizes]
        await asyncio.sleep(0.2)
        scorer.gate.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(ask())
    batcher.stop()
    assert [scores.tolist() for scores in results] == [[[n, -n]] * n for n in (1, 5, 2, 7, 3)]
    assert {5, 7} <= set(scorer.calls) and sum(scorer.calls) == 18
    assert len(scorer.calls) <= 4, "the others share one"


def test_a_bad_request_does_not_fail_its_neighbours() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=50))
    batcher.start()
    scorer.gate.set()

    async def ask() -> list[Scores | BaseException]:
        return await asyncio.gather(
            batcher.score([[1]]), batcher.score([BAD]), batcher.score([[1, 2, 3]]), return_exceptions=True
        )

    first, second, third = asyncio.run(ask())
    batcher.stop()
    assert isinstance(first, np.ndarray) and first.tolist() == [[1, -1]]
    assert isinstance(second, InputError)
    assert isinstance(third, np.ndarray) and third.tolist() == [[3, -3]]


def test_stop_scores_what_is_queued_and_then_refuses() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings())
    batcher.start()

    async def ask() -> Scores:
        task = asyncio.create_task(batcher.score([[1, 2, 3]]))
        await asyncio.sleep(0.05)
        stopping = threading.Thread(target=batcher.stop)
        stopping.start()
        time.sleep(0.05)
        scorer.gate.set()
        scores = await task
        stopping.join()
        with pytest.raises(SteerLMError, match="not running"):
            await batcher.score([[1, 2, 3]])
        return scores

    assert asyncio.run(ask()).tolist() == [[3, -3]]
    assert not batcher.healthy
