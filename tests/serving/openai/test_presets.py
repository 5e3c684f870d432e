# SPDX-License-Identifier: Apache-2.0
"""Presets: a model id with dials, beneath those of the request; a file that is wrong fails at the start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from steerlm.cli.main import call
from tests.serving.conftest import ANSWERS, QUESTION, running

PRESETS = """\
funny:
  description: As funny as can be
  attributes: {humor: 4}
sober.v2:
  attributes: {humor: 0}
"""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 30}


@pytest.fixture(scope="module")
def server(taught_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("presets") / "presets.yaml"
    path.write_text(PRESETS)
    with running(taught_folder, "generate", presets=path) as (url, _):
        yield url


def test_a_preset_is_a_model_with_dials(server: str) -> None:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["taught", "taught:funny", "taught:sober.v2"]
        assert client.models.retrieve("taught:funny").to_dict()["attributes"] == {"humor": 4}
        for model, humor in (("taught:funny", 4), ("taught:sober.v2", 0)):
            reply = client.chat.completions.create(model=model, messages=CHAT["messages"], temperature=0, max_tokens=30)
            assert reply.choices[0].message.content == ANSWERS[humor]
            assert reply.model == model
            assert reply.steerlm["attributes"]["humor"] == humor  # type: ignore[attr-defined]
    presets = httpx.get(f"{server}/v1/model").json()["presets"]
    assert presets["funny"] == {"attributes": {"humor": 4}, "description": "As funny as can be"}


def test_dials_of_the_request_win(server: str) -> None:
    for dials in ({"attributes": {"humor": 0}}, {"chat_template_kwargs": {"humor": 0}}):
        body = {**CHAT, "model": "taught:funny", **dials}
        reply = httpx.post(f"{server}/v1/chat/completions", json=body).json()
        assert reply["choices"][0]["message"]["content"] == ANSWERS[0]
    kept = httpx.post(
        f"{server}/v1/chat/completions", json={**CHAT, "model": "taught:funny", "attributes": {"quality": 4}}
    ).json()
    assert kept["steerlm"]["attributes"] == {"quality": 4, "toxicity": 0, "humor": 4}


def test_ask_with_a_preset(
    server: str, taught_server: str, taught_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, humor in (
        (["funny"], 4),
        (["sober.v2"], 0),
        (["funny", "--humor", "0"], 0),
    ):
        assert call(["ask", QUESTION, "--url", server, "--show-attributes", "--preset", *words]) == 0
        out, err = capfd.readouterr()
        assert (out, f"humor:{humor}" in err) == (f"{ANSWERS[humor]}\n", True)
    for words, message in (
        (["--url", server, "--preset", "fumny"], "has no preset 'fumny'; it has funny, sober.v2"),
        (["--url", taught_server, "--preset", "funny"], "has no presets; its server takes them with"),
        (["--model", str(taught_folder), "--preset", "funny"], "a model folder (--model) has none"),
    ):
        assert call(["ask", QUESTION, *words]) == 2
        assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("route", "body", "status", "message"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "taught:fumny"}, 404, "did you mean 'taught:funny'"),
        ("/v1/chat/completions", {**CHAT, "model": "funny"}, 404, "no model 'funny'"),
        ("/v1/completions", {"prompt": "A", "model": "taught:funny"}, 400, "a preset sets the dials of a chat"),
    ],
)
def test_what_is_refused(route: str, body: dict[str, Any], status: int, message: str, server: str) -> None:
    reply = httpx.post(server + route, json=body)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == "model"
    assert httpx.get(f"{server}/v1/models/taught:fumny").status_code == 404


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "presets.yaml"),
        ("a: {attributes: {humour: 4}}", "a.attributes: unknown attribute 'humour'"),
        ("a: {attributes: {humor: 9}}", "a.attributes: "),
        ("a: {attributes: {warmth: 1}}", "a.attributes: "),
        ("a: {atributes: {humor: 4}}", "presets.yaml:1: unknown key 'a.atributes'; did you mean"),
        ("a: {description: none}", "a: no attributes"),
        ("a: {attributes: {humor: much}}", "presets.yaml:1: a.attributes.humor"),
        ("a b: {attributes: {humor: 4}}", "'a b'"),
        ("- a", "presets.yaml"),
        ("a: [", "presets.yaml:1"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_fails_at_the_start(
    text: str | None, message: str, taught_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "presets.yaml"
    if text is not None:
        path.write_text(text)
    assert call(["serve", "generate", str(taught_folder), "--port", "0", "--presets", str(path)]) == 2
    assert message in capfd.readouterr().err
