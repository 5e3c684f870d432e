# SPDX-License-Identifier: Apache-2.0
"""Base of the objectives: from records to units through their texts, which are tokenized in batches."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerlm.errors import InputError
from steerlm.prompt import Tokens
from steerlm.training.data import Unit

log = logging.getLogger(__name__)


class Encoder:
    """Tokenizes whole texts, without BOS or EOS: `docs/upstream.md#sft-tokens`, `docs/upstream.md#reward-dataset`.

    Keeps only the Rust part of a fast transformers tokenizer, so that a process that unpickles it imports neither
    transformers nor torch. `tokenizer` may be None for an objective that only computes losses.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.eos: int | None = getattr(tokenizer, "eos_token_id", None)
        self._split_special: bool = getattr(tokenizer, "split_special_tokens", False)

    def __call__(self, texts: Sequence[str], offsets: bool) -> list[Tokens]:
        """Return the tokens of each text. Their character offsets, a quarter of the time, are computed on request."""
        backend = self._backend
        backend.no_padding()  # other users of the tokenizer may have enabled them
        backend.no_truncation()
        backend.encode_special_tokens = self._split_special
        if offsets:
            return [Tokens(one.ids, one.offsets) for one in backend.encode_batch(texts, add_special_tokens=False)]
        return [Tokens(one.ids, []) for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def digest(self) -> str:
        """Return the sha256 of everything the ids depend on, without the transient padding and truncation state."""
        content = json.loads(self._backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
        text = json.dumps([content, self.eos], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked record before its text is tokenized. `units` turns the tokens of `text` into units."""

    text: str
    units: Callable[[Tokens], Sequence[Unit]]


class TextRecords:
    """Base of objectives whose records are one text each: they implement `draft`, this class tokenizes in batches."""

    offsets = False
    """Whether `Draft.units` needs the tokens' character offsets."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder = Encoder(tokenizer)
        self.counts: Counter[str] = Counter()
        self.warnings: dict[str, str] = {}

    def draft(self, record: Any) -> Draft:
        """Check a record and return its text. Raises `InputError` for a record that the objective refuses."""
        raise NotImplementedError

    def units(self, records: Iterable[Any]) -> Iterator[Sequence[Unit]]:
        """See `Objective.units`."""
        drafts: list[Draft] = []
        refusal = None
        try:
            for record in records:
                drafts.append(self.draft(record))
        except InputError as error:
            refusal = error  # an earlier record may still be refused, after it is tokenized
        texts = [draft.text for draft in drafts]
        for draft, tokens in zip(drafts, self.encoder(texts, self.offsets), strict=True):
            yield draft.units(tokens)
        if refusal is not None:
            raise refusal

    def warn(self, name: str, message: str) -> None:
        """Count a warning under `name`, and log it the first time."""
        self.counts[name] += 1
        self.warn_once(name, message)

    def warn_once(self, name: str, message: str) -> None:
        """Log `message` unless `name` was logged before; counts nothing. See `Objective.warn_once`."""
        if name not in self.warnings:
            self.warnings[name] = message
            log.warning("%s (logged once, counted as %s)", message, name)
