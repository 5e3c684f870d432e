# SPDX-License-Identifier: Apache-2.0
"""The HTTP scorer against a real server: batches, order, over-long texts, a busy server, one that comes late."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from demos.synthetic import free_port
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.http_scorer import HttpScorer
from steerlm.inference.scorer import TransformersScorer
from steerlm.prompt import LABEL_MARK
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.annotation.table_scorer import SCHEMA, TableScorer
from tests.inference.conftest import answer


@dataclass
class Server:
    """A reward server as small as its wire format; `faults` are statuses to answer before it behaves."""

    kind: str = "reward"
    identity: str | None = None
    names: tuple[str, ...] = SCHEMA.names
    faults: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    greeted: int = 0
    running: int = 0
    most: int = 0
    pause: float = 0.0
    port: int = 0

    def app(self) -> FastAPI:
        import asyncio

        app, table = FastAPI(), TableScorer(window=20)

        @app.get("/v1/model")
        async def model() -> dict[str, Any]:
            self.greeted += 1
            known = {"identity": self.identity} if self.identity else {}
            return {"kind": self.kind, "attributes": SCHEMA.model_dump(mode="json"), "window": 20, **known}

        @app.post("/v1/score")
        async def score(request: Request) -> Any:
            if self.faults:
                error = {"error": {"message": "the queue is full"}}
                return JSONResponse(error, self.faults.pop(0), headers={"retry-after": "0"})
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(self.pause)
            self.running -= 1
            body = await request.json()
            texts = body["texts"]
            self.batches.append(len(texts))
            scores = table.score(texts, body.get("over_long", "error"))
            if np.isnan(scores).any():
                return JSONResponse({"error": {"message": "text too long: 30 tokens"}}, 413)
            return {"attributes": self.names, "scores": scores.tolist(), "model": "m"}

        return app


def serve(server: Server) -> uvicorn.Server:
    running, server.port = serve_app(server.app(), server.port)
    return running


def serve_app(app: FastAPI, port: int = 0) -> tuple[uvicorn.Server, int]:
    """A server in a thread of its own, and its port."""
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    threading.Thread(target=running.run, daemon=True).start()
    while not running.started:
        time.sleep(0.005)
    return running, running.servers[0].sockets[0].getsockname()[1]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    running = serve(made)
    yield made
    running.should_exit = True


def test_scores_come_back_in_order_in_several_requests(server: Server) -> None:
    server.pause = 0.05
    scorer = HttpScorer("127.0.0.1", server.port, batch_texts=8, requests=3)
    texts = [f"text {n}" for n in range(50)]
    scores = scorer.score(texts)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, TableScorer().score(texts), atol=1e-6)
    assert sorted(server.batches) == [2, 8, 8, 8, 8, 8, 8]
    assert server.most == 3
    assert scorer.schema == SCHEMA
    assert scorer.window == 20
    assert scorer.identity == HttpScorer(f"http://127.0.0.1:{server.port}").identity
    assert scorer.score([]).shape == (0, 3)


def test_our_reward_server_gives_what_the_model_gives_in_process(reward_folder: Path) -> None:
    running, port = serve_app(build_app(reward_folder, "reward", ServeSettings()))
    local, remote = TransformersScorer(reward_folder), HttpScorer("127.0.0.1", port, batch_texts=4)
    texts = [answer(n) + LABEL_MARK for n in range(20)]
    texts[7] = " ".join(answer(n) for n in range(20)) + LABEL_MARK
    np.testing.assert_allclose(remote.score(texts, "skip"), local.score(texts, "skip"), atol=2e-5)
    assert np.isnan(remote.score(texts, "skip")[:, 0]).sum() == 1
    assert (remote.schema, remote.window, remote.identity) == (local.schema, local.window, local.identity)
    with pytest.raises(InputError, match=f"longer than the model's window of {local.window}: .*tokens"):
        remote.score(texts)
    kept = remote.score(texts, "keep_end")
    np.testing.assert_allclose(kept, local.score(texts, "keep_end"), atol=2e-5)
    # Other clients' texts are in no batch of ours: not a bit differs.
    others = [threading.Thread(target=remote.score, args=([answer(n) + LABEL_MARK] * 8, "skip")) for n in range(6)]
    for other in others:
        other.start()
    assert (remote.score(texts, "keep_end") == kept).all()
    for other in others:
        other.join()
    running.should_exit = True


def test_requests_are_spread_and_a_server_that_dies_is_done_without(tmp_path: Path) -> None:
    first, second, late = (Server(identity="same", pause=0.02) for _ in range(3))
    running = [serve(first), serve(second)]
    late.port = free_port()
    scorer = HttpScorer(
        urls=[f"http://127.0.0.1:{one.port}" for one in (first, second, late)], batch_texts=4, requests=1
    )
    texts = [f"text {n}" for n in range(80)]
    np.testing.assert_allclose(scorer.score(texts), TableScorer().score(texts), atol=1e-6)
    assert len(first.batches) + len(second.batches) == 20 and min(len(first.batches), len(second.batches)) > 5

    ending = threading.Timer(0.06, lambda: setattr(running[0], "should_exit", True))
    ending.start()
    np.testing.assert_allclose(scorer.score(texts * 2), TableScorer().score(texts * 2), atol=1e-6)
    ending.join()
    for server in scorer.servers.servers:  # the pauses of one that stays away have grown
        server.retry_at = 0.0
    running.append(serve(late))
    scorer.score(texts)
    assert late.greeted == 1 and late.batches
    for one in running:
        one.should_exit = True


def test_all_servers_must_serve_the_same_model() -> None:
    first, second = Server(identity="one"), Server(identity="two")
    running = [serve(first), serve(second)]
    urls = [f"http://127.0.0.1:{one.port}" for one in (first, second)]
    with pytest.raises(ModelError, match=rf"{urls[1]} serves another model .* than {urls[0]}|{urls[0]} serves another"):
        HttpScorer(urls=urls)
    # One that comes back with another model is noticed before it is given a text.
    second.identity = "one"
    scorer = HttpScorer(urls=urls, batch_texts=1)
    running[1].should_exit = True
    while running[1].servers and running[1].servers[0].is_serving():
        time.sleep(0.01)
    assert scorer.score(["a", "b", "c", "d"]).shape == (4, 3)
    second.identity, second.batches = "two", []
    running[1] = serve(second)
    for server in scorer.servers.servers:
        server.retry_at = 0.0
    with pytest.raises(ModelError, match="serves another model"):
        scorer.score(["a", "b", "c", "d"])
    assert second.batches == []
    for one in running:
        one.should_exit = True


def test_over_long_texts_are_found_by_the_server(server: Server) -> None:
    scorer = HttpScorer("127.0.0.1", server.port, batch_texts=16)
    texts = [f"text {n}" for n in range(12)]
    texts[5] = texts[9] = "word " * 30
    scores = scorer.score(texts, "skip")
    assert np.flatnonzero(np.isnan(scores).any(axis=1)).tolist() == [5, 9]
    np.testing.assert_allclose(scores[:5], TableScorer().score(texts[:5]), atol=1e-6)
    with pytest.raises(InputError, match="longer than the model's window of 20: text too long"):
        scorer.score(texts)
    np.testing.assert_allclose(
        scorer.score(texts, "keep_end"), TableScorer(window=20).score(texts, "keep_end"), atol=1e-6
    )


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.faults = [429, 503, 502]
    scorer = HttpScorer("127.0.0.1", server.port)
    np.testing.assert_allclose(scorer.score(["a"]), TableScorer().score(["a"]), atol=1e-6)
    assert server.faults == []
    server.faults = [503] * 50
    scorer.servers.patience = 0.6
    with pytest.raises(SteerLMError, match=r"no answer within 0\.6 s; the last was: HTTP 503: the queue is full"):
        scorer.score(["a"])


def test_a_server_that_comes_late_is_waited_for() -> None:
    port = free_port()
    made, started = Server(port=port), []
    timer = threading.Timer(0.4, lambda: started.append(serve(made)))
    timer.start()
    scorer = HttpScorer("127.0.0.1", port, patience=20)
    assert scorer.score(["a"]).shape == (1, 3)
    timer.join()
    started[0].should_exit = True


def test_what_is_no_reward_server_is_refused(server: Server) -> None:
    server.kind = "policy"
    with pytest.raises(ModelError, match="serves a policy model; a reward model was expected"):
        HttpScorer("127.0.0.1", server.port)
    with pytest.raises(InputError, match="HTTP 404: Not Found"):
        HttpScorer(f"http://127.0.0.1:{server.port}/elsewhere")
    with pytest.raises(SteerLMError, match=r"no answer within 0 s; the last was: ConnectError"):
        HttpScorer("127.0.0.1", 1, patience=0)
    with pytest.raises(InputError, match="not the address of a server"):
        HttpScorer("ftp://127.0.0.1")


def test_another_model_under_way_is_noticed(server: Server) -> None:
    scorer = HttpScorer("127.0.0.1", server.port)
    server.names = ("other", "names", "now")
    with pytest.raises(SteerLMError, match="now serves another model"):
        scorer.score(["a"])


def test_it_works_inside_a_running_event_loop(server: Server) -> None:
    import asyncio

    async def notebook() -> np.ndarray:
        return HttpScorer("127.0.0.1", server.port).score(["a"])

    assert asyncio.run(notebook()).shape == (1, 3)
