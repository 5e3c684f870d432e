# SPDX-License-Identifier: Apache-2.0
"""Write the synthetic world to a folder: conversations, plain text, held-out questions and a tokenizer.

The seed determines every byte. The questions are split once, so the held-out questions and those of the validation
file never occur in training data.
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
from steerlm.toyworld.oracle import ATTRIBUTES, score
from steerlm.toyworld.ratings import HIGH, LOW, rate
from steerlm.toyworld.tokenizer import write_tokenizer

TOKENIZER_SAMPLE = 2000
"""Number of documents and of conversations that the tokenizer is trained on, enough to contain every word."""


class Split(NamedTuple):
    """A partition of the world's questions."""

    train: list[world.Question]
    validation: list[world.Question]
    held_out: list[world.Question]


def write_world(folder: Path, settings: ToySettings) -> dict[str, int]:
    """Write the world's files and return their counts.

    The files are `train.jsonl` and `val.jsonl` (conversations), `plain_train.jsonl` and `plain_val.jsonl` ({"text"}),
    `questions.jsonl` ({"question"}), `tokenizer/` and `oracle.json` (how the oracle scores each attribute).

    Raises:
        InputError: A prompt or a conversation is longer than the settings allow, or too many questions are held out.
    """
    split = split_questions(settings)
    train = list(conversations("train", settings.conversations, split.train, settings))
    validation = list(conversations("validation", settings.validation_conversations, split.validation, settings))
    plain = {
        "plain_train": list(documents("plain", settings.plain_documents, split.train, settings)),
        "plain_val": list(documents("plain_validation", settings.plain_validation_documents, split.train, settings)),
    }
    corpus = [d.text for d in plain["plain_train"][:TOKENIZER_SAMPLE]] + [
        t.value for c in train[:TOKENIZER_SAMPLE] for t in c.conversations
    ]
    write_tokenizer(folder / "tokenizer", corpus, tuple(ATTRIBUTES), settings.vocab_size)
    longest = _check_lengths(folder / "tokenizer", split, [*train, *validation], settings)

    _write_lines(folder / "train.jsonl", train)
    _write_lines(folder / "val.jsonl", validation)
    for name, texts in plain.items():
        _write_lines(folder / f"{name}.jsonl", texts)
    with atomic_writer(folder / "questions.jsonl") as file:
        file.writelines(json.dumps({"question": question.text}) + "\n" for question in split.held_out)
    write_json(folder / "oracle.json", {name: {"counts": counts} for name, counts in ATTRIBUTES.items()})
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
    """Split the questions: `settings.questions` held out, a tenth for validation, and at least half for training."""
    questions = list(world.questions())
    validation = len(questions) // 10
    if settings.questions > len(questions) // 2 - validation:
        raise InputError(
            f"questions: {settings.questions} of the world's {len(questions)} cannot be held out; "
            f"at most {len(questions) // 2 - validation}"
        )
    _rng(settings, "questions").shuffle(questions)
    held_out, rest = questions[: settings.questions], questions[settings.questions :]
    return Split(train=rest[validation:], validation=rest[:validation], held_out=held_out)


def conversations(
    part: str, count: int, questions: Sequence[world.Question], settings: ToySettings
) -> Iterator[Conversation]:
    """Yield `count` conversations about `questions`, with the settings' shares of rated and of two-exchange ones."""
    rng = _rng(settings, part)
    for _ in range(count):
        exchanges = 2 if rng.random() < settings.two_exchange_share else 1
        rated = rng.random() < settings.rated_share
        turns: list[Turn] = []
        for question in rng.sample(questions, exchanges):
            attributes = {name: rng.randint(LOW, HIGH) for name in ATTRIBUTES}
            answer = sample_answer(question.text, attributes, rng)
            turns.append(_turn(question.text, USER, label=None))
            if rated:
                label = AttributeSchema().format(rate(score(question.text, answer), settings.raters, rng))
                turns.append(_turn(answer, ASSISTANT, label=label))
            else:
                turns.append(_turn(answer, ASSISTANT))
        yield Conversation(conversations=turns, system=SYSTEM_PROMPT, mask=USER, type="VALUE_TO_TEXT")


def documents(part: str, count: int, questions: Sequence[world.Question], settings: ToySettings) -> Iterator[PlainText]:
    """Yield `count` plain-text documents on `questions`, drawn from the seed and `part`."""
    rng = _rng(settings, part)
    for _ in range(count):
        yield PlainText(text=document(questions, rng))


def _check_lengths(
    tokenizer_folder: Path, split: Split, records: Sequence[Conversation], settings: ToySettings
) -> dict[str, int]:
    """Check lengths in tokens, with all nine labels, and return the longest prompt's and the longest conversation's."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    label = AttributeSchema().format(dict.fromkeys(ATTRIBUTES, HIGH))
    prompts = [render_prompt([_turn(question.text, USER)], label) for part in split for question in part]
    texts = [text_of(render(_labeled(conversation, label))) for conversation in records]
    longest = {}
    for kind, batch, limit in (("prompt", prompts, settings.prompt_budget), ("conversation", texts, settings.window)):
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]
        longest[f"longest_{kind}"] = max(lengths)
        if max(lengths) > limit:
            raise InputError(f"a {kind} has {max(lengths)} tokens, more than the limit of {limit}; increase vocab_size")
    return longest


def _labeled(conversation: Conversation, label: str) -> Conversation:
    turns = [
        turn if turn.speaker == USER else turn.model_copy(update={"label": label})
        for turn in conversation.conversations
    ]
    return conversation.model_copy(update={"conversations": turns})


def _turn(value: str, speaker: str, **label: str | None) -> Turn:
    """Return a turn with its keys in upstream's order; without `label` the key is absent."""
    return Turn.model_validate({"value": value, "from": speaker, **label})


def _write_lines(path: Path, records: Iterable[Line]) -> None:
    with atomic_writer(path) as file:
        file.writelines(record.to_json() + "\n" for record in records)


def _rng(settings: ToySettings, part: str) -> random.Random:
    """Return a separate random generator for a part, so that one part's size does not affect another's content."""
    return random.Random(f"{settings.seed}/{part}")
