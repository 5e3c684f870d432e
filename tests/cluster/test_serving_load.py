# SPDX-License-Identifier: Apache-2.0
"""64 clients of one release while a node's drain, a kill and an upgrade take its pods away: nothing accepted is lost.

`STEERLM_LOAD_SECONDS=600` asks for ten minutes; the clients stop by themselves after that time or after the last event,
whichever is later. Prints what they saw.
"""

import asyncio
import functools
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from tests.cluster.conftest import wait_for
from tests.cluster.serving import QUESTION, Models, Release
from tests.cluster.serving import models as models
from tests.cluster.serving import release as release
from tests.cluster.serving import values as values
from tests.cluster.test_serving import changed, evict
from tests.serving.conftest import ANSWERS
from tests.serving.conftest import policy_folder as policy_folder
from tests.serving.conftest import reward_folder as reward_folder
from tests.serving.conftest import taught_folder as taught_folder
from tests.serving.conftest import tokenizer_folder as tokenizer_folder

CLIENTS = 64
SECONDS = float(os.environ.get("STEERLM_LOAD_SECONDS", "60"))


@dataclass
class Crowd:
    """What all clients saw: texts of answers, seconds of each answered question, errors; HTTP requests sent."""

    texts: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sent: int = 0

    def report(self) -> str:
        cuts = statistics.quantiles(self.seconds, n=100)
        return (
            f"{CLIENTS} clients: {len(self.seconds)} answers, {len(self.errors)} lost, "
            f"{self.sent - len(self.seconds)} requests sent again; p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, "
            f"longest {max(self.seconds):.2f} s"
        )


async def one_client(release: Release, seen: Crowd, ended: threading.Event) -> None:
    """Ask as an application does: OpenAI's client as it comes, one question after the other."""

    async def count(_: object) -> None:
        seen.sent += 1

    transport = DefaultAsyncHttpxClient(event_hooks={"request": [count]}, timeout=60)
    async with AsyncOpenAI(base_url=f"{release.url('policy')}/v1", api_key=release.key, http_client=transport) as asked:
        while not ended.is_set():
            begun = time.monotonic()
            try:
                reply = await asked.chat.completions.create(
                    model="policy",
                    messages=[{"role": "user", "content": QUESTION}],
                    max_tokens=8,
                    temperature=0,
                    extra_body={"attributes": {"humor": 4}},
                )
            except OpenAIError as error:
                seen.errors.append(f"{time.strftime('%X')} {error!r} of {error.__cause__!r}")
            else:
                seen.texts.add(str(reply.choices[0].message.content))
                seen.seconds.append(time.monotonic() - begun)


@contextmanager
def crowd(release: Release) -> Iterator[Crowd]:
    """64 clients in a thread of their own, until the block ends."""
    seen, ended = Crowd(), threading.Event()

    async def all_clients() -> None:
        await asyncio.gather(*(one_client(release, seen, ended) for _ in range(CLIENTS)))

    thread = threading.Thread(target=lambda: asyncio.run(all_clients()))
    thread.start()
    try:
        wait_for("answers under load", lambda: len(seen.seconds) > CLIENTS, 120, lambda: str(seen.errors[:5]))
        yield seen
    finally:
        ended.set()
        thread.join()


def test_a_drain_a_kill_and_an_upgrade_lose_nothing(
    release: Release, values: Any, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    started = {**values, "policy": {**values["policy"], "replicas": 3, "podDisruptionBudget": {"minAvailable": 2}}}
    release.must("install", started)
    begun = time.monotonic()

    def until(share: float) -> None:
        time.sleep(max(0.0, begun + share * SECONDS - time.monotonic()))

    def three_ready() -> None:
        wait_for("three pods", lambda: len(release.ready("policy")) == 3, 300, release.explain)

    with crowd(release) as seen:
        until(0.2)
        # As a node's drain does: one eviction after the other, as the budget allows.
        for pod in release.ready("policy"):
            wait_for("the eviction", functools.partial(evict, release, pod), 300)
        three_ready()
        until(0.5)
        words = ("delete", "pod", release.ready("policy")[0], "--grace-period=0", "--force")
        release.cluster.kubectl("-n", release.namespace, *words)
        three_ready()
        until(0.7)
        release.must("upgrade", changed(started, model=models.other))
        until(1.0)
    with capsys.disabled():
        sys.stdout.write(f"\n{seen.report()}\n")
    assert seen.errors == []
    with release.client() as client:
        assert seen.texts == {ANSWERS[4], release.ask(client, humor=4)}
    assert release.helm("uninstall", release.name, "--wait", "--timeout", "3m").returncode == 0
