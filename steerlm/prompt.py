# SPDX-License-Identifier: Apache-2.0
"""The SteerLM prompt template: renders conversations as text and maps the loss mask onto token ids.

Defines the markers, the order of the parts and the loss mask (docs/upstream.md#training-text, #loss-mask). Training,
annotation, serving and evaluation all render their text here. The chat template in a model folder renders the same
text in Jinja; tests compare the two byte for byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from steerlm.errors import InputError
from steerlm.records import SPEAKERS, Conversation, Turn

PROMPT_VERSION = 1
SYSTEM_MARK, TURN_MARK, LABEL_MARK = "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"
MARKS = (SYSTEM_MARK, TURN_MARK, LABEL_MARK)
TURN_STOP_STRINGS = (f"\n{TURN_MARK}", TURN_MARK)
"""Stop strings that end a turn: the next turn's mark, with and without the newline before it."""
SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
USER, ASSISTANT = SPEAKERS

Role = Literal["header", "turn", "name", "label", "text", "stop", "readout"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the rendered text; `learned` is whether its tokens contribute to the loss."""

    text: str
    role: Role
    learned: bool = False


class Tokens(NamedTuple):
    """Token ids of a text and each token's character range [start, end)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text and, for each token, whether it is learned.

    `joints` counts learned spans that do not start at a token boundary. There the token ids of a server's prompt are
    not a prefix of `ids`, and the token that straddles the boundary is not learned.
    """

    ids: list[int]
    learned: list[bool]
    joints: int


def render(conversation: Conversation) -> list[Segment]:
    """Render the attribute-conditioned training text of a conversation, with its loss mask.

    The learned segments are the responses of roles that are not masked, with the trailing newline; the turn mark that
    opens a masked turn from the third turn on, which teaches the model to stop; and the final turn mark after a
    response that ends the conversation. Turn 0 is never learned, whatever its role. A turn with `learned: false` and
    no label is not learned, and neither is the mark that follows it.
    """
    return _render(conversation.conversations, conversation.system, conversation.mask)


def _render(turns: Sequence[Turn], system: str, mask: str) -> list[Segment]:
    skipped = False
    segments = [Segment(f"{SYSTEM_MARK}System\n{system}\n", "header")]
    for index, turn in enumerate(turns):
        masked = turn.speaker == mask
        segments.append(Segment(TURN_MARK, "turn", learned=masked and index >= 2 and not skipped))
        skipped = not turn.learned and not turn.label
        segments.append(Segment(f"{turn.speaker}\n", "name"))
        if turn.label is not None:
            segments.append(Segment(f"{LABEL_MARK}{turn.label}\n", "label"))
        segments.append(Segment(f"{turn.value}\n", "text", learned=not masked and index > 0 and not skipped))
    if turns and turns[-1].speaker != mask:
        segments.append(Segment(TURN_MARK, "stop", learned=not skipped))
    return segments


def render_prompt(turns: Sequence[Turn], label: str, system: str = SYSTEM_PROMPT, name: str = ASSISTANT) -> str:
    """Render the prompt for a response: the history, then the start of `name`'s turn with its label.

    Args:
        turns: The history.
        label: Label string of the response; "" for none.
        system: System prompt.
        name: Role of the response.

    Raises:
        InputError: The last turn is already `name`'s, or a turn contains the label mark.
    """
    for index, turn in enumerate(turns):
        if LABEL_MARK in turn.value:
            raise InputError(f"turn {index} contains the label mark {LABEL_MARK}, which would inject a label")
    if turns and turns[-1].speaker == name:
        raise InputError(f"the last message is already {name}'s; a prompt ends with a {USER} message")
    label_line = f"{LABEL_MARK}{label}\n" if label else ""
    history = text_of(_render(turns, system, mask=name)).removesuffix(TURN_MARK)  # without the final stop mark
    return f"{history}{TURN_MARK}{name}\n{label_line}"


def render_readout(conversation: Conversation, upto: int, *, use_system: bool = False) -> str:
    """Render the reward model's input for turn `upto`: the turns so far without labels, then the read-out mark.

    As upstream, the system prompt is the constant one unless `use_system` selects the record's own.
    """
    parts = [f"{SYSTEM_MARK}System\n{conversation.system if use_system else SYSTEM_PROMPT}\n"]
    for turn in conversation.conversations[: upto + 1]:
        parts.append(f"{TURN_MARK}{turn.speaker}\n{turn.value}\n")
    return "".join(parts) + LABEL_MARK


def text_of(segments: Sequence[Segment]) -> str:
    """Join the segments' texts, learned or not."""
    return "".join(s.text for s in segments)


def encode(segments: Sequence[Segment], tokens: Tokens) -> Encoded:
    """Map the learned segments onto the tokens of the joined text, which is tokenized in one piece as servers do.

    A token is learned if it is entirely inside a learned span.
    """
    spans: list[tuple[int, int]] = []
    offset = 0
    for segment in segments:
        end = offset + len(segment.text)
        if segment.learned and segment.text:
            if spans and spans[-1][1] == offset:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((offset, end))
        offset = end
    learned, joints, k = [False] * len(tokens.ids), 0, 0
    for i, (start, end) in enumerate(tokens.offsets):
        while k < len(spans) and start >= spans[k][1]:
            k += 1
        if k == len(spans):
            break
        inside = start >= spans[k][0]
        learned[i] = inside and end <= spans[k][1]
        joints += not inside and end > spans[k][0]
    return Encoded(tokens.ids, learned, joints)


def marks_in(text: str) -> list[str]:
    """Return the template's marks that occur in a user's text; each could inject a turn or a label."""
    return [mark for mark in MARKS if mark in text]
