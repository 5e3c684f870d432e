# SPDX-License-Identifier: Apache-2.0
"""Folders that training makes load in plain transformers, say what they are, and are complete or not there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.models.card import snippet
from steerlm.models.families import FAMILIES
from steerlm.models.folder import ModelInfo, finish_folder, load_tokenizer, read_info
from steerlm.models.shape import ModelShape
from steerlm.prompt import LABEL_MARK, render_prompt, render_readout
from steerlm.records import Conversation, Turn
from tests.models.conftest import OWN, Make

NINE = AttributeSchema(defaults={"toxicity": 0}).restricted(["quality", "toxicity", "humor"])
SCHEMAS = pytest.mark.parametrize("schema", [NINE, OWN], ids=["nine", "own"])
QUESTION, ANSWER = "Where does the owl live?", "In the old barn."
ASK = {"role": "user", "content": QUESTION}
TOLD = ModelInfo(
    "policy",
    attributes=NINE,
    window=256,
    base="some/base-7b@abc123",
    license="llama2",
    metrics={"loss": 1.25, "pearson/wit": 0.9},
    data={"train": {"units": 7, "labels/wit": 3}},
)
"""Everything that can be said of a model."""


def load(kind: Any, folder: Path) -> Any:
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, unexpected or of another shape
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["base", "policy", "reward"])
def test_folders_of_every_family_load_as_of_that_family(make_folder: Make, family: str, kind: Any) -> None:
    folder = make_folder(ModelInfo(kind, attributes=None if kind == "base" else OWN), family=family)
    reward = kind == "reward"
    model = load(AutoModelForSequenceClassification if reward else AutoModelForCausalLM, folder)
    assert type(model).__name__ == FAMILIES[family].architecture(reward=reward)
    assert model.config.architectures == [type(model).__name__] and model.config.model_type == family
    assert f"{FAMILIES[family].name} architecture" in (folder / "README.md").read_text()
    assert ModelShape.from_folder(folder).model_type == family


@SCHEMAS
@pytest.mark.parametrize("tied", [False, True])
def test_a_policy_loads_in_plain_transformers(make_folder: Make, schema: AttributeSchema, tied: bool) -> None:
    folder = make_folder(ModelInfo("policy", attributes=schema, window=256), tie_word_embeddings=tied)
    model, tokenizer = load(AutoModelForCausalLM, folder), AutoTokenizer.from_pretrained(folder)
    dial = schema.active[-1]
    inputs = tokenizer.apply_chat_template(
        [ASK], add_generation_prompt=True, return_tensors="pt", return_dict=True, attributes={dial: schema.low}
    )
    label = schema.format(schema.complete({dial: schema.low}))
    wanted = load_tokenizer(folder)(render_prompt([Turn(value=QUESTION, speaker="User")], label))["input_ids"]
    assert inputs["input_ids"][0].tolist() == wanted
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert out.shape == (1, len(wanted) + 3)
    with pytest.raises(Exception, match=f"attribute {dial} must be an integer {schema.low}..{schema.high}"):
        tokenizer.apply_chat_template([ASK], add_generation_prompt=True, attributes={dial: schema.high + 1})


def test_prompts_of_different_lengths_answer_alike_in_one_batch(make_folder: Make) -> None:
    """The folder's tokenizer pads on the left, with a token it has: what generation in plain transformers needs."""
    folder = make_folder(ModelInfo("policy", attributes=OWN), initializer_range=0.3)
    model, tokenizer = load(AutoModelForCausalLM, folder), AutoTokenizer.from_pretrained(folder)
    chats = [[ASK], [ASK | {"content": "Why?"}]]
    settings: dict[str, Any] = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    batch = tokenizer.apply_chat_template(chats, padding=True, **settings)
    together = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, batch["input_ids"].shape[1] :]
    for row, chat in zip(together, chats, strict=True):
        inputs = tokenizer.apply_chat_template(chat, **settings)
        alone = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert torch.equal(alone, row)


