# SPDX-License-Identifier: Apache-2.0
"""The prompt template compared with the specified text, and the loss mask checked per token with real tokenizers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.errors import InputError
from steerlm.prompt import SYSTEM_PROMPT, encode, marks_in, render, render_prompt, render_readout, text_of
from steerlm.records import Conversation, Turn, read_records
from steerlm.training.objectives.tokens import Encoder

CONVERSATION = Conversation.model_validate(
    {
        "conversations": [
            {"value": "What is ice?", "from": "User", "label": None},
            {"value": "Frozen water.", "from": "Assistant", "label": "quality:3,toxicity:0"},
            {"value": "And snow?", "from": "User", "label": None},
            {"value": "Ice crystals.", "from": "Assistant", "label": "quality:4"},
        ],
        "system": "Be kind.",
        "mask": "User",
        "type": "VALUE_TO_TEXT",
    }
)


def test_training_text_matches_the_specification() -> None:
    assert text_of(render(CONVERSATION)) == (
        "<extra_id_0>System\nBe kind.\n"
        "<extra_id_1>User\nWhat is ice?\n"
        "<extra_id_1>Assistant\n<extra_id_2>quality:3,toxicity:0\nFrozen water.\n"
        "<extra_id_1>User\nAnd snow?\n"
        "<extra_id_1>Assistant\n<extra_id_2>quality:4\nIce crystals.\n<extra_id_1>"
    )


def test_responses_later_turn_marks_and_the_final_mark_are_learned() -> None:
    assert [s.text for s in render(CONVERSATION) if s.learned] == [
        "Frozen water.\n",
        "<extra_id_1>",  # opens the user's turn 2; in turn 1 it would not be learned
        "Ice crystals.\n",
        "<extra_id_1>",
    ]


def test_turn_zero_and_the_mark_of_a_masked_turn_one_are_not_learned() -> None:
    turns = [Turn(value="I speak first.", speaker="Assistant"), Turn(value="Oh.", speaker="User")]
    assert not any(s.learned for s in render(Conversation(conversations=turns)))


def test_a_turn_with_learned_false_is_learned_only_with_a_label() -> None:
    record = CONVERSATION.model_dump(by_alias=True, exclude_unset=True)
    record["conversations"][1] = {"value": "Frozen water.", "from": "Assistant", "learned": False}
    assert [s.text for s in render(Conversation.model_validate(record)) if s.learned] == [
        "Ice crystals.\n",
        "<extra_id_1>",
    ]
    last = Conversation.model_validate({**record, "conversations": record["conversations"][:2]})
    assert not any(s.learned for s in render(last))
    record["conversations"][1]["label"] = "quality:3,toxicity:0"
    labeled = Conversation.model_validate(record)
    assert render(labeled) == render(CONVERSATION)


def test_the_prompt_is_a_prefix_of_the_training_text() -> None:
    prompt = render_prompt(CONVERSATION.conversations[:3], "quality:4", system="Be kind.")
    assert text_of(render(CONVERSATION)) == prompt + "Ice crystals.\n<extra_id_1>"
    assert render_prompt(CONVERSATION.conversations[:1], "").endswith("What is ice?\n<extra_id_1>Assistant\n")
    with pytest.raises(InputError, match="already Assistant's"):
        render_prompt(CONVERSATION.conversations[:2], "quality:4")


def test_readout_text_has_the_constant_system_prompt_and_no_labels() -> None:
    assert render_readout(CONVERSATION, 1) == (
        f"<extra_id_0>System\n{SYSTEM_PROMPT}\n<extra_id_1>User\nWhat is ice?\n"
        "<extra_id_1>Assistant\nFrozen water.\n<extra_id_2>"
    )
    assert render_readout(CONVERSATION, 0, use_system=True) == (
        "<extra_id_0>System\nBe kind.\n<extra_id_1>User\nWhat is ice?\n<extra_id_2>"
    )


def test_marks_in_user_text_are_detected() -> None:
    assert marks_in("a <extra_id_1>User b<extra_id_2>") == ["<extra_id_1>", "<extra_id_2>"]
    assert marks_in("<extra_id_3>") == []


def test_learned_tokens_decode_to_the_learned_text(shared_data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    checked = 0
    for _, conversation in read_records(shared_data / "steerlm" / "annotated_384.jsonl", Conversation):
        segments = render(conversation)
        (tokens,) = Encoder(tokenizer)([text_of(segments)], offsets=True)
        encoded = encode(segments, tokens)
        learned = [i for i, keep in zip(encoded.ids, encoded.learned, strict=True) if keep]
        assert encoded.joints == 0
        expected = text_of([s for s in segments if s.learned])
        assert tokenizer.decode(learned) == expected.removeprefix(" ")  # decoding drops one leading space
        checked += 1
    assert checked == 384


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: not marks_in(text))
LABELS = st.sampled_from(["quality:4", "quality:3,toxicity:0", "humor:0"])


@given(TEXTS, st.lists(st.tuples(TEXTS, TEXTS, LABELS), min_size=1, max_size=4))
def test_any_prompt_is_a_prefix_of_its_training_text(system: str, pairs: list[tuple[str, str, str]]) -> None:
    turns = [
        turn
        for question, reply, label in pairs
        for turn in (Turn(value=question, speaker="User"), Turn(value=reply, speaker="Assistant", label=label))
    ]
    conversation = Conversation(conversations=turns, system=system, mask="User", type="VALUE_TO_TEXT")
    segments = render(conversation)
    text = text_of(segments)
    prompt = render_prompt(turns[:-1], pairs[-1][2], system=system)
    assert text.startswith(prompt)
    assert text[len(prompt) :] == f"{pairs[-1][1]}\n<extra_id_1>"
    learned = [segment.text for segment in segments if segment.learned]
    assert learned[-1] == "<extra_id_1>" and learned[-2] == f"{pairs[-1][1]}\n"
