# SPDX-License-Identifier: Apache-2.0
"""The chat template writes what the training renderer writes, byte for byte, and refuses what it cannot mean."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from steerlm.attributes import AttributeSchema, format_labels, parse_labels
from steerlm.errors import InputError, LabelError
from steerlm.models.chat_template import TEMPLATE_NAMES, chat_template, readout_template
from steerlm.pipeline.provenance import modules
from steerlm.prompt import MARKS, SYSTEM_PROMPT, marks_in, render, render_prompt, render_readout, text_of
from steerlm.records import Conversation, Turn, read_records
from steerlm.serving.chat_prompt import build_prompt
from steerlm.serving.dials import requested_dials
from steerlm.serving.messages import ChatMessage
from tests.models.conftest import OWN

NINE = AttributeSchema(defaults={"toxicity": 0})
FIVE = NINE.restricted(["helpfulness", "verbosity", "quality", "humor", "coherence"])
SCHEMAS = (NINE, FIVE, OWN)
ASK = [{"role": "user", "content": "Where does the owl live?"}]
Messages = list[dict[str, Any]]


def rendered(schema: AttributeSchema | None, messages: Messages, *, prompt: bool = True, **more: Any) -> str:
    """As transformers and vLLM compile and render it."""
    texts, _ = render_jinja_template(
        conversations=[messages], chat_template=chat_template(schema), add_generation_prompt=prompt, **more
    )
    return str(texts[0])


def scored(messages: Messages, **more: Any) -> str:
    texts, _ = render_jinja_template(conversations=[messages], chat_template=readout_template(), **more)
    return str(texts[0])


def to_messages(conversation: Conversation, *, as_mapping: bool = False) -> Messages:
    messages: Messages = [{"role": "system", "content": conversation.system}]
    for turn in conversation.conversations:
        if turn.speaker == "User":
            messages.append({"role": "user", "content": turn.value})
            continue
        label: Any = turn.label or ""
        if as_mapping and label:
            label = {name: int(value) for name, value in parse_labels(label).items()}
        messages.append({"role": "assistant", "content": turn.value, "label": label})
    return messages


# Text that could trip a template: its own syntax, HTML, line ends at both edges, halves of marks, quotes, nothing.
tricky = st.sampled_from(
    ["", "\n", " a ", "{{ x }}", "{% if %}", "<&>'\"\\n", "\n\n b\n", "<extra_id_", "1>", "é✓🦉", "\r\n"]
)
texts = st.one_of(tricky, st.text(max_size=12), st.lists(tricky, max_size=3).map("".join)).filter(
    lambda t: not marks_in(t)
)


@st.composite
def labeled(draw: st.DrawFn, schema: AttributeSchema) -> dict[str, int]:
    names = draw(st.lists(st.sampled_from(schema.active), unique=True))
    return {name: draw(st.integers(schema.low, schema.high)) for name in names}


@st.composite
def conversations(draw: st.DrawFn, schema: AttributeSchema) -> Conversation:
    turns = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            turns.append(Turn(value=draw(texts), speaker="User"))
        else:
            label = schema.format(draw(labeled(schema)))
            turns.append(Turn(value=draw(texts), speaker="Assistant", label=label or None))
    if all(turn.speaker != "User" for turn in turns):
        turns.append(Turn(value=draw(texts), speaker="User"))
    return Conversation(conversations=turns, system=draw(texts))


@pytest.mark.parametrize("schema", SCHEMAS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_equals_the_training_text(schema: AttributeSchema, data: st.DataObject) -> None:
    conversation = data.draw(conversations(schema))
    messages = to_messages(conversation, as_mapping=data.draw(st.booleans()))
    assert rendered(schema, messages, prompt=False) == text_of(render(conversation))


@pytest.mark.parametrize("schema", SCHEMAS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_equals_the_servers_prompt(schema: AttributeSchema, data: st.DataObject) -> None:
    history = data.draw(conversations(schema))
    turns = [*history.conversations, Turn(value=data.draw(texts), speaker="User")]
    asked = data.draw(labeled(schema))
    messages = [*to_messages(history), {"role": "user", "content": turns[-1].value}]
    wanted = render_prompt(turns, schema.format(schema.complete(asked)), history.system)
    assert rendered(schema, messages, attributes=asked) == wanted


@given(conversation=conversations(NINE), last=st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_the_reward_models_template_equals_the_read_out_text(conversation: Conversation, last: int) -> None:
    last = min(last, len(conversation.conversations) - 1)
    messages = to_messages(conversation)[: last + 2]
    assert scored(messages) == render_readout(conversation, last, use_system=True)
    assert scored(messages[1:]) == render_readout(conversation, last)


def test_equals_the_training_text_of_real_data(shared_data: Path) -> None:
    embedded = count = 0
    for _, conversation in read_records(shared_data / "steerlm" / "annotated_384.jsonl", Conversation):
        messages, last = to_messages(conversation), conversation.conversations[-1]
        if any(marks_in(turn.value) for turn in conversation.conversations):
            with pytest.raises(TemplateError, match="contains the marker <extra_id_1>"):
                rendered(NINE, messages)
            messages = [part for message in messages for part in unfolded(message)]
            embedded += 1
        assert rendered(NINE, messages, prompt=False) == text_of(render(conversation))
        assert last.label and last.speaker == "Assistant"
        asked = {name: int(value) for name, value in parse_labels(last.label).items()}
        # Some rows name five attributes only, as a model trained on those would be asked.
        prompt = rendered(NINE.restricted(list(asked)), messages[:-1], attributes=asked)
        assert text_of(render(conversation)) == f"{prompt}{last.value}\n<extra_id_1>"
        count += 1
    assert (count, embedded) == (384, 247)


def unfolded(message: dict[str, Any]) -> Messages:
    """HelpSteer2's prompts carry their earlier turns in one string, written as the template writes turns."""
    first, *rest = re.split(r"\n<extra_id_1>(User|Assistant)\n", message["content"])
    turns = [message | {"content": first}]
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        turns.append({"role": name.lower(), "content": text} | ({"label": ""} if name == "Assistant" else {}))
    return turns


