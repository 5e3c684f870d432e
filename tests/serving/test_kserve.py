"""The KServe v2 protocol, through the unmodified Triton client and as bytes on the wire."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from steerlm.inference.scorer import TransformersScorer
from tests.serving.conftest import SCHEMA, WINDOW

INFER = "/v2/models/reward_model/infer"
LONG = "dog " * WINDOW + "<extra_id_2>"


def texts(count: int) -> list[str]:
    return [f"<extra_id_1>User\n{'dog cat ' * (i % 7)}{i} \u00e9\n<extra_id_2>" for i in range(count)]


@pytest.fixture
def client(reward_server: str) -> Iterator[Any]:
    with triton.InferenceServerClient(reward_server.removeprefix("http://")) as client:
        yield client


def inputs(sentences: list[str], *, binary: bool = True, add_eos: bool | None = False) -> list[Any]:
    """What upstream's client sends: bytes objects [n, 1], and a truth value for each."""
    rows = np.array([[s.encode()] for s in sentences], dtype=np.object_)
    given = [triton.InferInput("sentences", list(rows.shape), "BYTES")]
    given[0].set_data_from_numpy(rows, binary_data=binary)
    if add_eos is not None:
        given.append(triton.InferInput("add_EOS", list(rows.shape), "BOOL"))
        given[1].set_data_from_numpy(np.full(rows.shape, add_eos), binary_data=binary)
    return given


def outputs(binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in ("rewards", "exceeded")]


