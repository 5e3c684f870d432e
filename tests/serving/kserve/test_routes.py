# SPDX-License-Identifier: Apache-2.0
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
from steerlm.models.folder import load_tokenizer
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
    """Return what upstream's client sends: bytes objects [n, 1], and a boolean for each."""
    rows = np.array([[s.encode()] for s in sentences], dtype=np.object_)
    tensors = [triton.InferInput("sentences", list(rows.shape), "BYTES")]
    tensors[0].set_data_from_numpy(rows, binary_data=binary)
    if add_eos is not None:
        tensors.append(triton.InferInput("add_EOS", list(rows.shape), "BOOL"))
        tensors[1].set_data_from_numpy(np.full(rows.shape, add_eos), binary_data=binary)
    return tensors


def outputs(binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in ("rewards", "exceeded")]


def test_health_metadata_and_configuration(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    for version in ("", "1"):
        assert client.is_model_ready("reward_model", version)
        metadata = client.get_model_metadata("reward_model", version)
        assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]} == {
            "sentences": ("BYTES", [-1, 1]),
            "tokens": ("INT64", [-1, -1]),
            "sequence_lengths": ("INT64", [-1, 1]),
            "add_EOS": ("BOOL", [-1, 1]),
        }
        assert metadata["outputs"][0] == {"name": "rewards", "datatype": "FP32", "shape": [-1, len(SCHEMA.names)]}
        config = client.get_model_config("reward_model", version)
        assert config["max_batch_size"] == 4096
        assert [(t["data_type"], t["dims"]) for t in config["input"]] == [
            ("TYPE_STRING", [1]),
            ("TYPE_INT64", [-1]),
            ("TYPE_INT64", [1]),
            ("TYPE_BOOL", [1]),
        ]
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
    expected = TransformersScorer(reward_folder).score(texts(5))
    requested = None if binary_out is None else outputs(binary_out)
    result = client.infer("reward_model", inputs(texts(5), binary=binary_in), outputs=requested, request_id="seven")
    rewards, exceeded = result.as_numpy("rewards"), result.as_numpy("exceeded")
    assert (rewards.dtype, rewards.shape, exceeded.dtype) == (np.float32, (5, len(SCHEMA.names)), np.int32)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    assert exceeded.tolist() == [[0]] * 5
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["model_name"] == "reward_model"


@pytest.mark.parametrize("binary", [True, False])
def test_an_overlong_text_is_marked_and_the_others_are_scored(client: Any, reward_folder: Path, binary: bool) -> None:
    sentences = [texts(2)[0], LONG, texts(2)[1]]
    result = client.infer("reward_model", inputs(sentences), outputs=outputs(binary))
    assert result.as_numpy("exceeded").tolist() == [[0], [1], [0]]
    rewards = result.as_numpy("rewards")
    assert np.isnan(rewards[1]).all()
    np.testing.assert_allclose(rewards[[0, 2]], TransformersScorer(reward_folder).score(texts(2)), atol=1e-5)
    alone = client.infer("reward_model", inputs([LONG]), outputs=outputs(binary))
    assert np.isnan(alone.as_numpy("rewards")).all() and alone.as_numpy("exceeded").tolist() == [[1]]


def test_upstream_s_warm_up_and_many_requests_in_flight(reward_server: str, reward_folder: Path) -> None:
    # Its client sends one text without a read-out mark, then one request per turn, several at once.
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


def token_inputs(rows: list[list[int]], *, binary: bool = True, padding: int = 2) -> list[Any]:
    """Return token ids padded on the right, and the length of each row, as upstream's users send them."""
    width = max(map(len, rows)) + 3
    padded = np.array([row + [padding] * (width - len(row)) for row in rows], dtype=np.int64)
    tensors = []
    for name, values in (("tokens", padded), ("sequence_lengths", np.array([[len(row)] for row in rows]))):
        tensors.append(triton.InferInput(name, list(values.shape), "INT64"))
        tensors[-1].set_data_from_numpy(values, binary_data=binary)
    return tensors


@pytest.mark.parametrize("binary", [True, False])
def test_token_ids_instead_of_texts(client: Any, reward_folder: Path, binary: bool) -> None:
    tokenizer = load_tokenizer(reward_folder)
    sentences = [*texts(4), LONG]
    rows: list[list[int]] = tokenizer(sentences, add_special_tokens=False)["input_ids"]
    by_text = client.infer("reward_model", inputs(sentences))
    for padding in (2, -1):  # padding is not checked
        by_ids = client.infer("reward_model", token_inputs(rows, binary=binary, padding=padding))
        assert by_ids.as_numpy("exceeded").tolist() == [[0]] * 4 + [[1]]
        np.testing.assert_allclose(by_ids.as_numpy("rewards"), by_text.as_numpy("rewards"), atol=1e-5)
    # The score is read at the last id within the length.
    shorter = client.infer("reward_model", token_inputs([row[:-1] for row in rows[:4]])).as_numpy("rewards")
    assert np.abs(shorter - by_text.as_numpy("rewards")[:4]).max() > 1e-2


def ids(name: str = "tokens", **changes: Any) -> dict[str, Any]:
    shape = [1, 2] if name == "tokens" else [1, 1]
    return {"name": name, "datatype": "INT64", "shape": shape, "data": [5, 6][: shape[1]]} | changes