@pytest.mark.parametrize("schema", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_dials_by_name_and_in_a_label_are_those_in_attributes(schema: AttributeSchema, data: st.DataObject) -> None:
    asked = data.draw(labeled(schema))
    wanted = rendered(schema, ASK, attributes=asked)
    assert rendered(schema, ASK, label=schema.format(asked)) == wanted
    assert rendered(schema, ASK, label=asked) == wanted
    named: dict[str, Any] = {name: value for name, value in asked.items() if name.isidentifier()}
    rest = {name: value for name, value in asked.items() if name not in named}
    assert rendered(schema, ASK, attributes=rest, **named) == wanted
    assert rendered(schema, ASK, attributes=asked, label=schema.format(asked), **named) == wanted, "the same, twice"
    absent: dict[str, Any] = dict.fromkeys(schema.active)
    assert rendered(schema, ASK, label=None, **absent) == rendered(schema, ASK, label="") == rendered(schema, ASK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"humor": 5}, "humor: attribute humor must be an integer 0..4, not 5"),
        ({"humor": True}, "humor: attribute humor must be an integer"),
        ({"humor": "4"}, "humor: attribute humor must be an integer"),
        ({"label": "humor:5"}, "label: attribute humor must be an integer 0..4, not 5"),
        ({"label": "humour:4"}, "label: not name:value of an attribute of this model: humour:4"),
        ({"label": {"warmth": 1}}, "label: unknown attribute: warmth"),
        ({"label": 4}, "label must be a string or a mapping"),
        ({"humor": 4, "attributes": {"humor": 3}}, "attributes and humor differ in humor; give one"),
        ({"label": "humor:4", "humor": 3}, "label and humor differ in humor"),
        ({"label": "humor:4", "attributes": {"humor": 3}}, "attributes and label differ in humor"),
    ],
)
def test_dials_by_name_and_in_a_label_are_checked_as_by_the_server(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(message)):
        rendered(NINE, ASK, **given)
    with pytest.raises(InputError):
        build_prompt(
            [ChatMessage(role="user", content="a")],
            requested_dials(given.get("attributes"), {k: v for k, v in given.items() if k != "attributes"}, NINE),
            NINE,
        )


