# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies, in requests to both servers and in responses of scores; damaged bodies."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from steerlm.serving.compression import Decompressor
from steerlm.serving.errors import ApiError
from tests.serving.kserve.test_routes import INFER, inputs, outputs, texts
from tests.serving.openai.test_completions import until

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("accepted", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
def test_compression_of_the_triton_client(
    reward_server: str, sent: str | None, accepted: str | None, binary: bool
) -> None:
    with triton.InferenceServerClient(reward_server.removeprefix("http://")) as client:
        plain = client.infer("reward_model", inputs(texts(60)), outputs=outputs(True))
        compressed = client.infer(
            "reward_model",
            inputs(texts(60), binary=binary),
            outputs=outputs(binary),
            request_compression_algorithm=sent,
            response_compression_algorithm=accepted,
        )
    np.testing.assert_allclose(compressed.as_numpy("rewards"), plain.as_numpy("rewards"), atol=1e-5)
    np.testing.assert_array_equal(compressed.as_numpy("exceeded"), plain.as_numpy("exceeded"))


def test_scores_are_compressed_on_request_and_the_header_counts_decompressed_bytes(reward_server: str) -> None:
    body: dict[str, Any] = {
        "inputs": [{"name": "sentences", "datatype": "BYTES", "shape": [60, 1], "data": texts(60)}],
        "parameters": {"binary_data_output": True},
    }
    compressed = httpx.post(reward_server + INFER, json=body, headers={"Accept-Encoding": "gzip"})
    plain = httpx.post(reward_server + INFER, json=body, headers={"Accept-Encoding": "identity"})
    assert (compressed.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
    assert int(compressed.headers["content-length"]) < len(compressed.content) == len(plain.content)
    size = int(compressed.headers["inference-header-content-length"])
    assert json.loads(compressed.content[:size]) == json.loads(plain.content[:size])


@pytest.mark.parametrize("encoding", COMPRESS)
def test_the_generation_server_decompresses_bodies_but_does_not_compress(policy_server: str, encoding: str) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, "temperature": 0}
    legacy = {"sentences": ["A dog"], "tokens_to_generate": 2, "greedy": True}
    for method, route, body in (("POST", "/v1/chat/completions", chat), ("PUT", "/generate", legacy)):
        plain = httpx.request(method, policy_server + route, json=body).json()
        headers = {"content-encoding": encoding.upper(), "content-type": "application/json"}
        compressed = COMPRESS[encoding](json.dumps(body).encode())
        for content in (compressed, iter([compressed[:9], compressed[9:]])):
            reply = httpx.request(method, policy_server + route, content=content, headers=headers)
            key = "choices" if "choices" in plain else "sentences"
            assert (reply.status_code, reply.json()[key]) == (200, plain[key])
    url, streamed = f"{policy_server}/v1/chat/completions", {**chat, "stream": True}
    with httpx.stream("POST", url, json=streamed, headers={"Accept-Encoding": "gzip"}) as reply:
        assert "content-encoding" not in reply.headers
        assert sum(line.startswith("data: ") for line in reply.iter_lines()) > 2


ROUTES = [("policy", "PUT", "/generate"), ("policy", "POST", "/v1/chat/completions"), ("reward", "POST", INFER)]


@pytest.mark.parametrize("role, method, route", ROUTES)
def test_a_bomb_is_refused_at_the_limit(
    role: str, method: str, route: str, policy_folder: Path, reward_folder: Path, serving: Callable[..., Any]
) -> None:
    folder = policy_folder if role == "policy" else reward_folder
    limit = 100_000
    with serving(folder, "generate" if role == "policy" else "reward", max_body_bytes=limit) as (url, app):
        for encoding, compress in COMPRESS.items():
            headers = {"content-encoding": encoding, "content-type": "application/json"}
            bomb = compress(b" " * (64 << 20))
            for size, content in (
                (64 << 20, bomb),
                (0, iter([bomb[:50], bomb[50:]])),
                (1, compress(b" " * (limit + 1))),
            ):
                reply = httpx.request(method, url + route, content=content, headers=headers)
                assert (reply.status_code, "larger than 100000 bytes" in reply.text) == (413, True), (size, reply.text)
            reply = httpx.request(method, url + route, content=compress(b" " * limit), headers=headers)
            assert reply.status_code == 400 and "larger" not in reply.text
            # Compressed bytes without content count too.
            idle = [zlib.compress(b"")[:2], *[b"\0\0\0\xff\xff" * 5000] * 5]
            if encoding == "deflate":
                reply = httpx.request(method, url + route, content=iter(idle), headers=headers)
                assert reply.status_code == 413, reply.text
        until(lambda: not app.state.in_flight)


def test_invalid_bodies_are_refused_by_name(policy_server: str, reward_server: str) -> None:
    good = gzip.compress(json.dumps({"sentences": ["a"]}).encode())
    for content, encoding, status, message in (
        (b"plain", "gzip", 400, "the body is not gzip"),
        (good, "deflate", 400, "the body is not deflate"),
        (good[:-1], "gzip", 400, "the gzip body is incomplete"),
        (b"", "gzip", 400, "the gzip body is incomplete"),
        (good + good, "gzip", 400, "bytes after the end"),
        (good, "br", 415, "'br' is not supported; gzip and deflate are"),
        (good, "gzip, gzip", 415, "'gzip, gzip' is not supported"),
    ):
        headers = {"content-encoding": encoding}
        legacy = httpx.put(policy_server + "/generate", content=content, headers=headers)
        infer = httpx.post(reward_server + INFER, content=content, headers=headers)
        assert legacy.status_code == infer.status_code == status, (content, legacy.text)
        assert message in legacy.json()["error"]["message"] and message in infer.json()["error"]


def test_no_more_is_decompressed_than_the_limit() -> None:
    for encoding, compress in COMPRESS.items():
        compressed = compress(b"x" * 1000)
        assert Decompressor(encoding.encode()).feed(compressed, 100, last=True) == b"x" * 100
        assert Decompressor(encoding.encode()).feed(compressed, 1001, last=True) == b"x" * 1000
        byte_by_byte = Decompressor(encoding.encode())
        parts = [
            byte_by_byte.feed(bytes([byte]), 1001, last=i + 1 == len(compressed)) for i, byte in enumerate(compressed)
        ]
        assert b"".join(parts) == b"x" * 1000
        with pytest.raises(ApiError, match="is incomplete"):
            Decompressor(encoding.encode()).feed(compressed[:-1], 1001, last=True)
