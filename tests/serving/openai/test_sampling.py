# SPDX-License-Identifier: Apache-2.0
"""Sampling fields of the OpenAI routes, over HTTP: penalties, bias, filters and seeds."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from steerlm.inference.loading import LoadedModel, load

PROMPT = "What is a good pet? A dog, a cat. "
LENGTH = 24


def post(server: str, **body: Any) -> httpx.Response:
    asked = {"prompt": PROMPT, "temperature": 0, "max_tokens": LENGTH, "min_tokens": LENGTH, **body}
    return httpx.post(f"{server}/v1/completions", json=asked, timeout=60)


def texts(server: str, **body: Any) -> list[str]:
    reply = post(server, **body)
    assert reply.status_code == 200, reply.text
    return [choice["text"] for choice in reply.json()["choices"]]


@pytest.fixture(scope="module")
def loaded(policy_folder: Path) -> LoadedModel:
    return load(policy_folder, head=False)


def generated(loaded: LoadedModel, **settings: Any) -> str:
    """The text of transformers' own `generate`."""
    ids = loaded.tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    length = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH}
    out = loaded.model.generate(**ids, do_sample=False, **length, **settings)[0, ids["input_ids"].shape[1] :]
    text: str = loaded.tokenizer.decode(out, skip_special_tokens=True)
    return text


def penalized(loaded: LoadedModel, frequency: float, presence: float, bias: dict[int, float]) -> str:
    """Greedy text with OpenAI's formula written out."""
    prompt = loaded.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    answer: list[int] = []
    for _ in range(LENGTH):
        with torch.no_grad():
            row = loaded.model(torch.tensor([prompt + answer])).logits[0, -1]
        for token in set(answer):
            row[token] -= answer.count(token) * frequency + presence
        for token, value in bias.items():
            row[token] += value
        row[loaded.tokenizer.eos_token_id] = -torch.inf
        answer.append(int(row.argmax()))
    text: str = loaded.tokenizer.decode(answer)
    return text


def test_the_repetition_penalty_at_temperature_0_is_that_of_generate(policy_server: str, loaded: LoadedModel) -> None:
    penalties = (1.0, 1.5, 3.0, 0.9)
    answers = [texts(policy_server, repetition_penalty=penalty)[0] for penalty in penalties]
    assert answers == [generated(loaded, repetition_penalty=penalty) for penalty in penalties]
    assert len(set(answers)) >= 3


def test_frequency_and_presence_penalty_and_bias(policy_server: str, loaded: LoadedModel) -> None:
    common = int(loaded.tokenizer(" dog", add_special_tokens=False)["input_ids"][0])
    cases: list[tuple[float, float, dict[int, float]]] = [
        (0.0, 0.0, {}),
        (2.0, 0.0, {}),
        (0.0, 2.0, {}),
        (-1.5, 0.5, {}),
        (0.0, 0.0, {common: 3.5}),
        (2.0, 0.0, {common: 100.0}),
    ]
    answers = []
    for frequency, presence, bias in cases:
        fields = {"frequency_penalty": frequency, "presence_penalty": presence, "logit_bias": bias}
        (answer,) = texts(policy_server, **fields)
        assert answer == penalized(loaded, frequency, presence, bias)
        answers.append(answer)
    assert len(set(answers)) >= 5
    only = {int(token): 100 for token in loaded.tokenizer("owl", add_special_tokens=False)["input_ids"][:1]}
    assert len(set(texts(policy_server, logit_bias=only, temperature=1, seed=1)[0])) == 1


def test_top_p_of_0_is_greedy(policy_server: str) -> None:
    greedy = texts(policy_server)
    assert texts(policy_server, temperature=1.5, top_p=0, n=3) == greedy * 3
    assert texts(policy_server, temperature=1.5, top_p=0, repetition_penalty=1.5) == texts(
        policy_server, repetition_penalty=1.5
    )


def test_every_integer_is_a_seed_with_answers_of_its_own(policy_server: str) -> None:
    seeds = [0, 1, -1, 2, -2, 1 << 31, -(1 << 63), 1 << 64, 10**300, -(10**300)]
    answers = [texts(policy_server, temperature=1.5, seed=seed, n=3) for seed in seeds]
    assert len({text for three in answers for text in three}) == 3 * len(seeds)
    assert answers == [texts(policy_server, temperature=1.5, seed=seed, n=3) for seed in seeds]
    assert texts(policy_server, temperature=1.5, seed=-1, n=1) == answers[2][:1]
    several = texts(policy_server, prompt=[PROMPT, PROMPT], temperature=1.5, seed=-1)
    assert several == answers[2][:2], "the answers to one request have one stream each, over all its prompts"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 2.1),
        ("presence_penalty", -3),
        ("logit_bias", {"100000": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"dog": 1}),
        ("logit_bias", [5]),
        ("repetition_penalty", 0),
        ("seed", 1.5),
        ("top_p", -0.1),
    ],
)
def test_values_out_of_range_are_refused_by_name(policy_server: str, field: str, value: Any) -> None:
    reply = post(policy_server, **{field: value})
    assert reply.status_code == 400, reply.text
    assert field in reply.json()["error"]["param"]
