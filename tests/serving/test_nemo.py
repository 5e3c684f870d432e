# SPDX-License-Identifier: Apache-2.0
"""`PUT /generate`: the wire format (docs/upstream.md#put-generate-fields) and the tutorial's client."""

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from steerlm.inference.loading import load
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.serving.errors import ApiError
from steerlm.serving.nemo import FIELDS, parse_request
from tests.serving.conftest import ANSWERS, QUESTION

ASK = "<extra_id_1>User\nWhat is a good pet?\n<extra_id_1>Assistant\n"


def put(server: str, body: Any) -> httpx.Response:
    return httpx.put(f"{server}/generate", json=body, timeout=120)


def test_stories_golden(stories_server: str, shared_data: Path) -> None:
    reply = put(stories_server, {"sentences": [""], "tokens_to_generate": 200, "greedy": True, "add_BOS": True})
    assert reply.status_code == 200, reply.text
    golden = (shared_data / "goldens" / "stories260K_greedy_200.txt").read_text()
    assert reply.json()["sentences"] == [golden]


def test_reply_of_several_sentences(policy_server: str, policy_folder: Path) -> None:
    prompts = [ASK, "A dog, a cat. ", "quality"]
    body = {"sentences": prompts, "tokens_to_generate": 12, "greedy": True, "compute_logprob": True}
    reply = put(policy_server, body).json()
    loaded = load(policy_folder, head=False)
    tokenizer = loaded.tokenizer
    assert set(reply) == {"sentences", "tokens", "logprob", "full_logprob", "token_ids", "offsets"}
    assert len({len(row) for row in reply["token_ids"]}) == 1
    for k, prompt in enumerate(prompts):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            expected = loaded.model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id
            )[0].tolist()
        got = reply["token_ids"][k]
        assert got[: len(expected)] == expected
        assert set(got[len(expected) :]) <= {tokenizer.eos_token_id}
        assert reply["tokens"][k] == tokenizer.convert_ids_to_tokens(got)
        assert reply["sentences"][k] == tokenizer.decode([i for i in expected if i > 2])
        assert reply["sentences"][k].startswith(prompt)
        assert len(reply["logprob"][k]) == len(got) - 1
        with torch.no_grad():
            logs = loaded.model(torch.tensor([expected])).logits[0].log_softmax(-1)
        assert reply["logprob"][k][: len(expected) - 1] == pytest.approx(
            [float(logs[i, token]) for i, token in enumerate(expected[1:])], abs=1e-4
        )
        starts = reply["offsets"][k]
        assert len(starts) == len(got) and starts == sorted(starts)
        for i in range(len(ids) - 1):
            assert prompt[starts[i] : starts[i + 1]] == tokenizer.decode([ids[i]])
    assert put(policy_server, {**body, "compute_logprob": False}).json()["logprob"] is None


def test_end_strings_stay_in_the_sentence(stories_server: str) -> None:
    body = {"sentences": [""], "tokens_to_generate": 200, "greedy": True, "add_BOS": True, "end_strings": ["the park"]}
    assert put(stories_server, body).json()["sentences"] == [
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park"
    ]


def test_sampling(policy_server: str) -> None:
    body = {"sentences": [ASK, ASK], "tokens_to_generate": 20, "temperature": 1.5, "top_p": 1.0, "random_seed": 3}
    first, second = (put(policy_server, body).json()["sentences"] for _ in range(2))
    assert first == second and first[0] != first[1]
    assert put(policy_server, {**body, "random_seed": 4}).json()["sentences"] != first
    greedy = put(policy_server, {**body, "greedy": True}).json()["sentences"]
    assert put(policy_server, {**body, "top_k": 1}).json()["sentences"] == greedy
    long = put(policy_server, {**body, "min_tokens_to_generate": 20, "temperature": 30.0}).json()
    assert [len(row) for row in long["token_ids"]] == [len(long["token_ids"][0])] * 2


