# SPDX-License-Identifier: Apache-2.0
"""What the objectives share: from records to units by way of their texts, which are tokenized many at a time."""

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
    """Token ids of whole texts, without BOS or EOS (behaviour spec 2.4 and 4.1).

    Keeps the Rust part of a fast transformers tokenizer alone, so that a process which unpickles it imports neither
    transformers nor torch. `tokenizer` None: for an objective that computes losses only.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.eos: int | None = getattr(tokenizer, "eos_token_id", None)
        self._split_special: bool = getattr(tokenizer, "split_special_tokens", False)

    def __call__(self, texts: Sequence[str], offsets: bool) -> list[Tokens]:
        """The tokens of each text; their character offsets are left empty unless asked for, which costs a quarter."""
        backend = self._backend
        backend.no_padding()  # whoever else uses the tokenizer may have switched them on
        backend.no_truncation()
        backend.encode_special_tokens = self._split_special
        if offsets:
            return [Tokens(one.ids, one.offsets) for one in backend.encode_batch(texts, add_special_tokens=False)]
        return [Tokens(one.ids, []) for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def digest(self) -> str:
        """sha256 of everything the ids depend on; the passing padding and truncation state is left out."""
        content = json.loads(self._backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
        text = json.dumps([content, self.eos], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked record before its text is tokenized. `units` makes its units from the tokens of `text`."""

    text: str
    units: Callable[[Tokens], Sequence[Unit]]


class TextRecords:
    """Base of the objectives whose records are one text each: they give `draft`, this tokenizes in batches."""

    offsets = False
    """Whether `Draft.units` needs the tokens' character offsets."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder = Encoder(tokenizer)
        self.counts: Counter[str] = Counter()
        self.warnings: dict[str, str] = {}

    def draft(self, record: Any) -> Draft:
        """Raises `InputError` for a record that the objective refuses."""
        raise NotImplementedError

    def units(self, record: Any) -> Sequence[Unit]:
        """See `Objective.units`."""
        return next(self.units_of([record]))

    def units_of(self, records: Iterable[Any]) -> Iterator[Sequence[Unit]]:
        """See `Objective.units_of`."""
        drafts: list[Draft] = []
        refused = None
        try:
            for record in records:
                drafts.append(self.draft(record))
        except InputError as error:
            refused = error  # a record before it may still turn out to be refused
        texts = [draft.text for draft in drafts]
        for draft, tokens in zip(drafts, self.encoder(texts, self.offsets), strict=True):
            yield draft.units(tokens)
        if refused is not None:
            raise refused

    def warn(self, what: str, message: str) -> None:
        """Say it once and count it as `what`."""
        self.counts[what] += 1
        self.warn_once(what, message)

    def warn_once(self, what: str, message: str) -> None:
        if what not in self.warnings:
            self.warnings[what] = message
            log.warning("%s (said once, counted as %s)", message, what)
