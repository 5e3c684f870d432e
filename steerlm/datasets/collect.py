# SPDX-License-Identifier: Apache-2.0
"""Ratings that people gave in the studio become a dataset: an artifact of the store, with a digest.

The same ratings give the same digest, wherever and whenever they are collected. Of several ratings of one answer by
one person the latest counts.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from steerlm.artifact import Artifact, Store
from steerlm.attributes import AttributeSchema
from steerlm.checksums import digest_json
from steerlm.datasets.outputs import TRAIN, VAL
from steerlm.datasets.rating_folder import rating_files
from steerlm.datasets.ratings import RatedConversation, read_rating
from steerlm.datasets.sources.helpsteer2 import PreferenceRow
from steerlm.errors import RecordError
from steerlm.files import atomic_writers
from steerlm.prompt import SYSTEM_PROMPT, TURN_MARK

STAGE, KIND, VERSION = "collect_ratings", "ratings", 1
PREFERENCES = "preference/preference.jsonl"
"""Where the source `helpsteer2` with `preference` looks for pairs below its folder."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A dataset of ratings.

    Attributes:
        artifact: `train.jsonl` and `val.jsonl` of conversations, and the preference pairs.
        ratings: Rated answers in it.
        preferences: Pairs in it.
        people: How many persons gave them.
        replaced: Ratings that a later one of the same answer by the same person replaced.
        notes: What is missing of the dataset, and what to do about it.
    """

    artifact: Artifact
    ratings: int
    preferences: int
    people: int
    replaced: int
    notes: tuple[str, ...]


def collect(ratings: str | Path, output: str | Path, *, schema: AttributeSchema, validation_share: float) -> Collected:
    """Make the dataset of all ratings at a place, or return the finished one.

    Args:
        ratings: The folder or `s3://bucket/prefix` that servers append to.
        output: The store of the artifact: a folder or `s3://bucket/prefix`.
        schema: The attributes that may be rated.
        validation_share: Share of the questions that go to the validation files, 0..1. All answers to a question are
            on one side.

    Raises:
        RecordError: A file is not a rating; names it.
        InputError: There are no ratings.
        StorageError: A transfer failed.
    """
    records: list[list[RatedConversation]] = []
    with rating_files(ratings) as files:
        for name, path in files.items():
            place = f"{str(ratings).rstrip('/')}/{name}"
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError as error:
                raise RecordError(place, 1, f"not UTF-8 ({error.reason})") from None
            records.append(read_rating(text, place, schema))
    kept = latest(records)
    lines: dict[str, list[str]] = {TRAIN: [], VAL: [], PREFERENCES: []}
    for record in kept:
        split = VAL if in_validation(record[0].question, validation_share) else TRAIN
        if record[0].rating.kind == "rating":
            lines[split].append(record[0].to_json())
        else:
            lines[PREFERENCES].append(preference_row(record[0], record[1], split.removesuffix(".jsonl")).to_json())
    pairs = [record[0] for record in kept if len(record) == 2]
    return Collected(
        artifact=_store(Store(output), lines, schema, {"source": str(ratings), "files": len(records)}),
        ratings=len(kept) - len(pairs),
        preferences=len(pairs),
        people=len({record[0].rating.person for record in kept}),
        replaced=len(records) - len(kept),
        notes=_missing(lines, len({record[0].question for record in kept if len(record) == 1}), validation_share),
    )


def _missing(lines: dict[str, list[str]], questions: int, share: float) -> tuple[str, ...]:
    """Return what the parts that have no lines mean, each with its remedy."""
    if not questions:
        return ("there are preferences alone: neither train.jsonl nor val.jsonl; rate answers to get them",)
    count = f"{questions:,} rated question{'' if questions == 1 else 's'}"
    if not lines[VAL]:
        return (
            f"no val.jsonl: none of the {count} is in the share that validates ({share:g}); a recipe trains without "
            "validation then, and its evaluation needs prepare_data.questions. Rate more, or raise --validation-share",
        )
    if not lines[TRAIN]:
        return (f"no train.jsonl: all of the {count} validate; rate more, or lower --validation-share ({share:g})",)
    return ()


def latest(records: Iterable[list[RatedConversation]]) -> list[list[RatedConversation]]:
    """Return the ratings in order of time and id, without those that the same person gave anew."""
    ordered = sorted(records, key=lambda record: (record[0].rating.at, record[0].rating.id))
    newest = {
        (record[0].rating.person, record[0].question, *sorted(one.answer for one in record)): record
        for record in ordered
    }
    chosen = {id(record) for record in newest.values()}
    return [record for record in ordered if id(record) in chosen]


def in_validation(question: tuple[str, ...], share: float) -> bool:
    """Return whether a question is one of the validation share: decided by its text alone."""
    number = int(hashlib.sha256(digest_json(question).encode()).hexdigest()[:8], 16)
    return number < share * 2**32


def preference_row(first: RatedConversation, second: RatedConversation, split: str) -> PreferenceRow:
    """Return a pair in HelpSteer2's form (docs/upstream.md#helpsteer2): earlier turns are inside the prompt's text.

    That form has no system prompt; one of the pair's own is in a further column, `system`, which our source reads.
    """
    opening, *rest = first.conversations[:-1]
    prompt = opening.value + "".join(f"\n{TURN_MARK}{turn.speaker}\n{turn.value}" for turn in rest)
    note = first.rating
    more = {"system": first.system} if first.system != SYSTEM_PROMPT else {}
    return PreferenceRow.model_validate(
        {
            "prompt": prompt,
            "response_1": first.answer,
            "response_2": second.answer,
            "preference_strength": note.strength,
            "split": split,
            **more,
            "rating": {**note.model_dump(include={"id", "by", "key", "at", "model"}, exclude_unset=True),
                       "asked_1": note.asked, "asked_2": second.rating.asked},
        }
    )  # fmt: skip


def _store(
    store: Store, lines: dict[str, list[str]], schema: AttributeSchema, provenance: dict[str, object]
) -> Artifact:
    written = {name: rows for name, rows in lines.items() if rows}
    parts = {"stage": STAGE, "version": VERSION, "lines": written, "attributes": schema.model_dump(mode="json")}
    key = digest_json(parts)[:20]
    with store.lock(STAGE, key, lambda holder: None) as held:
        if found := store.find(STAGE, key):
            return store.materialize(found)
        store.begin(STAGE, key, KIND, {"label": STAGE, "version": VERSION, **provenance})
        folder = store.folder(STAGE, key) / KIND
        with atomic_writers(*(folder / name for name in written)) as files:
            for file, rows in zip(files, written.values(), strict=True):
                file.writelines(f"{row}\n" for row in rows)
        return store.finish(STAGE, key, KIND, schema, provenance, held=held)
