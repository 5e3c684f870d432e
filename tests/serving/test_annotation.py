# SPDX-License-Identifier: Apache-2.0
"""Annotation through a server that others use: the same bytes, interrupted and resumed or not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from steerlm.annotation.annotate import AnnotateCounts, annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.inference.http_scorer import HttpScorer
from steerlm.records import Conversation, Turn

OPTIONS = AnnotateSettings(look_ahead=16)


class Stopped(Exception):  # noqa: N818
    """Ends a run in its middle."""


@contextmanager
def other_clients(server: str) -> Iterator[None]:
    """Clients that score texts of changing lengths all the time."""
    done = threading.Event()

    def work(number: int) -> None:
        step = number
        while not done.is_set():
            step += 1
            text = f"<extra_id_1>User\n{'cat ' * (step % 60)}\n<extra_id_2>"
            httpx.post(f"{server}/v1/score", json={"texts": [text] * (1 + step % 3)}, timeout=60).raise_for_status()

    threads = [threading.Thread(target=work, args=(7 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_resumed_run_writes_the_bytes_of_an_uninterrupted_one(reward_server: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    with source.open("w") as file:
        for i in range(60):
            turns = [
                Turn(value=f"What is pet number {i}?", speaker="User"),
                Turn(value="A dog, a cat. " * (1 + i * 7 % 11), speaker="Assistant"),
            ]
            file.write(Conversation(conversations=turns).to_json() + "\n")
    annotate(source, tmp_path / "whole.jsonl", HttpScorer(urls=[reward_server]), OPTIONS)

    def stop(counts: AnnotateCounts) -> None:
        if counts.lines:
            raise Stopped

    resumed = tmp_path / "resumed.jsonl"
    with other_clients(reward_server):
        with pytest.raises(Stopped):
            annotate(source, resumed, HttpScorer(urls=[reward_server]), OPTIONS, stop)
        counts = annotate(source, resumed, HttpScorer(urls=[reward_server], requests=2), OPTIONS)
    assert counts.resumed == 16 and counts.turns == 60
    assert resumed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
