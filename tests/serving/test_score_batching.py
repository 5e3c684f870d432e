# SPDX-License-Identifier: Apache-2.0
"""Micro-batching: texts of several callers share a call, and a failure of one caller does not affect the others."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from steerlm.errors import InputError, SteerLMError
from steerlm.serving.config import ScoreSettings
from steerlm.serving.engines import Scores
from steerlm.serving.score_batching import ScoreBatcher

BAD = [6, 6, 6]


class Lengths:
    """Scores a text by its length; refuses `BAD`; the first call waits for `release`."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.release = threading.Event()

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        self.release.wait(10)
        self.calls.append(len(rows))
        if BAD in rows:
            raise InputError("bad text")
        return np.array([[len(t), -len(t)] for t in rows], dtype=np.float32)


def test_waiting_requests_share_a_batch_and_keep_their_order() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=1, max_batch=16))
    batcher.start()

    async def score_all() -> list[Scores]:
        tasks = [asyncio.create_task(batcher.score([[0] * i] * (i % 3 + 1))) for i in range(1, 25)]
        await asyncio.sleep(0.2)
        scorer.release.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(score_all())
    batcher.stop()
    for i, scores in enumerate(results, 1):
        assert scores.tolist() == [[i, -i]] * (i % 3 + 1)
    assert sum(scorer.calls) == 48
    assert len(scorer.calls) < 8
    assert max(scorer.calls) <= 16 + 2


def test_a_request_with_alone_shares_no_call() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=1, max_batch=16))
    batcher.start()

    async def score_all() -> list[Scores]:
        sizes = [(1, False), (5, True), (2, False), (7, True), (3, False)]
        tasks = [asyncio.create_task(batcher.score([[0] * n] * n, alone=alone)) for n, alone in sizes]
        await asyncio.sleep(0.2)
        scorer.release.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(score_all())
    batcher.stop()
    assert [scores.tolist() for scores in results] == [[[n, -n]] * n for n in (1, 5, 2, 7, 3)]
    assert {5, 7} <= set(scorer.calls) and sum(scorer.calls) == 18
    assert len(scorer.calls) <= 4, "the others share one"


def test_a_bad_request_does_not_fail_others_in_its_batch() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings(wait_ms=50))
    batcher.start()
    scorer.release.set()

    async def score_all() -> list[Scores | BaseException]:
        calls = [batcher.score([[1]]), batcher.score([BAD]), batcher.score([[1, 2, 3]])]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(score_all())
    batcher.stop()
    assert isinstance(first, np.ndarray) and first.tolist() == [[1, -1]]
    assert isinstance(second, InputError)
    assert isinstance(third, np.ndarray) and third.tolist() == [[3, -3]]


def test_stop_scores_the_queue_and_then_refuses() -> None:
    scorer = Lengths()
    batcher = ScoreBatcher(scorer, ScoreSettings())
    batcher.start()

    async def score_all() -> Scores:
        task = asyncio.create_task(batcher.score([[1, 2, 3]]))
        await asyncio.sleep(0.05)
        stopping = threading.Thread(target=batcher.stop)
        stopping.start()
        time.sleep(0.05)
        scorer.release.set()
        scores = await task
        stopping.join()
        with pytest.raises(SteerLMError, match="not running"):
            await batcher.score([[1, 2, 3]])
        return scores

    assert asyncio.run(score_all()).tolist() == [[3, -3]]
    assert not batcher.healthy
