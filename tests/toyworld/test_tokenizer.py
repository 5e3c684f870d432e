# SPDX-License-Identifier: Apache-2.0
"""The tokenizer folder loads with AutoTokenizer, is lossless and keeps prompts short."""

from pathlib import Path

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.prompt import SYSTEM_PROMPT, TURN_MARK, encode, render, render_prompt, text_of
from steerlm.records import Conversation, Turn, read_records
from steerlm.toyworld.config import ToySettings
from steerlm.toyworld.make import write_world
from steerlm.toyworld.oracle import ATTRIBUTES
from steerlm.training.objectives.tokens import Encoder

GeneratedWorld = tuple[Path, dict[str, int]]


@pytest.fixture(scope="module")
def tokenizer(generated: GeneratedWorld):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(generated[0] / "tokenizer")


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n\n c",
        "  two  spaces ",
        "日本 é ñ\t",
        "quality:4,humor:0\n",
        "<extra_id_1>User\nHi!\n",
        "\n",
        " x",
        "<unused>",
    ],
)
@pytest.mark.parametrize("skip", [True, False])
def test_round_trip(tokenizer, text: str, skip: bool) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=skip) == text
    assert tokenizer.unk_token_id not in ids


def test_template_parts_are_single_pieces(tokenizer) -> None:  # type: ignore[no-untyped-def]
    pieces = ["\n", TURN_MARK, *(f"{name}:" for name in ATTRIBUTES), *"01234", ",", "User", "Assistant"]
    assert [len(tokenizer(piece, add_special_tokens=False)["input_ids"]) for piece in pieces] == [1] * len(pieces)
    assert len(tokenizer(SYSTEM_PROMPT, add_special_tokens=False)["input_ids"]) == 2


def test_special_tokens_are_distinct_and_not_added(tokenizer) -> None:  # type: ignore[no-untyped-def]
    special = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    assert len(special) == 4
    assert tokenizer("a", add_special_tokens=True)["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def test_vocabulary_has_the_requested_size(tokenizer, settings: ToySettings) -> None:  # type: ignore[no-untyped-def]
    assert len(tokenizer) == settings.vocab_size


def test_prompt_ids_are_a_prefix_of_the_training_ids(tokenizer, generated: GeneratedWorld) -> None:  # type: ignore[no-untyped-def]
    label = AttributeSchema().format(dict.fromkeys(ATTRIBUTES, 2))
    conversations = [record for _, record in read_records(generated[0] / "train.jsonl", Conversation)]
    for conversation in conversations[:100]:
        turns = [
            t if t.speaker == "User" else t.model_copy(update={"label": label}) for t in conversation.conversations
        ]
        segments = render(conversation.model_copy(update={"conversations": turns}))
        (tokens,) = Encoder(tokenizer)([text_of(segments)], offsets=True)
        encoded = encode(segments, tokens)
        prompt = render_prompt([Turn.model_validate(t.model_dump(by_alias=True)) for t in turns[:-1]], label)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert encoded.joints == 0
        assert encoded.ids[: len(ids)] == ids
        assert tokenizer.decode(encoded.ids) == text_of(segments)


def test_a_vocabulary_that_is_too_small_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="200 pieces"):
        write_world(tmp_path, ToySettings(conversations=50, plain_documents=50, vocab_size=200))