LENGTHS = "sequence_lengths"
WRONG_IDS: list[tuple[list[dict[str, Any]], str]] = [
    ([ids()], "'tokens' and 'sequence_lengths'"),
    ([ids(LENGTHS, data=[1])], "give either 'sentences'"),
    (
        [ids(), ids(LENGTHS, data=[1]), {"name": "sentences", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
        "either",
    ),
    ([ids(), ids(LENGTHS, data=[0])], "sequence_lengths[0] is 0; its row has 1 to 2 tokens"),
    ([ids(), ids(LENGTHS, data=[3])], "sequence_lengths[0] is 3"),
    ([ids(), ids(LENGTHS, shape=[2, 1], data=[1, 1])], "1 rows of tokens, 2 sequence_lengths"),
    ([ids(shape=[2], data=[5, 6]), ids(LENGTHS, data=[1])], "must have shape [batch, length]"),
    ([ids(data=[5, -1]), ids(LENGTHS, data=[2])], "tokens[0] has the id -1"),
    ([ids(data=[5, 1 << 40]), ids(LENGTHS, data=[2])], "the vocabulary has"),
    ([ids(data=[5, 1 << 64]), ids(LENGTHS, data=[2])], "integers of 64 bits"),
    ([ids(data=[5, True]), ids(LENGTHS, data=[2])], "integers of 64 bits"),
    ([ids(data=[5.0, 6]), ids(LENGTHS, data=[2])], "integers of 64 bits"),
    ([ids(shape=[5000, 1], data=[5] * 5000), ids(LENGTHS, shape=[5000, 1], data=[1] * 5000)], "the limit is 4096"),
    ([ids(datatype="INT32"), ids(LENGTHS, data=[2])], "'tokens' must be INT64"),
]


def test_bad_token_ids_are_refused_by_name(reward_server: str) -> None:
    for tensors, message in WRONG_IDS:
        reply = httpx.post(reward_server + INFER, json={"inputs": tensors})
        assert reply.status_code == 400 and message in reply.json()["error"], reply.text
    header = json.dumps({"inputs": [ids(data=None, parameters={"binary_data_size": 15}), ids(LENGTHS)]}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    assert (
        "15 bytes are not a whole" in httpx.post(reward_server + INFER, content=header + b"x" * 15, headers=length).text
    )


def test_nan_is_null_in_json(reward_server: str) -> None:
    body = {"inputs": [{"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": [[LONG]]}]}
    reply = httpx.post(reward_server + INFER, json=body)
    assert reply.status_code == 200 and "NaN" not in reply.text
    rewards, exceeded = reply.json()["outputs"]
    assert rewards["data"] == [None] * len(SCHEMA.names) and exceeded["data"] == [1]


def sentence(**changes: Any) -> dict[str, Any]:
    return {"name": "sentences", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]} | changes


WRONG: list[tuple[Any, str]] = [
    ({}, "inputs is missing"),
    ([], "an object with keys was expected"),
    ({"inputs": []}, "give either 'sentences'"),
    ({"inputs": [sentence(name="sentence")]}, "did you mean 'sentences'"),
    ({"inputs": [sentence(), sentence()]}, "given twice"),
    ({"inputs": [sentence(datatype="FP32")]}, "must be BYTES"),
    ({"inputs": [sentence(shape=[2, 1])]}, "needs 2 values, not 1"),
    ({"inputs": [sentence(shape=[1, 2])]}, "must have shape [batch, 1]"),
    ({"inputs": [sentence(shape=[-1, 1])]}, "inputs[0].shape[0]"),
    ({"inputs": [sentence(data=[1])]}, "must be strings"),
    ({"inputs": [sentence(data=[""])]}, "sentences[0] is empty"),
    ({"inputs": [sentence(shape=[5000], data=["a"] * 5000)]}, "the limit is 4096"),
    ({"inputs": [sentence()], "outputs": [{"name": "reward"}]}, "did you mean 'rewards'"),
    ({"inputs": [sentence(), sentence(name="add_EOS", datatype="BOOL", data=[True])]}, "add_EOS"),
    ({"inputs": [sentence(), sentence(name="add_EOS", datatype="BOOL", data=["x"])]}, "true or false"),
    ({"inputs": [sentence(parameters={"binary_data_size": 9}, data=None)]}, "9 bytes announced"),
    ({"inputs": [sentence()], "humor": 4}, "unknown field 'humor'"),
    ({"inputs": [sentence()], "parameters": {"humor": 4}}, "unknown field 'humor' in parameters"),
    ({"inputs": [sentence(dtype="BYTES")]}, "unknown field 'dtype' in inputs[0]"),
    (
        {"inputs": [sentence()], "outputs": [{"name": "rewards", "parameters": {"classification": 1}}]},
        "unknown field 'classification' in outputs[0].parameters",
    ),
    (
        {"inputs": [sentence(data=None, parameters={"shared_memory_region": "a"})]},
        "unknown field 'shared_memory_region' in inputs[0].parameters",
    ),
]


def test_parameters_of_triton_that_cannot_change_a_score(client: Any, reward_folder: Path) -> None:
    more = {"sequence_id": 3, "sequence_start": True, "sequence_end": True, "priority": 2, "timeout": 9_000_000}
    rewards = client.infer("reward_model", inputs(texts(2)), outputs=outputs(True), **more).as_numpy("rewards")
    np.testing.assert_allclose(rewards, TransformersScorer(reward_folder).score(texts(2)), atol=1e-5)


def test_bad_requests_are_refused_in_the_form_of_the_protocol(reward_server: str) -> None:
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
        (good, {"length": "0"}, "the body is not JSON"),
    ):
        status, text = send(tail, **options)
        assert status == 400 and message in text, text
    assert httpx.get(reward_server + INFER).json() == {"error": f"GET is not a method of {INFER}; it takes POST"}


def test_a_draining_server_lives_and_is_not_ready(reward_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(reward_folder, "reward") as (url, app):
        app.state.draining = True
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert not client.is_server_ready() and not client.is_model_ready("reward_model")
            with pytest.raises(InferenceServerException, match="shutting down"):
                client.infer("reward_model", inputs(["a"]))
