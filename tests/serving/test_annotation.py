# SPDX-License-Identifier: Apache-2.0
"""Annotation through a server that others use: the same bytes, interrupted and resumed or not."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from steerlm.annotation.annotate import AnnotateCounts, annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.inference.http_scorer import HttpScorer
from steerlm.inference.scorer import TransformersScorer
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


def test_a_run_that_goes_on_elsewhere_says_so_and_records_it(
    reward_server: str, reward_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server's batches are not those of this process, so equal bytes are not promised."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    turns = [Turn(value="What is a pet?", speaker="User"), Turn(value="A dog.", speaker="Assistant")]
    lines = [
        Conversation(conversations=[turns[0], turns[1].model_copy(update={"value": f"A dog {i}."})]).to_json() + "\n"
        for i in range(40)
    ]
    source.write_text("".join(lines))

    def stop(counts: AnnotateCounts) -> None:
        if counts.lines:
            raise Stopped

    server, here = HttpScorer(urls=[reward_server]), TransformersScorer(reward_folder)
    for _ in range(2):
        with pytest.raises(Stopped):
            annotate(source, out, server, OPTIONS, stop)
    assert not caplog.records, "the same place"
    assert annotate(source, out, here, OPTIONS).resumed
    (warning,) = caplog.records
    assert "was started with scores of a server and goes on with those of a process" in warning.getMessage()
    record = json.loads((tmp_path / ".out.jsonl.annotated").read_text())
    assert record["scored_by"] == ["server", "process"]
    caplog.clear()
    annotate(source, out, server, OPTIONS)
    assert not caplog.records, "nothing was left to score"
