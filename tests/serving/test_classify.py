# SPDX-License-Identifier: Apache-2.0
"""`/classify` returns what vLLM returns for the same folder; tests/vllm compares the scores with a real one."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from steerlm.inference.scorer import TransformersScorer
from steerlm.models.folder import load_tokenizer
from tests.serving.conftest import SCHEMA

TEXTS = [f"<extra_id_1>User\n{'dog cat ' * i}{i}\n<extra_id_2>" for i in range(3)]
MESSAGES = [{"role": "user", "content": "What is a good pet?"}, {"role": "assistant", "content": "A dog."}]


def post(server: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server}/classify", json=body, timeout=60)


def test_texts_and_token_ids(reward_server: str, reward_folder: Path) -> None:
    expected = TransformersScorer(reward_folder).score(TEXTS)
    ids = load_tokenizer(reward_folder)(TEXTS, add_special_tokens=False)["input_ids"]
    for given, scores in ((TEXTS, expected), (ids, expected), (TEXTS[0], expected[:1]), (ids[0], expected[:1])):
        reply = post(reward_server, model="reward", input=given, user="me", use_activation=True).json()
        assert [one["index"] for one in reply["data"]] == list(range(len(scores)))
        np.testing.assert_allclose([one["probs"] for one in reply["data"]], scores, atol=1e-5)
        for one, row in zip(reply["data"], scores, strict=True):
            assert one["num_classes"] == len(SCHEMA.names) and one["label"] == SCHEMA.names[int(np.argmax(row))]
    assert reply["object"] == "list" and reply["model"] == "reward" and reply["id"].startswith("classify-")
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == len(ids[0])


@pytest.mark.parametrize("system", [None, "You are a pirate."])
def test_messages_become_the_text_of_the_folder_s_template(
    system: str | None, reward_server: str, reward_folder: Path
) -> None:
    messages = [{"role": "system", "content": system}, *MESSAGES] if system else MESSAGES
    for chosen in (messages, messages[:-1]):
        text = load_tokenizer(reward_folder).apply_chat_template(chosen, tokenize=False)
        reply = post(reward_server, messages=chosen, add_generation_prompt=False).json()
        np.testing.assert_allclose(
            reply["data"][0]["probs"], TransformersScorer(reward_folder).score([text])[0], atol=1e-5
        )


def test_bad_requests_are_refused_by_name(reward_server: str) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({}, 400, "either input or messages"),
        ({"input": TEXTS, "messages": MESSAGES}, 400, "either input or messages"),
        ({"input": "no mark"}, 400, "input must end with the read-out mark"),
        ({"input": [TEXTS[0], "no mark"]}, 400, "input[1] must end"),
        ({"input": [[5], [100000]]}, 400, "input[1] has the token id 100000"),
        ({"input": [[5], []]}, 400, "input[1] is empty"),
        ({"input": 5}, 400, "input is 5; a text or a list"),
        ({"input": "dog " * 600 + "<extra_id_2>"}, 413, "window is 400"),
        ({"input": TEXTS, "add_special_tokens": True}, 400, "add_special_tokens is not supported"),
        ({"input": TEXTS, "truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens is not supported"),
        ({"input": TEXTS, "humor": 4}, 400, "unknown field 'humor'"),
        ({"input": TEXTS, "model": "rewrad"}, 404, "did you mean 'reward'?"),
        ({"messages": []}, 400, "no message to score"),
    ]
    for body, status, message in cases:
        reply = post(reward_server, **body)
        assert reply.status_code == status and message in reply.json()["error"]["message"], reply.text
