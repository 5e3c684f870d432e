# SPDX-License-Identifier: Apache-2.0
"""A policy in transformers' plain `pipeline`: it takes dials, and stops where its turn ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.pipelines.text_generation import Chat

from steerlm.inference.generator import TransformersGenerator
from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer
from steerlm.models.shape import ModelShape
from steerlm.prompt import TURN_MARK, render_prompt
from steerlm.records import Turn
from tests.models.conftest import OWN, Make

ASK = [{"role": "user", "content": "Where does the owl live?"}]
DIALS = {"attributes": {"wit": 9}}


@pytest.fixture
def policy(make_folder: Make, tokenizer_folder: Path, tmp_path: Path) -> Path:
    """A model that writes `B`, the mark, `C`, `B`, the mark, and so on, for ever.

    Its tokenizer has the mark as one token. Attention and feed-forward give zero, so that the next token follows from
    the last one alone.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.add_tokens([TURN_MARK])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    folder = make_folder(ModelInfo("policy", attributes=OWN), "policy", vocab_size=328)
    weights = {name: torch.zeros_like(weight) for name, weight in load_file(folder / "model.safetensors").items()}
    texts = (":9\n", "B", "C", TURN_MARK)  # the first as a prompt ends
    newline, b, c, mark = (tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in texts)
    after = [(newline, b), (b, mark), (mark, c), (c, b)]
    for place, (last, following) in enumerate(after):
        weights["model.embed_tokens.weight"][last, place] = 1
        weights["lm_head.weight"][following, place] = 1
    weights["model.norm.weight"] += 1
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shape = ModelShape.from_folder(folder)
    info = ModelInfo("policy", attributes=OWN)
    finish_folder(folder, shape=shape, tokenizer_from=tmp_path / "tokenizer", info=info, dtype="float32")
    return folder


def test_the_pipeline_stops_at_the_next_turns_mark(policy: Path) -> None:
    pipe: Any = pipeline("text-generation", str(policy))
    (answer,) = pipe(ASK, max_new_tokens=8, do_sample=False, tokenizer_encode_kwargs=DIALS)
    assert answer["generated_text"][-1] == {"role": "assistant", "content": f"B{TURN_MARK}"}
    mark = AutoTokenizer.from_pretrained(policy).convert_tokens_to_ids(TURN_MARK)
    settings = json.loads((policy / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [1, mark]
    model: Any = AutoModelForCausalLM.from_pretrained(policy)  # as vLLM too reads the ids, and no `stop_strings`
    assert model.generation_config.eos_token_id == [1, mark] and model.generation_config.stop_strings is None
    model.generation_config.eos_token_id = 1
    pipe = pipeline("text-generation", model, tokenizer=AutoTokenizer.from_pretrained(policy))
    (answer,) = pipe(ASK, max_new_tokens=8, do_sample=False)
    assert answer["generated_text"][-1]["content"].startswith(f"B{TURN_MARK}CB{TURN_MARK}C")  # what it did before


def test_the_pipeline_passes_dials_on(policy: Path) -> None:
    pipe: Any = pipeline("text-generation", str(policy))
    with pytest.raises(Exception, match=r"attribute wit must be an integer 0\.\.9, not 10"):
        pipe(ASK, max_new_tokens=1, tokenizer_encode_kwargs={"attributes": {"wit": 10}})
    ids = pipe.preprocess(Chat(ASK), tokenizer_encode_kwargs=DIALS)["input_ids"][0].tolist()
    label = OWN.format(OWN.complete({"wit": 9}))
    text = render_prompt([Turn(value=ASK[0]["content"], speaker="User")], label)
    assert ids == load_tokenizer(policy)(text)["input_ids"]


def test_our_own_generation_ends_before_the_mark(policy: Path) -> None:
    prompt = render_prompt([Turn(value=ASK[0]["content"], speaker="User")], OWN.format(OWN.complete({"wit": 9})))
    ((answer,),) = TransformersGenerator(policy).generate([prompt])
    assert (answer.text, answer.finish_reason) == ("B", "stop")


def test_a_mark_of_several_tokens_is_named_by_the_caller(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("policy", attributes=OWN))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 1
    pipe: Any = pipeline("text-generation", str(folder))
    (answer,) = pipe(ASK, max_new_tokens=4, do_sample=False, tokenizer_encode_kwargs=DIALS, stop_sequence=TURN_MARK)
    assert answer["generated_text"][-1]["role"] == "assistant"