def test_the_penalty_divides_tokens_of_prompt_and_answer(policy_server: str, policy_folder: Path) -> None:
    loaded = load(policy_folder, head=False)
    ids = loaded.tokenizer(ASK, add_special_tokens=False)["input_ids"]
    body = {"sentences": [ASK], "tokens_to_generate": 25, "min_tokens_to_generate": 25, "top_k": 1}
    got: dict[float, list[int]] = {}
    for penalty in (1.0, 5.0):
        got[penalty] = put(policy_server, {**body, "repetition_penalty": penalty}).json()["token_ids"][0]
        expected = list(ids)
        for _ in range(25):
            with torch.no_grad():
                row = loaded.model(torch.tensor([expected])).logits[0, -1]
            row[sorted(set(expected))] /= penalty
            row[loaded.tokenizer.eos_token_id] = -torch.inf
            expected.append(int(row.argmax()))
        assert got[penalty] == expected
    assert got[1.0] != got[5.0]


def test_greedy_ignores_the_penalty_and_top_p_of_0_is_no_filter_as_upstream(policy_server: str) -> None:
    body = {"sentences": [ASK], "tokens_to_generate": 20, "min_tokens_to_generate": 20}
    greedy = put(policy_server, {**body, "greedy": True}).json()["sentences"]
    assert put(policy_server, {**body, "greedy": True, "repetition_penalty": 5.0}).json()["sentences"] == greedy
    warm = {**body, "temperature": 30.0, "random_seed": 3}
    one, other = (put(policy_server, {**warm, "top_p": value}).json()["sentences"] for value in (0, 1.0))
    assert one == other != greedy


def test_all_probabilities(policy_server: str, policy_folder: Path) -> None:
    loaded = load(policy_folder, head=False)
    prompts = ["quality:4", "A dog, a cat. "]
    body = {"sentences": prompts, "tokens_to_generate": 3, "min_tokens_to_generate": 3, "greedy": True}
    reply = put(policy_server, {**body, "all_probs": True, "compute_logprob": True}).json()
    size = len(loaded.tokenizer)
    longest = len(reply["token_ids"][0])
    for k, prompt in enumerate(prompts):
        length = len(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 3
        ids = reply["token_ids"][k][:length]
        with torch.no_grad():
            expected = loaded.model(torch.tensor([ids])).logits[0, :-1, :size].log_softmax(-1)
        full = torch.tensor(reply["full_logprob"][k])
        assert full.shape == (longest - 1, size)
        torch.testing.assert_close(full[: length - 1], expected, atol=1e-4, rtol=0)
        own = full[range(length - 1), ids[1:]].tolist()
        assert reply["logprob"][k][: length - 1] == pytest.approx(own, abs=1e-5)
    assert put(policy_server, body).json()["full_logprob"] is None


WRONG: list[tuple[str, list[Any], str]] = [
    ("tokens_to_generate", [0, -1, "5", 1.5, None], "tokens_to_generate must be an integer greater than 0"),
    ("all_probs", [1, "true", None], "all_probs must be a boolean value"),
    ("temperature", [0, -1, 101, "1", None], "temperature must be a positive number less than or equal to 100.0"),
    ("add_BOS", [1, "no"], "add_BOS must be a boolean value"),
    ("greedy", [0, "yes"], "greedy must be a boolean value"),
    ("top_k", [-1, "3", None], "top_k must be a positive integer number"),
    ("top_p", [-0.1, 1.1, "1"], "top_p must be a positive number less than or equal to 1.0"),
    ("repetition_penalty", [0.9, "2"], "repetition_penalty must be a positive number no less than 1.0"),
    ("end_strings", ["x", [1], None], "expect end_strings to be a list of strings"),
    ("min_tokens_to_generate", [-1, 0.5], "min_tokens_to_generate must be an integer no less than 0"),
    ("compute_logprob", [1, None], "compute_logprob must be a boolean value"),
    ("random_seed", [-1, 0.5, "1"], "random_seed must be a positive integer number or None"),
]


def test_messages_of_the_fields(policy_server: str) -> None:
    assert {name for name, _, _ in WRONG} == set(FIELDS)
    for name, values, message in WRONG:
        for value in values:
            with pytest.raises(ApiError) as caught:
                parse_request({"sentences": ["a"], name: value})
            assert str(caught.value) == message
        reply = put(policy_server, {"sentences": ["a"], name: values[0]})
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, message)
        assert reply.json()["error"]["param"] == name