def test_attributes_named_like_something_of_the_template_are_set_in_attributes() -> None:
    names = ("messages", "system", "range", "label", "not", "wit", "class", "plain-speech", "true", "low")
    schema = AttributeSchema(names=names)
    asked = dict.fromkeys(names, 1)
    end = ",".join(f"{name}:1" for name in names) + "\n"
    assert rendered(schema, ASK, attributes=asked).endswith(end)
    assert rendered(schema, ASK, label=end.strip()).endswith(end)
    assert rendered(schema, ASK, wit=1) == rendered(schema, ASK, attributes={"wit": 1})
    env = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    assert env.globals.keys() <= TEMPLATE_NAMES
    undeclared = jinja2.meta.find_undeclared_variables(env.parse(chat_template(NINE)))
    # vLLM hands over the variables that this function finds.
    assert {*NINE.active, "attributes", "label"} <= undeclared


def test_writes_the_trained_dials_in_order_with_defaults_for_the_others() -> None:
    text = rendered(FIVE, ASK, attributes={"verbosity": 1, "humor": 0})
    assert text == (
        f"<extra_id_0>System\n{SYSTEM_PROMPT}\n<extra_id_1>User\nWhere does the owl live?\n<extra_id_1>Assistant\n"
        "<extra_id_2>quality:4,humor:0,helpfulness:4,coherence:4,verbosity:1\n"
    )
    assert rendered(OWN, ASK).endswith("<extra_id_2>warmth:9,plain-speech:9,wit:3\n")
    assert rendered(OWN, ASK, attributes=None) == rendered(OWN, ASK) == rendered(OWN, ASK, attributes={})


def test_earlier_answers_carry_their_own_label_or_the_requested_dials() -> None:
    def history(**label: Any) -> str:
        answer = {"role": "assistant", "content": "In a barn.", **label}
        text = rendered(OWN, [*ASK, answer, *ASK], attributes={"wit": 0})
        return text.split("Assistant\n")[1].split("In a barn.")[0]

    assert history() == history(label=None) == "<extra_id_2>warmth:9,plain-speech:9,wit:0\n"
    assert history(label="") == history(label={}) == ""
    assert history(label="wit:1,warmth:2") == "<extra_id_2>wit:1,warmth:2\n"
    assert history(label={"wit": 1, "warmth": 2}) == "<extra_id_2>warmth:2,wit:1\n"


def test_a_model_without_attributes_writes_no_label_and_takes_no_dial() -> None:
    assert rendered(None, ASK).endswith("barn?\n<extra_id_1>Assistant\n".replace("barn", "owl live"))
    with pytest.raises(TemplateError, match="unknown attribute: humor; this model knows: none"):
        rendered(None, ASK, attributes={"humor": 1})


WRONG: list[Any] = [
    ({"humour": 1}, "unknown attribute: humour; this model knows: quality, humor"),
    ({"toxicity": 1}, "unknown attribute: toxicity"),  # never trained
    ({"humor": 5}, "attribute humor must be an integer 0..4, not 5"),
    ({"humor": -1}, "attribute humor must be an integer 0..4, not -1"),
    ({"humor": 2.5}, "attribute humor must be an integer"),
    ({"humor": True}, "attribute humor must be an integer 0..4, not True"),
    ({"humor": "4"}, "attribute humor must be an integer"),
    ({"humor": None}, "attribute humor must be an integer"),
    ({"humor": [1]}, "attribute humor must be an integer"),
    ({3: 1}, "unknown attribute: 3"),
]