@SCHEMAS
def test_a_reward_model_loads_in_plain_transformers(make_folder: Make, schema: AttributeSchema) -> None:
    folder = make_folder(ModelInfo("reward", attributes=schema))
    model, tokenizer = load(AutoModelForSequenceClassification, folder), AutoTokenizer.from_pretrained(folder)
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == list(schema.names)
    assert model.config.label2id == {name: i for i, name in enumerate(schema.names)}
    assert model.config.problem_type == "regression" and model.score.bias is None
    assert not hasattr(model, "lm_head") and not (folder / "generation_config.json").exists()
    turns = [Turn(value=QUESTION, speaker="User"), Turn(value=ANSWER, speaker="Assistant")]
    text = render_readout(Conversation(conversations=turns), 1)
    inputs = tokenizer(text, return_tensors="pt")
    hidden = model.model(**inputs).last_hidden_state[0, -1]
    assert torch.allclose(model(**inputs).logits[0], model.score.weight @ hidden, atol=1e-6)
    # The folder's chat template writes the same text, for engines that score messages.
    messages = [ASK, {"role": "assistant", "content": ANSWER}]
    assert tokenizer.apply_chat_template(messages)["input_ids"] == inputs["input_ids"][0].tolist()


def test_a_reward_model_scores_padded_texts_as_it_scores_them_alone(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("reward", attributes=OWN))
    model, tokenizer = load(AutoModelForSequenceClassification, folder), AutoTokenizer.from_pretrained(folder)
    texts = [f"{'An owl. ' * n}\n{LABEL_MARK}" for n in (1, 9, 4)]
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.pad_token_id not in {tokenizer(text)["input_ids"][-1] for text in texts}
    for side in ("right", "left"):
        batch = tokenizer(texts, padding=True, return_tensors="pt", padding_side=side)
        assert torch.allclose(model(**batch).logits, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["base", "reward", "policy"])
def test_the_snippet_of_the_card_runs(make_folder: Make, kind: Any) -> None:
    info = ModelInfo(kind, attributes=None if kind == "base" else OWN)
    folder = make_folder(info)
    card = (folder / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert snippet(info).rstrip() in code
    found: dict[str, Any] = {}
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), found)
    if kind == "reward":
        assert list(found["scores"]) == list(OWN.names)
        assert all(isinstance(score, float) for score in found["scores"].values())
    if kind == "policy":
        assert isinstance(found["answer"], str)
        assert OWN.format(OWN.complete({})) in found["tokenizer"].decode(found["inputs"]["input_ids"][0])


def test_the_card_says_what_the_model_is(make_folder: Make) -> None:
    card = (make_folder(TOLD) / "README.md").read_text()
    front, _, text = card.removeprefix("---\n").partition("---\n")
    assert 'base_model: "some/base-7b"\n' in front and 'license: "llama2"\n' in front
    assert "Base model: some/base-7b@abc123, license: llama2." in text
    assert "| toxicity | yes | 0 |" in text and "| quality | yes | 4 |" in text and "| verbosity | no |  |" in text
    assert "Attributes, 0..4" in text and '"loss": 1.25' in text and '"units": 7' in text and "256 tokens" in text


def test_the_card_says_what_was_dropped(make_folder: Make) -> None:
    counts = {"records": 6228, "units": 1864, "dropped_over_long": 4364}
    card = (make_folder(replace(TOLD, data={"train": counts, "validation": {"records": 4}})) / "README.md").read_text()
    assert "## Data\n\ntrain data: 4,364 of 6,228 conversations dropped (70.1%): longer than the window.\n\n```" in card


def test_what_is_written_is_read_again(make_folder: Make) -> None:
    info = replace(TOLD, kind="reward", attributes=OWN)
    folder = make_folder(info)
    assert read_info(folder) == info
    raw = json.loads((folder / "steerlm.json").read_text())
    assert (raw["format"], raw["kind"], raw["prompt_version"]) == (1, "reward", 1)
    assert AttributeSchema.model_validate(raw["attributes"]) == OWN