def test_health_metadata_and_configuration(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    for version in ("", "1"):
        assert client.is_model_ready("reward_model", version)
        metadata = client.get_model_metadata("reward_model", version)
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["sentences", "add_EOS"]
        assert metadata["outputs"][0] == {"name": "rewards", "datatype": "FP32", "shape": [-1, len(SCHEMA.names)]}
        config = client.get_model_config("reward_model", version)
        assert config["max_batch_size"] == 4096
        assert [(t["name"], t["data_type"]) for t in config["output"]] == [
            ("rewards", "TYPE_FP32"),
            ("exceeded", "TYPE_INT32"),
        ]
    assert client.is_model_ready("reward")  # the server's own name
    assert not client.is_model_ready("other")
    with pytest.raises(InferenceServerException, match="did you mean 'reward_model'"):
        client.get_model_metadata("reward_modle")
    with pytest.raises(InferenceServerException, match="version 1 only"):
        client.get_model_config("reward_model", "2")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_scores(client: Any, reward_folder: Path, binary_in: bool, binary_out: bool | None) -> None:
    want = TransformersScorer(reward_folder).score(texts(5))
    asked = None if binary_out is None else outputs(binary_out)
    result = client.infer("reward_model", inputs(texts(5), binary=binary_in), outputs=asked, request_id="seven")
    rewards, exceeded = result.as_numpy("rewards"), result.as_numpy("exceeded")
    assert (rewards.dtype, rewards.shape, exceeded.dtype) == (np.float32, (5, len(SCHEMA.names)), np.int32)
    np.testing.assert_allclose(rewards, want, atol=1e-5)
    assert exceeded.tolist() == [[0]] * 5
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["model_name"] == "reward_model"


@pytest.mark.parametrize("binary", [True, False])
def test_an_overlong_text_is_marked_and_harms_no_other(client: Any, reward_folder: Path, binary: bool) -> None:
    sentences = [texts(2)[0], LONG, texts(2)[1]]
    result = client.infer("reward_model", inputs(sentences), outputs=outputs(binary))
    assert result.as_numpy("exceeded").tolist() == [[0], [1], [0]]
    rewards = result.as_numpy("rewards")
    assert np.isnan(rewards[1]).all()
    np.testing.assert_allclose(rewards[[0, 2]], TransformersScorer(reward_folder).score(texts(2)), atol=1e-5)
    alone = client.infer("reward_model", inputs([LONG]), outputs=outputs(binary))
    assert np.isnan(alone.as_numpy("rewards")).all() and alone.as_numpy("exceeded").tolist() == [[1]]


def test_upstream_s_warm_up_and_many_requests_in_flight(reward_server: str, reward_folder: Path) -> None:
    # Its client sends one text that is no read-out, then one request a turn, all of a conversation at once.
    with triton.InferenceServerClient(reward_server.removeprefix("http://"), concurrency=16) as client:
        warm: npt.NDArray[np.float32] = client.infer("reward_model", inputs(["hello world!"])).as_numpy("rewards")
        assert np.isfinite(warm).all()
        flying = [client.async_infer("reward_model", inputs([t]), outputs=outputs(True)) for t in texts(40)]
        got = np.concatenate([future.get_result().as_numpy("rewards") for future in flying])
    np.testing.assert_allclose(got, TransformersScorer(reward_folder).score(texts(40)), atol=1e-5)


def test_without_add_eos_and_one_output(client: Any) -> None:
    result = client.infer("reward_model", inputs(texts(2), add_eos=None), outputs=outputs(True)[:1])
    assert result.as_numpy("rewards").shape == (2, len(SCHEMA.names))
    assert result.as_numpy("exceeded") is None


def test_nan_is_null_in_json(reward_server: str) -> None:
    body = {"inputs": [{"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": [[LONG]]}]}
    reply = httpx.post(reward_server + INFER, json=body)
    assert reply.status_code == 200 and "NaN" not in reply.text
    rewards, exceeded = reply.json()["outputs"]
    assert rewards["data"] == [None] * len(SCHEMA.names) and exceeded["data"] == [1]


def sentence(**changes: Any) -> dict[str, Any]:
    return {"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]} | changes


WRONG: list[tuple[Any, str]] = [
    ({}, "inputs: Field required"),
    ([], "should be an object"),
    ({"inputs": []}, "'sentences' is missing"),
    ({"inputs": [sentence(name="sentence")]}, "did you mean 'sentences'"),
    ({"inputs": [sentence(), sentence()]}, "given twice"),
    ({"inputs": [sentence(datatype="FP32")]}, "must be BYTES"),
    ({"inputs": [sentence(shape=[2, 1])]}, "needs 2 values, not 1"),
    ({"inputs": [sentence(shape=[1, 2])]}, "must have shape [batch, 1]"),
    ({"inputs": [sentence(shape=[-1, 1])]}, "inputs.0.shape.0"),
    ({"inputs": [sentence(data=[1])]}, "must be strings"),
    ({"inputs": [sentence(data=[""])]}, "sentences[0] is empty"),
    ({"inputs": [sentence(shape=[5000], data=["a"] * 5000)]}, "at most 4096"),
    ({"inputs": [sentence()], "outputs": [{"name": "reward"}]}, "did you mean 'rewards'"),
    ({"inputs": [sentence(), sentence(name="add_EOS", datatype="BOOL", data=[True])]}, "add_EOS"),
    ({"inputs": [sentence(), sentence(name="add_EOS", datatype="BOOL", data=["x"])]}, "true or false"),
    ({"inputs": [sentence(parameters={"binary_data_size": 9}, data=None)]}, "9 bytes announced"),
]


def test_what_is_wrong_is_named_in_the_protocol_s_form(reward_server: str) -> None:
    for body, message in WRONG:
        reply = httpx.post(reward_server + INFER, json=body)
        assert reply.status_code == 400, body
        assert isinstance(reply.json()["error"], str) and message in reply.json()["error"], reply.text


def test_broken_binary_tensors(reward_server: str) -> None:
    def send(tail: bytes, size: int | None = None, length: str | None = None) -> tuple[int, str]:
        tensor = sentence(data=None, parameters={"binary_data_size": len(tail) if size is None else size})
        header = json.dumps({"inputs": [tensor]}).encode()
        name = {"Inference-Header-Content-Length": str(len(header)) if length is None else length}
        reply = httpx.post(reward_server + INFER, content=header + tail, headers=name)
        return reply.status_code, reply.text

    good = struct.pack("<I", 3) + b"dog"
    assert send(good)[0] == 200
    for tail, options, message in (
        (b"\x01\x00", {}, "length of an element is cut off"),
        (struct.pack("<I", 9) + b"dog", {}, "of 9 bytes is cut off"),
        (struct.pack("<I", 1) + b"\xff", {}, "not UTF-8"),
        (good * 2, {}, "needs 1 values, not 2"),
        (good + b"x", {"size": len(good)}, "1 bytes more"),
        (good, {"length": "x"}, "must be a number"),
        (good, {"length": "-1"}, "must be a number"),
        (good, {"length": "99999"}, "the body has"),
        (good, {"length": "0"}, "not a request"),
    ):
        status, text = send(tail, **options)  # type: ignore[arg-type]
        assert status == 400 and message in text, text
    reply = httpx.post(reward_server + INFER, content=b"x", headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415
    assert httpx.get(reward_server + INFER).json() == {"error": "Method Not Allowed"}


def test_a_draining_server_lives_and_is_not_ready(reward_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(reward_folder, "reward") as (url, app):
        app.state.draining = True
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert not client.is_server_ready() and not client.is_model_ready("reward_model")
            with pytest.raises(InferenceServerException, match="shutting down"):
                client.infer("reward_model", inputs(["a"]))
