# SPDX-License-Identifier: Apache-2.0
"""What a scoring request may hold, and the texts that are scored for it: each ends with the read-out mark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from steerlm.prompt import ASSISTANT, LABEL_MARK, USER, render_readout
from steerlm.records import Conversation, Turn
from steerlm.serving.chat_prompt import without_marks
from steerlm.serving.errors import ApiError
from steerlm.serving.messages import ChatMessage, check_names

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
OneOrMore = Annotated[Any, WithJsonSchema(_TEXTS)]


class ScoreRequest(BaseModel):
    """One of `texts`, `conversations`, `messages`, or `prompt` with `response`.

    `conversations`, `messages`: every answer in them is scored. `prompt`, `response`: a question and its answer, or two
    lists of the same length. `use_system`: use a conversation's own system prompt instead of the constant one; a system
    message in `messages` is always used. `over_long`: a text longer than the window is an error, or its last tokens are
    scored. `alone`: share no forward pass with other requests, so that the last digits of the scores depend on this
    request only.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    texts: list[str] | None = Field(None, description=f"each ends with {LABEL_MARK}")
    conversations: list[Conversation] | None = None
    messages: list[ChatMessage] | None = None
    prompt: OneOrMore = None
    response: OneOrMore = None
    use_system: bool = False
    over_long: Literal["error", "keep_end"] = "error"
    alone: bool = False


class TurnIndex(BaseModel):
    """A turn of a request's conversations, or of its messages (`conversation` 0)."""

    conversation: int
    turn: int


@dataclass
class ScoreInputs:
    """Texts to score.

    Attributes:
        texts: The texts.
        names: What each text is of the request, for errors.
        turns: The turn each text ends with, for conversations and messages.
    """

    texts: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    turns: list[TurnIndex] | None = None


def score_inputs(body: ScoreRequest, *, strip: bool) -> ScoreInputs:
    """Return the texts of a request.

    Args:
        body: The request.
        strip: Remove the template's marks instead of refusing them.

    Raises:
        ApiError: The request holds none or several kinds of input, or an invalid one.
    """
    pair = body.prompt is not None or body.response is not None
    if sum(one is not None for one in (body.texts, body.conversations, body.messages)) + pair != 1:
        raise ApiError("give one of texts, conversations, messages, or prompt with response", param="texts")
    if body.texts is not None:
        names = [f"texts[{index}]" for index in range(len(body.texts))]
        check_marks(body.texts, names)
        return ScoreInputs(body.texts, names)
    if body.conversations is not None:
        return _conversations(body.conversations, body.use_system, strip)
    if body.messages is not None:
        return _messages(body.messages, strip)
    return _pairs(body.prompt, body.response, strip)


def check_marks(texts: Sequence[str], names: Sequence[str]) -> None:
    """Raise `ApiError` for a text that does not end with the read-out mark: its score would mean nothing."""
    for text, name in zip(texts, names, strict=True):
        if not text.endswith(LABEL_MARK):
            raise ApiError(f"{name} must end with the read-out mark {LABEL_MARK}", param=name)


def readout_of_messages(messages: Sequence[ChatMessage], *, strip: bool) -> Conversation:
    """Return chat messages as a conversation, whose `system` is set only by a system message.

    Raises:
        ApiError: A message cannot be read, or there is none to score.
    """
    check_names(messages)
    system, turns = None, []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        text = without_marks(message.text(where), f"{where}.content", strip=strip)
        if message.role in ("user", "assistant"):
            turns.append(Turn(value=text, speaker=USER if message.role == "user" else ASSISTANT))
        elif index:
            raise ApiError(f"{where}: a system message must be the first", param=where)
        else:
            system = text
    if not turns:
        raise ApiError("messages has no message to score", param="messages")
    if all(turn.speaker != USER for turn in turns):
        raise ApiError("messages has no user message; the scores are those of answers to one", param="messages")
    return Conversation(conversations=turns) if system is None else Conversation(conversations=turns, system=system)


def has_system(conversation: Conversation) -> bool:
    """Return whether a conversation of `readout_of_messages` has a system message."""
    return "system" in conversation.model_fields_set


def _messages(messages: list[ChatMessage], strip: bool) -> ScoreInputs:
    conversation = readout_of_messages(messages, strip=strip)
    system = has_system(conversation)
    inputs = ScoreInputs(turns=[])
    assert inputs.turns is not None
    for index, turn in enumerate(conversation.conversations):
        if turn.speaker == ASSISTANT:
            inputs.texts.append(render_readout(conversation, index, use_system=system))
            inputs.names.append(f"messages[{index + system}]")
            inputs.turns.append(TurnIndex(conversation=0, turn=index + system))
    if not inputs.texts:
        raise ApiError("messages has no assistant message; the scores are those of answers", param="messages")
    return inputs


def _pairs(prompt: Any, response: Any, strip: bool) -> ScoreInputs:
    listed = isinstance(prompt, list)
    sides = {}
    for name, value in (("prompt", prompt), ("response", response)):
        if value is None:
            raise ApiError(f"{name} is missing; prompt and response go together", param=name)
        texts = value if listed else [value]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ApiError(f"{name} must be a text, or both prompt and response lists of texts", param=name)
        sides[name] = texts
    if len(sides["prompt"]) != len(sides["response"]):
        count = f"{len(sides['prompt'])} prompts, {len(sides['response'])} responses"
        raise ApiError(f"{count}; each response is scored as the answer to its prompt", param="response")
    inputs = ScoreInputs()
    for index, (question, answer) in enumerate(zip(sides["prompt"], sides["response"], strict=True)):
        place = f"[{index}]" if listed else ""
        turns = [
            Turn(value=without_marks(question, f"prompt{place}", strip=strip), speaker=USER),
            Turn(value=without_marks(answer, f"response{place}", strip=strip), speaker=ASSISTANT),
        ]
        inputs.texts.append(render_readout(Conversation(conversations=turns), 1))
        inputs.names.append(f"response{place}")
    return inputs


def _conversations(conversations: list[Conversation], use_system: bool, strip: bool) -> ScoreInputs:
    """Return the read-out text of every turn that is not masked."""
    inputs = ScoreInputs(turns=[])
    assert inputs.turns is not None
    for c, conversation in enumerate(conversations):
        turns = []
        for t, turn in enumerate(conversation.conversations):
            value = without_marks(turn.value, f"conversations[{c}].conversations[{t}].value", strip=strip)
            turns.append(turn.model_copy(update={"value": value}))
        system = without_marks(conversation.system, f"conversations[{c}].system", strip=strip)
        clean = conversation.model_copy(update={"conversations": turns, "system": system})
        for t, turn in enumerate(turns):
            if turn.speaker != conversation.mask:
                inputs.texts.append(render_readout(clean, t, use_system=use_system))
                inputs.names.append(f"conversations[{c}] turn {t}")
                inputs.turns.append(TurnIndex(conversation=c, turn=t))
    return inputs