@pytest.mark.parametrize(("asked", "message"), [*WRONG, ("humor:4", "must be a mapping"), ([4], "must be a mapping")])
def test_wrong_dials_are_named(asked: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        rendered(FIVE, ASK, attributes=asked)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        *WRONG,
        ("humor:5", "attribute humor must be an integer 0..4, not 5"),
        ("humor:1.5", "not 1.5"),
        ("humor:0_1", "not 0_1"),
        ("humor:\u0663", "not \u0663"),  # a digit to Python's float
        ("humor:nan", "not nan"),
        ("humor:inf", "not inf"),
        ("humor:1 1", "not 1 1"),
        ("humor:1, humor:1", "attribute humor is given twice"),
        ("humor:1e999", "not 1e999"),
        ("humor:", "attribute humor"),
        ("humor", "not name:value"),
        ("toxicity:1", "not name:value of an attribute of this model: toxicity:1"),
        ("humor:1,", "not name:value"),
        ("humor:1\n<extra_id_1>User", "attribute humor must be"),
        (4, "must be a string or a mapping"),
    ],
)
def test_wrong_labels_of_earlier_answers_are_named(label: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        rendered(FIVE, [*ASK, {"role": "assistant", "content": "Here.", "label": label}, *ASK])
    assert str(caught.value).startswith("label of message 1: ")


@given(value=st.one_of(st.integers(-2, 12), st.booleans(), st.floats(), st.text(max_size=2), st.none()))
def test_takes_just_the_values_the_schema_takes(value: Any) -> None:
    try:
        OWN.check({"wit": value})
        assert rendered(OWN, ASK, attributes={"wit": value}).endswith(f",wit:{int(value)}\n")
        return
    except LabelError:
        pass
    with pytest.raises(TemplateError, match=r"attribute wit must be an integer 0\.\.9"):
        rendered(OWN, ASK, attributes={"wit": value})


def label_of_answer(label: str) -> str:
    text = rendered(OWN, [*ASK, {"role": "assistant", "content": "Here.", "label": label}, *ASK])
    return text.split("Assistant\n<extra_id_2>")[1].split("\nHere.")[0]


SPELLINGS = st.sampled_from(
    [
        "3",
        "3.0",
        "03",
        " 3",
        "3 ",
        "3e0",
        "+3",
        "-0",
        "2.5",
        "30e-1",
        "10",
        "-1",
        "nan",
        "inf",
        "1_0",
        "\u0663",
        "",
        ".",
    ]
)


@given(
    label=st.lists(st.tuples(st.sampled_from([*OWN.names, " wit", "wit ", "will", ""]), SPELLINGS), min_size=1).map(
        lambda pairs: ",".join(":".join(pair) for pair in pairs)
    )
)
@settings(max_examples=300, deadline=None)
def test_labels_are_read_and_written_as_in_training(label: str) -> None:
    try:
        values = parse_labels(label)
        OWN.check(values)
    except LabelError:
        with pytest.raises(TemplateError, match="label of message 1: "):
            label_of_answer(label)
    else:
        turn = Turn(value="Here.", speaker="Assistant", label=label)
        assert label_of_answer(label) == turn.label == format_labels(values)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_marks_in_a_message_are_refused_by_name(mark: str, role: str) -> None:
    messages = [{"role": role, "content": f"a{mark}b"}, *ASK]
    if role != "system":
        messages = [*ASK, *messages]
    renderings: list[Callable[[], str]] = [lambda: rendered(NINE, messages), lambda: scored(messages)]
    for render_it in renderings:
        with pytest.raises(TemplateError, match=f"message {len(messages) - 2}: contains the marker {mark}"):
            render_it()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no user message"),
        ([{"role": "system", "content": "Be brief."}], "no user message"),
        ([*ASK, {"role": "system", "content": "Be brief."}], "role must be user or assistant"),
        ([{"role": "tool", "content": "4"}, *ASK], "not tool"),
        ([*ASK, {"role": "assistant", "content": "Here."}], "already the assistant's"),
        ([{"role": "user", "content": "a", "label": "quality:1"}], "message 0: only an assistant message"),
        ([{"role": "user", "content": None}], "message 0: content must be a string"),
        ([{"role": "user"}], "message 0: content must be a string"),
        # A list of parts would be written as Python writes it, and marks inside it would not be found.
        ([{"role": "user", "content": [{"type": "text", "text": "<extra_id_1>"}]}], "content must be a string"),
    ],
)
def test_wrong_conversations_are_named(messages: Messages, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        rendered(NINE, messages)


def test_the_reward_models_template_refuses_to_open_an_answer() -> None:
    with pytest.raises(TemplateError, match="add_generation_prompt false"):
        scored(ASK, add_generation_prompt=True)
    with pytest.raises(TemplateError, match="no message to score"):
        scored([{"role": "system", "content": "Be brief."}])
    with pytest.raises(TemplateError, match="not tool"):
        scored([{"role": "tool", "content": "4"}])


def test_the_templates_count_as_code_of_the_stages_that_write_them() -> None:
    """A stage's key covers a module's files by their name: a changed template must make the model folder anew."""
    counted = modules(["steerlm.models.chat_template"])["steerlm.models.chat_template"].data
    assert {path.name for path in counted} == {"chat_template.jinja", "chat_template.readout.jinja"}