def test_a_base_model_keeps_its_own_template_and_bos(make_folder: Make) -> None:
    folder = make_folder(ModelInfo("base"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == "{{ 'of the base model' }}"
    assert tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id
    assert json.loads((folder / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 1}


@pytest.mark.parametrize("kind", ["reward", "policy"])
def test_an_inherited_template_does_not_compete(make_folder: Make, kind: Any) -> None:
    folder = make_folder(ModelInfo(kind, attributes=OWN))
    assert "of the base model" not in "".join(path.read_text() for path in folder.glob("*.j*"))
    assert load_tokenizer(folder).chat_template == (folder / "chat_template.jinja").read_text()


def test_the_license_of_the_base_is_passed_on(make_folder: Make) -> None:
    assert (make_folder(ModelInfo("policy", attributes=OWN)) / "LICENSE").read_text() == "Hand me on.\n"


def finish(folder: Path, tokenizer: Path, info: ModelInfo, **shape: int) -> None:
    sizes = ModelShape.from_folder(folder).model_copy(update=shape)
    finish_folder(folder, shape=sizes, tokenizer_from=tokenizer, info=info, dtype="float32")


def test_a_folder_is_complete_only_when_all_went_well(make_folder: Make, tokenizer_folder: Path) -> None:
    policy = ModelInfo("policy", attributes=OWN)
    folder = make_folder(policy)
    with pytest.raises(ModelError, match="its tokenizer has 320 tokens, the model's vocabulary 300"):
        finish(folder, tokenizer_folder, policy, vocab_size=300)
    assert not (folder / "steerlm.json").exists()  # an older one no longer says what lies there
    finish(folder, tokenizer_folder, policy)
    assert read_info(folder) == policy
    with pytest.raises(ModelError, match="needs its attributes"):
        finish(folder, tokenizer_folder, ModelInfo("reward"))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match="weights must be written first"):
        finish(folder, tokenizer_folder, policy)


def test_a_folder_can_be_finished_from_its_own_tokenizer(make_folder: Make) -> None:
    info = ModelInfo("policy", attributes=OWN)
    folder = make_folder(info)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    finish(folder, folder, info)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_from_elsewhere_is_a_base_model(tmp_path: Path) -> None:
    assert read_info(tmp_path) == ModelInfo("base")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama9\ntags: [a]\n---\n# Llama 9\n")
    assert read_info(tmp_path) == ModelInfo("base", license="llama9")
    (tmp_path / "fetched.json").write_text('{"uri": "hf://big/llama-9@main", "revision": "0a1b", "files": {}}')
    assert read_info(tmp_path) == ModelInfo("base", base="big/llama-9@0a1b", license="llama9")
    (tmp_path / "fetched.json").write_text('{"uri": "llama-9", "revision": null, "files": {}}')
    assert read_info(tmp_path).base is None
    for card in ("no front matter", "---\n- a list\n---\n", "---\n{: broken\n---\n", "---\nlicense: mit\n---\n"):
        (tmp_path / "README.md").write_text(card)
        assert read_info(tmp_path).license == ("mit" if "mit" in card else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a valid description"),
        ("[]", "not a valid description"),
        ("5", "not a valid description"),
        ('{"kind": "base"}', "'format' is missing"),
        ('{"format": 1}', "'kind' is missing"),
        ('{"format": 2, "kind": "base"}', "update steerlm"),
        ('{"format": 1, "kind": "critic"}', "update steerlm"),
        ('{"format": 1, "kind": "base", "colour": 1}', "colour"),
        ('{"format": 1, "kind": "policy", "attributes": {"names": []}}', "attribute names must be given"),
    ],
)
def test_a_broken_description_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "steerlm.json").write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_info(tmp_path)
    assert str(tmp_path / "steerlm.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        read_info(tmp_path / "absent")


def test_a_folder_around_a_real_tokenizer(make_folder: Make, shared_data: Path) -> None:
    """Llama's own tokenizers have no padding token: <unk> is one, and ends no text."""
    folder = make_folder(ModelInfo("base"), vocab_size=512)
    finish(folder, shared_data / "stories260K", ModelInfo("reward", attributes=OWN))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer(f"Fine.\n{LABEL_MARK}")["input_ids"])[-1] == ">"
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == tokenizer.unk_token_id == 0
