# SPDX-License-Identifier: Apache-2.0
"""Attribute-conditioned fine-tuning: a conversation with labels before its answers, loss only on the answers.

`steerlm.prompt` renders the text and its loss mask (`docs/upstream.md#sft-tokens`, `docs/upstream.md#loss-mask`). This
file adds denominators, policies for conversations that are too long or have no learned token, and checks of labels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema, parse_labels
from steerlm.errors import InputError
from steerlm.prompt import Encoded, Segment, Tokens, encode, render, text_of
from steerlm.records import Conversation
from steerlm.training.config import SFTSettings
from steerlm.training.data import Sample, Unit
from steerlm.training.objectives.likelihood import Likelihood
from steerlm.training.objectives.tokens import Draft, TextRecords


class SFTObjective(Likelihood, TextRecords):
    """Negative log-likelihood of the answers. No BOS, no EOS: the model learns to stop with the turn mark.

    Denominator `conversations`: a token weighs 1 / (learned tokens of its conversation), a conversation counts 1.
    Denominator `tokens`: a learned token weighs and counts 1.
    """

    record = Conversation
    offsets = True

    def __init__(self, settings: SFTSettings, tokenizer: Any, schema: AttributeSchema) -> None:
        super().__init__(tokenizer)
        self.settings, self.schema = settings, schema

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that units depend on, the attributes and the tokenizer digest."""
        keys = {"window", "over_long", "denominator", "conditioned", "no_learned_token"}
        return {
            "objective": "sft",
            **self.settings.model_dump(mode="json", include=keys),
            "attributes": self.schema.model_dump(mode="json"),
            "tokenizer": self.encoder.digest(),
        }

    def draft(self, record: Conversation) -> Draft:
        """Check a conversation and render it with labels. Raises `InputError` for a label outside the schema."""
        conversation = self._checked(record)
        segments = render(conversation)
        return Draft(text_of(segments), functools.partial(self._units, conversation, segments))

    def _units(self, conversation: Conversation, segments: Sequence[Segment], tokens: Tokens) -> list[Unit]:
        encoded = encode(segments, tokens)
        if len(encoded.ids) > self.settings.window:
            shortened = self._shortened(conversation, len(encoded.ids))
            if shortened is None:
                return []
            conversation, encoded = shortened
        # The first token has no context to be predicted from.
        learned = np.array([False, *encoded.learned[1:]], np.float32)
        total = int(learned.sum())
        if total == 0:
            if self.settings.no_learned_token == "error":
                raise InputError("no token of this conversation would be learned; drop it or set no_learned_token=drop")
            self.counts["dropped_no_learned_token"] += 1
            return []
        self.counts["joints"] += encoded.joints
        for label in filter(None, (turn.label for turn in conversation.conversations)):
            self.counts.update(f"labels/{name}" for name in parse_labels(label))
        ids = np.array(encoded.ids, np.int32)
        if self.settings.denominator == "conversations":
            return [Unit((Sample(ids, learned / np.float32(total), count=1),))]
        return [Unit((Sample(ids, learned, count=total),))]

    def _checked(self, record: Conversation) -> Conversation:
        """Return the conversation to learn from. Raises `InputError` if it is inconsistent or not supported."""
        if record.type == "TEXT_TO_VALUE":
            raise InputError("type TEXT_TO_VALUE (the label after the answer) is not supported; VALUE_TO_TEXT is")
        if not self.settings.conditioned:
            return _without_labels(record)
        labels = [turn.label for turn in record.conversations if turn.label]
        if labels and record.type is None:
            self.warn("type_absent", "labels without a type are read as VALUE_TO_TEXT: the label before the answer")
        for label in labels:
            values = parse_labels(label)
            self.schema.check(values)
            if self.schema.format(values) != label:
                self.warn("labels_not_canonical", f"label {label!r} is not in the canonical form, attributes in order")
        return record

    def _shortened(self, conversation: Conversation, length: int) -> tuple[Conversation, Encoded] | None:
        """Return the longest end that fits, starts with a masked turn and has a learned token; None without one."""
        if self.settings.over_long == "error":
            raise InputError(
                f"{length} tokens do not fit the window of {self.settings.window}; set over_long to drop or keep_end"
            )
        if self.settings.over_long == "keep_end":
            for first, turn in enumerate(conversation.conversations):
                if first == 0 or turn.speaker != conversation.mask:
                    continue
                end = conversation.model_copy(update={"conversations": conversation.conversations[first:]})
                segments = render(end)
                (tokens,) = self.encoder([text_of(segments)], self.offsets)
                encoded = encode(segments, tokens)
                if len(encoded.ids) <= self.settings.window and any(encoded.learned[1:]):
                    self.counts["cut_over_long"] += 1
                    return end, encoded
        self.counts["dropped_over_long"] += 1
        return None


class AnnotatedSFTObjective(SFTObjective):
    """Makes units of conversations that are not annotated yet as if they were: every answer has a full label.

    Their own labels, which annotation replaces, are not looked at. For lengths only: the values are the defaults.
    """

    def _checked(self, record: Conversation) -> Conversation:
        label = self.schema.format(self.schema.complete({}))
        turns = [
            turn if turn.speaker == record.mask else turn.model_copy(update={"label": label})
            for turn in record.conversations
        ]
        return super()._checked(record.model_copy(update={"conversations": turns, "type": "VALUE_TO_TEXT"}))


def _without_labels(record: Conversation) -> Conversation:
    """Remove the labels, but keep learning the turns that had one, so that a baseline learns the same turns."""
    turns = [
        turn.model_copy(update={"label": None, "learned": turn.learned or bool(turn.label)})
        for turn in record.conversations
    ]
    return record.model_copy(update={"conversations": turns})
