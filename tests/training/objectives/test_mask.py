# SPDX-License-Identifier: Apache-2.0
"""The loss mask, byte for byte, against the table of `docs/upstream.md#loss-mask` written down a second time.

On real multi-turn conversations and with real tokenizers that split the template's marks in different ways.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer
from steerlm.records import Conversation, read_records
from steerlm.training.config import SFTSettings
from steerlm.training.objectives.sft import SFTObjective
from tests.training.units import record_units

Spans = list[tuple[int, int]]


def table(conversation: Conversation) -> tuple[str, Spans]:
    """Text and learned character spans, straight from the table's rows."""
    text, spans = "<extra_id_0>System\n" + conversation.system + "\n", []

    def add(piece: str, learned: bool) -> None:
        nonlocal text
        if learned:
            spans.append((len(text), len(text) + len(piece)))
        text += piece

    for i, turn in enumerate(conversation.conversations):
        user = turn.speaker == conversation.mask
        add("<extra_id_1>", user and i >= 2)
        add(turn.speaker + "\n", False)
        if turn.label is not None:
            add("<extra_id_2>" + turn.label + "\n", False)
        add(turn.value + "\n", not user and i >= 1)
    if conversation.conversations[-1].speaker != conversation.mask:
        add("<extra_id_1>", True)
    return text, spans


def single(shared_data: Path) -> list[Conversation]:
    records = read_records(shared_data / "steerlm" / "annotated_384.jsonl", Conversation)
    return [conversation for _, conversation in records]


def chained(singles: list[Conversation]) -> Iterator[Conversation]:
    """Return conversations of four to six turns; some turns have no label, some conversations end with a question."""
    turns = [turn for c in singles for turn in c.conversations if len(turn.value) < 1500]
    for at in range(0, len(turns) - 6, 6):
        chosen = turns[at : at + 6 - at % 4 // 2]
        chosen = [t.model_copy(update={"label": None}) if (at + i) % 5 == 0 else t for i, t in enumerate(chosen)]
        if {"User", "Assistant"} <= {turn.speaker for turn in chosen[1:]}:
            yield Conversation(conversations=chosen, system="Réponds — kindly.", mask="User", type="VALUE_TO_TEXT")


def load(shared_data: Path, name: str, folder: Path) -> Any:
    models = {"tok512": "stories260K", "llama2": "tokenizers/llama2.tokenizer.model"}
    copy_tokenizer(shared_data / models.get(name, "tokenizers/llama3.tokenizer.model"), folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tok512", "llama2", "llama3"])
def test_learned_are_exactly_the_tables_bytes(shared_data: Path, tmp_path: Path, name: str) -> None:
    tokenizer = load(shared_data, name, tmp_path)
    sft = SFTObjective(SFTSettings(max_steps=1, window=10**6), tokenizer, AttributeSchema())
    singles = single(shared_data)
    conversations = [*singles[:20], *chained(singles)]
    assert sum(len(c.conversations) >= 4 for c in conversations) >= 20
    into_a_span, out_of_a_span = 0, set()
    for conversation in conversations:
        text, spans = table(conversation)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        (unit,) = record_units(sft, conversation)
        (sample,) = unit.samples
        assert sample.ids.tolist() == encoded["input_ids"]
        wanted = bytearray(len(text))
        for start, end in spans:
            wanted[start:end] = b"\1" * (end - start)
        for (start, end), weight in zip(encoded["offset_mapping"], sample.weights, strict=True):
            inside = wanted[start:end]
            assert bool(weight) == (end > start and all(inside))
            if any(inside) and not all(inside):
                into_a_span += not inside[0]
                if inside[0]:
                    out_of_a_span.add(text[start:end])
    assert sft.counts["joints"] == into_a_span
    # Llama 3 has a token for the end of the turn mark with the name after it: it is not wholly learned, so not at all.
    assert out_of_a_span <= ({">User"} if name == "llama3" else set())
