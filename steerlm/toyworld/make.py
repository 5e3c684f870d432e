# SPDX-License-Identifier: Apache-2.0
"""Writes the whole world into a folder: conversations, plain text, held-out questions, tokenizer, the oracle's words.

Everything is drawn from the seed. Questions are split once: those asked at the end and those of the validation file
occur nowhere in training.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.files import atomic_writer, write_json
from steerlm.prompt import ASSISTANT, SYSTEM_PROMPT, USER, render, render_prompt, text_of
from steerlm.records import Conversation, Line, PlainText, Turn
from steerlm.toyworld import language as world
from steerlm.toyworld.answers import sample_answer
from steerlm.toyworld.config import ToySettings
from steerlm.toyworld.documents import document
from steerlm.toyworld.oracle import DIALS, score
from steerlm.toyworld.ratings import HIGH, LOW, rate
from steerlm.toyworld.tokenizer import write_tokenizer

ENOUGH = 2000
"""Documents and conversations that the tokenizer is trained on: among so many, no word of the language is missing."""


class Split(NamedTuple):
    """The world's questions, each in one part."""

    train: list[world.Question]
    validation: list[world.Question]
    held_out: list[world.Question]


def make(folder: Path, settings: ToySettings) -> dict[str, int]:
    """Write the world; the counts of what was written.

    Files: `train.jsonl`, `val.jsonl` (conversations), `plain_train.jsonl`, `plain_val.jsonl` ({"text"}),
    `questions.jsonl` ({"question"}), `tokenizer/`, `oracle.json` (what each attribute counts). Raises `InputError` if
    a prompt or a conversation is longer than the settings allow.
    """
    split = split_questions(settings)
    train = list(conversations("train", settings.conversations, split.train, settings))
    validation = list(conversations("validation", settings.validation_conversations, split.validation, settings))
    plain = {
        "plain_train": list(documents("plain", settings.plain_documents, split.train, settings)),
        "plain_val": list(documents("plain_validation", settings.plain_validation_documents, split.train, settings)),
    }
    corpus = [d.text for d in plain["plain_train"][:ENOUGH]] + [
        t.value for c in train[:ENOUGH] for t in c.conversations
    ]
    write_tokenizer(folder / "tokenizer", corpus, tuple(DIALS), settings.vocab_size)
    longest = _check_lengths(folder / "tokenizer", split, [*train, *validation], settings)

    _write_lines(folder / "train.jsonl", train)
    _write_lines(folder / "val.jsonl", validation)
    for name, texts in plain.items():
        _write_lines(folder / f"{name}.jsonl", texts)
    with atomic_writer(folder / "questions.jsonl") as file:
        file.writelines(json.dumps({"question": question.text}) + "\n" for question in split.held_out)
    write_json(folder / "oracle.json", {name: {"counts": counts} for name, counts in DIALS.items()})
    return {
        "conversations": len(train),
        "rated": sum("label" in c.conversations[-1].model_fields_set for c in train),
        "validation_conversations": len(validation),
        "plain_documents": len(plain["plain_train"]),
        "plain_validation_documents": len(plain["plain_val"]),
        "questions": len(split.held_out),
        **longest,
    }


def split_questions(settings: ToySettings) -> Split:
    """Held-out questions first, then a tenth for validation; the rest, at least half, is for training."""
    known = list(world.questions())
    validation = len(known) // 10
    if settings.questions > len(known) // 2 - validation:
        raise InputError(
            f"questions: {settings.questions} of the world's {len(known)} cannot be held out; "
            f"at most {len(known) // 2 - validation}"
        )
    _rng(settings, "questions").shuffle(known)
    held_out, rest = known[: settings.questions], known[settings.questions :]
    return Split(train=rest[validation:], validation=rest[:validation], held_out=held_out)


def conversations(
    part: str, count: int, questions: Sequence[world.Question], settings: ToySettings
) -> Iterator[Conversation]:
    """`count` conversations on `questions`; a share of them rated, a share of two exchanges."""
    rng = _rng(settings, part)
    for _ in range(count):
        exchanges = 2 if rng.random() < settings.two_exchange_share else 1
        rated = rng.random() < settings.rated_share
        turns: list[Turn] = []
        for question in rng.sample(questions, exchanges):
            manner = {name: rng.randint(LOW, HIGH) for name in DIALS}
            answer = sample_answer(question.text, manner, rng)
            turns.append(_turn(question.text, USER, label=None))
            if rated:
                label = AttributeSchema().format(rate(score(question.text, answer), settings.raters, rng))
                turns.append(_turn(answer, ASSISTANT, label=label))
            else:
                turns.append(_turn(answer, ASSISTANT))
        yield Conversation(conversations=turns, system=SYSTEM_PROMPT, mask=USER, type="VALUE_TO_TEXT")


def documents(part: str, count: int, questions: Sequence[world.Question], settings: ToySettings) -> Iterator[PlainText]:
    rng = _rng(settings, part)
    for _ in range(count):
        yield PlainText(text=document(questions, rng))


def _check_lengths(
    tokenizer_folder: Path, split: Split, made: Sequence[Conversation], settings: ToySettings
) -> dict[str, int]:
    """The longest prompt and the longest conversation in tokens, with all nine labels."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    label = AttributeSchema().format(dict.fromkeys(DIALS, HIGH))
    asked = [question.text for part in split for question in part]
    prompts = [render_prompt([_turn(question, USER)], label) for question in asked]
    texts = [text_of(render(_labeled(conversation, label))) for conversation in made]
    longest = {}
    for kind, batch, limit in (("prompt", prompts, settings.prompt_budget), ("conversation", texts, settings.window)):
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]
        longest[f"longest_{kind}"] = max(lengths)
        if max(lengths) > limit:
            raise InputError(f"a {kind} takes {max(lengths)} tokens, {limit} are allowed; give a larger vocab_size")
    return longest


def _labeled(conversation: Conversation, label: str) -> Conversation:
    turns = [
        turn if turn.speaker == USER else turn.model_copy(update={"label": label})
        for turn in conversation.conversations
    ]
    return conversation.model_copy(update={"conversations": turns})


def _turn(value: str, speaker: str, **label: str | None) -> Turn:
    """A turn with its keys in the upstream order; without `label` the key is absent."""
    return Turn.model_validate({"value": value, "from": speaker, **label})


def _write_lines(path: Path, records: Iterable[Line]) -> None:
    with atomic_writer(path) as file:
        file.writelines(record.to_json() + "\n" for record in records)


def _rng(settings: ToySettings, part: str) -> random.Random:
    """A stream of its own for each part, so that one part's size does not change another's content."""
    return random.Random(f"{settings.seed}/{part}")
