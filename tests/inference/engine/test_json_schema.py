# SPDX-License-Identifier: Apache-2.0
"""Random tokens under a schema are JSON that conforms to it, whatever the tokenizer; others fail."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch

from steerlm.errors import InputError
from steerlm.inference.engine.continuation import Continuation
from steerlm.inference.engine.detokenizer import REPLACEMENT, Vocabulary
from steerlm.inference.engine.json_schema import JsonSchemas
from steerlm.inference.engine.sampling import adjust, select_tokens
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState
from steerlm.models.folder import load_tokenizer
from steerlm.prompt import MARKS, TURN_MARK, TURN_STOP_STRINGS

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["cat", "café", "犬"]}, "minItems": 1, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False}},
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "integer", "minimum": -5},
    {"type": "number", "minimum": -9, "maximum": 9},
    {"type": "string", "pattern": "^a+[0-9]{2}$"},
    {"enum": ["yes", "no", 5, None, {"a": [1]}]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
    {"type": "array", "items": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}},
]


class Model:
    """A tokenizer with what the engine makes of it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.end_ids = [self.tokenizer.eos_token_id]
        self.vocabulary = Vocabulary(self.tokenizer, visible=MARKS)
        self.schemas = JsonSchemas(self.tokenizer, self.end_ids)

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def start(self, schema: Any, limit: int, **params: Any) -> Continuation:
        grammar = self.schemas.compile(schema)
        chosen = SamplingParams(grammar=grammar, stop=TURN_STOP_STRINGS, **{"temperature": 1.0, "seed": 1} | params)
        return Continuation(SamplingState(chosen, self.ids("Assistant\n")), self.vocabulary, self.end_ids, limit)

    def generate(self, schema: Any, seed: int, favored: str = "", limit: int = 400) -> tuple[str, Continuation]:
        """The text of tokens drawn at random; those of `favored` are likely."""
        continuation = self.start(schema, limit, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        text = ""
        while continuation.finish_reason is None:
            logits = torch.randn(1, len(self.tokenizer), generator=generator)
            logits[:, self.ids(favored)] += 4.0
            (token,) = select_tokens(
                logits, [continuation.state], end_ids=self.end_ids, vocabulary_size=len(self.tokenizer)
            )
            text += continuation.append(token)
        return text, continuation


@pytest.fixture(scope="module", params=["byte-level BPE", "pieces and bytes, as sentencepiece's"])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param.startswith("byte-level"):
        return Model(request.getfixturevalue("tokenizer_folder"))
    shared: Path = request.getfixturevalue("shared_data")
    return Model(shared / "stories260K")


def test_every_token_has_the_bytes_of_its_text(model: Model) -> None:
    ours, theirs = model.vocabulary, model.schemas.tokenizer
    compared = 0
    for token in range(len(model.tokenizer)):
        (text, utf8), found = ours.token_text(token), theirs.decode_bytes([token])
        if token in ours.hidden_ids:
            assert theirs.is_special_token(token)
        elif not found:
            assert model.tokenizer.convert_ids_to_tokens(token) in ("ÿ", "<0xFF>"), "a byte that is in no text"
        elif utf8 is None:
            assert REPLACEMENT in found.decode(errors="replace")
        else:
            assert found == bytes(utf8), (token, text)
            compared += 1
    assert compared > 250
    text = 'A "naïve" 犬,\n\tand   more: {"a": [1, 2.5]} 🐕'
    assert model.schemas.tokenizer.decode_bytes(model.ids(text)).decode().lstrip(" ") == text


@pytest.mark.parametrize("schema", SCHEMAS)
def test_random_tokens_conform(model: Model, schema: Any) -> None:
    validator = jsonschema_rs.validator_for(schema)
    texts = set()
    for seed in range(6):
        text, continuation = model.generate(schema, seed, favored='"]}1 ')
        if continuation.finish_reason == "length":
            continue
        assert validator.is_valid(json.loads(text)), text
        texts.add(text)
    assert len(texts) > 1, "answers that differ"


def test_an_answer_ends_where_nothing_can_be_added(model: Model) -> None:
    text, continuation = model.generate({"const": {"a": True}}, 1)
    assert json.loads(text) == {"a": True} and continuation.finish_reason == "stop"
    assert continuation.state.tokens[-1] not in model.end_ids and continuation.stop_string is None


def test_a_number_ends_with_the_turn_where_the_model_knows_no_end_of_text(model: Model) -> None:
    for ending in (f"\n{TURN_MARK}", TURN_MARK):
        continuation = model.start({"type": "integer"}, 50, min_tokens=50)
        texts = []
        for token in [*model.ids("4")[-1:], *model.ids(f"2{ending}")[len(model.ids("2")) - 1 :]]:
            logits = torch.zeros(1, len(model.tokenizer))
            logits[0, token] = 9.0
            (chosen,) = select_tokens(
                logits, [continuation.state], end_ids=model.end_ids, vocabulary_size=len(model.tokenizer)
            )
            texts.append(continuation.append(chosen))
            if continuation.finish_reason:
                break
        assert ("".join(texts), continuation.finish_reason) == ("42", "stop")


def test_the_mark_of_a_turn_is_never_written_into_a_string(model: Model) -> None:
    schema = {"type": "string", "maxLength": 60}
    for seed in range(8):
        text, continuation = model.generate(schema, seed, favored=TURN_MARK * 2 + '"')
        assert TURN_MARK not in text and continuation.stop_string is None
        assert isinstance(json.loads(text), str)


def test_a_schema_whose_only_text_has_the_mark_fails_without_a_token(model: Model) -> None:
    continuation = model.start({"type": "string", "pattern": "^<extra_id_[1]>$"}, 50)
    matcher = continuation.state.matcher
    assert matcher is not None
    for token in model.schemas.tokenizer.greedy_tokenize('"<extra_id_1'):
        matcher.append(token)
    logits = torch.zeros(len(model.tokenizer))
    adjust(logits, continuation.state)
    assert matcher.error == "the schema allows no further token" and not logits.any()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "sentence"}, "Invalid type: sentence"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "'minimum'"),
        ({"type": "object", "required": 5}, "'required'"),
        ({"properties": [1]}, "properties must be an object"),
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, '"uniqueItems"'),
        ({"$ref": "http://127.0.0.1/a"}, "http://127.0.0.1/a"),
        ({"$ref": "#/$defs/b"}, "/$defs/b"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "format": "rhyme"}, "Unknown format: rhyme"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "minimum (5) is greater than maximum (1)"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "property 'a' is unsatisfiable"),
        ({"const": f"a{TURN_MARK}"}, TURN_MARK),
    ],
)
def test_a_bad_schema_is_refused_with_what_is_wrong(model: Model, schema: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        model.schemas.compile(schema)
    assert message in str(error.value) and "\n" not in str(error.value)