def test_other_bad_input(policy_server: str) -> None:
    for body, message in [
        ({}, "sentences must be given"),
        ({"sentences": "a"}, "sentences must be given"),
        ({"sentences": []}, "sentences must be given"),
        ({"sentences": ["a"] * 129}, "Maximum number of sentences is 128"),
        ([], "must be a JSON object"),
        ({"sentences": ["a"] * 128, "all_probs": True, "tokens_to_generate": 100}, "send fewer sentences"),
        ({"sentences": ["a"], "top_p": float("nan")}, "top_p must be"),
        ({"sentences": ["a"], "repetition_penalty": 10**400}, "repetition_penalty must be"),
        ({"sentences": ["a"], "top_k": 10**400}, "top_k must be"),
        ({"sentences": ["a"], "top_k": float("inf")}, "top_k must be"),
        ({"sentences": ["a"], "task_ids": [0]}, "task_ids"),
        ({"sentences": ["a"], "neighbors": 2}, "neighbors"),
        ({"sentences": ["a", ""]}, "sentences[1]: the prompt is empty"),
        ({"sentences": ["a"], "tokens_to_generate": 400}, "window is 400"),
        ({"sentences": ["a"], "top_k": 1e400}, "top_k must be"),
        ({"sentences": ["\ud800"]}, "not valid Unicode"),
    ]:
        reply = httpx.put(f"{policy_server}/generate", content=json.dumps(body).encode(), timeout=60)
        assert reply.status_code == 400, body
        assert message in reply.json()["error"]["message"]
    assert "not JSON" in httpx.put(f"{policy_server}/generate", content=b"{").json()["error"]["message"]
    assert httpx.put(f"{policy_server}/generate", content=b"[" * 100000).status_code == 400
    unknown = put(policy_server, {"sentences": ["a"], "unknown": 1, "tokens_to_generate": 1})
    assert unknown.status_code == 400 and "unknown field 'unknown'" in unknown.json()["error"]["message"]
    assert put(policy_server, {"sentences": ["a"], "tokens_to_generate": True}).status_code == 200  # as upstream


def test_upstream_errors_are_strings_with_200(policy_folder: Path, serving: Callable[..., Any]) -> None:
    with serving(policy_folder, "generate", upstream_errors=True) as (url, _):
        reply = put(url, {"sentences": ["a"], "top_k": -1})
        assert (reply.status_code, reply.json()) == (200, "top_k must be a positive integer number")
        assert put(url, {"sentences": ["a"], "unknown": 1, "tokens_to_generate": 1}).json()["sentences"]
        assert "write the dials into it" in put(url, {"sentences": ["a"], "humor": 1}).json()
        reply = put(url, {"sentences": ["a"] * 129})
        assert (reply.status_code, reply.json()) == (400, "Maximum number of sentences is 128")


def test_128_sentences_and_64_clients(policy_server: str) -> None:
    many = [f"dog {i}" for i in range(128)]
    body = {"tokens_to_generate": 4, "greedy": True, "min_tokens_to_generate": 4}
    together = put(policy_server, {"sentences": many, **body}).json()["sentences"]
    with ThreadPoolExecutor(64) as pool:
        alone = list(
            pool.map(lambda s: put(policy_server, {"sentences": [s], **body}).json()["sentences"][0], many[:64])
        )
    assert alone == together[:64]


def test_the_client_of_the_tutorial(taught_server: str) -> None:
    """It slices with the length of the unfilled template and keeps the end string."""
    template = (
        f"<extra_id_0>System\n{SYSTEM_PROMPT}\n<extra_id_1>User\n{{prompt}}\n"
        "<extra_id_1>Assistant\n<extra_id_2>{values}\n"
    )
    sentences = [template.format(prompt=QUESTION, values="quality:4,toxicity:0,humor:0")]
    data = {
        "sentences": sentences,
        "tokens_to_generate": 40,
        "top_k": 1,
        "greedy": True,
        "end_strings": ["<extra_id_1>"],
    }
    request = urllib.request.Request(
        f"{taught_server}/generate", json.dumps(data).encode(), {"Content-Type": "application/json"}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        sentence = json.load(reply)["sentences"][0]
    assert sentence[len(template) :].endswith(f"humor:0\n{ANSWERS[0]}\n<extra_id_1>")
    assert sentence[len(sentences[0]) :] == f"{ANSWERS[0]}\n<extra_id_1>"
