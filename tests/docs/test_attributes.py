# SPDX-License-Identifier: Apache-2.0
"""docs/attributes.md: its commands, its prompt and its refusals, on a policy of random weights with its dials."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from steerlm.attributes import HELPSTEER, OASST, AttributeSchema
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import ModelShape
from steerlm.recipe import load_recipe
from steerlm.serving.config import ServeSettings
from steerlm.serving.run import build_app
from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks, working_in
from tests.tiny_models import tiny_base

pytestmark = pytest.mark.timeout(600)
DOCUMENT = ROOT / "docs" / "attributes.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the document was run; its policy has random weights and the recipe's attributes."""
    folder = tmp_path_factory.mktemp("attributes")
    policy = tiny_base(folder / "models" / "policy", max_position_embeddings=512)
    (folder / "recipe.yaml").write_text(next(b.text for b in blocks(DOCUMENT) if b.name == "own.yaml"))
    schema = load_recipe(folder / "recipe.yaml").recipe.attributes
    info = ModelInfo(kind="policy", attributes=schema.restricted(schema.names), window=512)
    shape = ModelShape.from_folder(policy)
    finish_folder(policy, shape=shape, tokenizer_from=policy / "tokenizer", info=info, dtype="float32")
    with working_in(folder):
        Shell().run(DOCUMENT)
    return folder


def test_the_commands_and_the_prompt_say_what_the_page_shows(folder: Path) -> None:
    file = folder / "attributes.yaml"
    assert file.exists(), "the page was run to its end"
    from steerlm.datasets.config import read_schema

    assert read_schema(file) == AttributeSchema(names=("warm", "brief", "bold"), high=9)


def test_the_server_refuses_as_the_page_shows(folder: Path) -> None:
    request, reply = [json.loads(b.text) for b in blocks(DOCUMENT) if b.language == "json"]
    with TestClient(build_app(folder / "models" / "policy", "generate", ServeSettings())) as client:
        refused = client.post("/v1/chat/completions", json=request)
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == reply["error"]["message"]
        del request["chat_template_kwargs"]["attributes"]["humour"]
        answered: dict[str, Any] = client.post("/v1/chat/completions", json=request).json()
    assert answered["steerlm"]["attributes"] == {"warm": 3, "brief": 2, "bold": 9}


def test_the_nine_are_named() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").replace("\n", " ")
    assert f"{', '.join(OASST)} (OASST), {', '.join(HELPSTEER)} (HelpSteer)" in text
    assert (ROOT / "tests" / "pipelines" / "test_own_attributes.py").exists()
