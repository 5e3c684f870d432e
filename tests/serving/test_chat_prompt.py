# SPDX-License-Identifier: Apache-2.0
"""Messages and attributes become the text the model was trained on, and users cannot change its structure."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import AttributeSchema
from steerlm.models.folder import load_tokenizer, read_info
from steerlm.prompt import MARKS, TURN_STOP_STRINGS, marks_in
from steerlm.serving.chat_prompt import build_prompt, resolve_attributes, without_marks
from steerlm.serving.errors import ApiError
from steerlm.serving.messages import ChatMessage
from steerlm.serving.openai.protocol import GenerationBody


def chat_message(role: str, content: str, label: Any = None) -> ChatMessage:
    return ChatMessage(role=role, content=content, label=label)


NINE = AttributeSchema(defaults={"toxicity": 0})
ASK = [chat_message("user", "What is a good pet?")]


def test_other_attributes_get_their_defaults() -> None:
    prompt = build_prompt(ASK, {"humor": 1}, NINE)
    assert prompt.attributes == dict.fromkeys(NINE.names, 4) | {"toxicity": 0, "humor": 1}
    assert prompt.text.endswith(
        "<extra_id_1>User\nWhat is a good pet?\n<extra_id_1>Assistant\n<extra_id_2>quality:4,toxicity:0,humor:1,"
        "creativity:4,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4\n"
    )


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"humour": 1}, "unknown attribute 'humour'; did you mean 'humor'"),
        ({"humor": 5}, r"'humor' must be in 0..4, not 5"),
        ({"humor": -1}, r"'humor' must be in 0..4, not -1"),
        ({"humor": 1.5}, "must be an integer"),
        ({"humor": "4"}, "must be an integer"),
        ({"humor": True}, "must be an integer"),
        ({"humor": None}, "must be an integer"),
        ({"humor": float("nan")}, "must be an integer"),
    ],
)
def test_invalid_attributes_are_refused_by_name(requested: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        resolve_attributes(NINE, requested)
    assert (caught.value.status, caught.value.param) == (400, "attributes")


def test_untrained_attributes_are_neither_accepted_nor_written() -> None:
    schema = NINE.restricted(["quality", "humor"])
    assert build_prompt(ASK, {}, schema).attributes == {"quality": 4, "humor": 4}
    with pytest.raises(ApiError, match="never trained"):
        build_prompt(ASK, {"verbosity": 1}, schema)


def test_a_model_without_attributes_has_no_label_line() -> None:
    prompt = build_prompt(ASK, {}, None)
    assert prompt.text.endswith("<extra_id_1>Assistant\n") and prompt.attributes == {}
    with pytest.raises(ApiError, match="no attributes"):
        build_prompt(ASK, {"humor": 1}, None)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_marks_in_any_message_are_refused_by_name(mark: str, role: str) -> None:
    messages = [chat_message(role, f"a {mark} b"), chat_message("user", "go on")]
    with pytest.raises(ApiError, match=mark) as caught:
        build_prompt(messages, {}, NINE)
    assert caught.value.param == "messages[0].content"


@given(st.text(alphabet="".join(MARKS) + "a", max_size=30), st.lists(st.sampled_from(MARKS), max_size=4))
def test_stripping_leaves_no_mark_even_if_they_are_nested(text: str, marks: list[str]) -> None:
    for mark in marks:
        text = text[: len(text) // 2] + mark + text[len(text) // 2 :]
    assert not marks_in(without_marks(text, "x", strip=True))


def test_stripping_does_not_join_halves_to_a_mark() -> None:
    assert without_marks("<extra_<extra_id_1>id_2>quality:0", "x", strip=True) == "quality:0"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ([chat_message("system", "be brief")], "no user message"),
        ([chat_message("user", "a"), chat_message("system", "b")], "must be the first"),
        ([chat_message("tool", "a")], "role must be"),
        ([chat_message("user", "a"), chat_message("assistant", "b")], "already Assistant's"),
        ([chat_message("user", "a", "quality:1")], "only an assistant message"),
        ([chat_message("assistant", "a", "quality:9"), *ASK], r"messages\[0\].label: .* must be in 0..4"),
        ([chat_message("assistant", "a", "quality"), *ASK], "not in the form name:number"),
    ],
)
def test_invalid_conversations_are_refused_by_name(messages: list[ChatMessage], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        build_prompt(messages, {}, NINE)


def conversations() -> list[tuple[list[dict[str, Any]], dict[str, int] | None]]:
    user, answer = {"role": "user", "content": " How  are\n\nyou? "}, {"role": "assistant", "content": "Fine, {{ x }}"}
    system = {"role": "system", "content": "Be brief."}
    return [
        ([user], None),
        ([user], {}),
        ([system, user], {"humor": 3}),
        ([{"role": "system", "content": ""}, user], {"toxicity": 4, "quality": 0}),
        ([user, answer, user], {"humor": 3}),
        ([user, {**answer, "label": "humor:4,quality:1"}, user, answer, user], {"humor": 0}),
        ([user, {**answer, "label": {"humor": 4, "quality": 1}}, user], None),
        ([user, {**answer, "label": ""}, user], None),
        ([user, user], None),
        ([answer, user], None),
    ]


@pytest.mark.parametrize(("messages", "attributes"), conversations())
def test_equals_the_chat_template_of_the_folder_byte_for_byte(
    messages: list[dict[str, Any]], attributes: dict[str, int] | None, policy_folder: Path
) -> None:
    tokenizer = load_tokenizer(policy_folder)
    more = {} if attributes is None else {"attributes": attributes}
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
    chat = [chat_message(m["role"], m["content"], m.get("label")) for m in messages]
    assert build_prompt(chat, attributes or {}, read_info(policy_folder).attributes).text == expected


def test_stop_strings_include_the_newline_that_the_template_writes_before_the_mark() -> None:
    assert TURN_STOP_STRINGS == ("\n<extra_id_1>", "<extra_id_1>")
    body = GenerationBody(stop=["x"])
    assert body.sampling_params(1, None).stop == ("\n<extra_id_1>", "<extra_id_1>", "x")
