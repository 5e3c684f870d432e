# SPDX-License-Identifier: Apache-2.0
"""Answers in JSON: which tokens an answer may continue with, so that it is JSON and conforms to a schema.

llguidance compiles schemas and computes the sets of tokens. What it cannot express it refuses, so that no part of a
schema is ignored. Here is the rest: where an answer ends, and that it never contains the mark that ends a turn.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from steerlm.errors import InputError
from steerlm.prompt import TURN_MARK, TURN_STOP_STRINGS, marks_in

OPTIONS: Any = {
    # A space, or a line break with indentation: a model that is not used to JSON would write blanks for ever.
    "whitespace_pattern": r" |\n[ \t]{0,16}",
    # A schema cannot choose these by its own `x-guidance`.
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
}

TokenSet = npt.NDArray[np.bool_]
"""[vocabulary] whether each token is in the set."""


class JsonSchemas:
    """Compiles schemas for the tokenizer of one model.

    Attributes:
        tokenizer: llguidance's view of it: the bytes of every token.
        closing: The tokens by which a model begins to close its turn, where it has no token for that.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        """Read a transformers fast tokenizer, which takes a second for 128,000 tokens.

        Raises:
            InputError: Its tokens cannot be mapped to bytes, or it has no token that ends a text.
        """
        try:
            # The width is that of the ids: a tokenizer may have ids that are not a token.
            self.tokenizer: LLTokenizer = from_tokenizer(tokenizer, eos_token=list(end_ids) or None)
        except ValueError as error:
            raise InputError(f"this model's tokenizer cannot be restricted to JSON: {_short(error)}") from None
        special = self.tokenizer.is_special_token
        pieces = [
            b"" if special(token) else self.tokenizer.decode_bytes([token])
            for token in range(self.tokenizer.vocab_size)
        ]
        ends = [text.encode() for text in TURN_STOP_STRINGS]
        self.closing = _token_set(bool(p) and any(e.startswith(p) or p.startswith(e) for e in ends) for p in pieces)
        mark = TURN_MARK.encode()
        self._completing = [
            _token_set(mark in piece or (length > 0 and piece.startswith(mark[length:])) for piece in pieces)
            for length in range(len(mark))
        ]

    def completing_mark(self, text: bytes) -> TokenSet:
        """Return the tokens that complete a turn's mark after `text`."""
        mark = TURN_MARK.encode()
        return self._completing[next(n for n in range(len(mark) - 1, -1, -1) if text.endswith(mark[:n]))]

    def compile(self, schema: Mapping[str, Any]) -> "JsonGrammar":
        """Return the grammar of a schema.

        Raises:
            InputError: The schema is invalid, cannot be satisfied, or has a keyword that cannot be guaranteed.
        """
        if marks := marks_in(json.dumps(schema, ensure_ascii=False)):
            raise InputError(f"it contains the marker {marks[0]}, which is reserved by the model's template")
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS)
        except (ValueError, RecursionError) as error:
            raise InputError(_short(error)) from None
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InputError(_short(matcher.get_error()))
        return JsonGrammar(self, matcher, schema)


class JsonGrammar:
    """A compiled schema, which any number of answers share. `schema`: what it was compiled from."""

    def __init__(self, schemas: JsonSchemas, matcher: LLMatcher, schema: Mapping[str, Any]) -> None:
        self._schemas, self._matcher, self.schema = schemas, matcher, schema

    def start(self) -> "JsonMatcher":
        """Return the state of a new answer."""
        return JsonMatcher(self._schemas, self._matcher.deep_copy())


class JsonMatcher:
    """How far one answer has come.

    Attributes:
        closed: Whether the last token ended the answer without being a part of it.
        error: Why the answer cannot go on: the schema led to a state that is too complex, or that allows no token.
    """

    def __init__(self, schemas: JsonSchemas, matcher: LLMatcher) -> None:
        self._schemas, self._matcher = schemas, matcher
        self._tail = b""
        self.closed = False
        self.error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer is complete and nothing can be added to it."""
        return self.closed or (self._matcher.is_stopped() and not self._matcher.is_error())

    def forbidden(self, width: int) -> TokenSet | None:
        """Return [width] whether each token cannot follow; if none can, set `error` and return None."""
        allowed = np.zeros(width, dtype=np.bool_)
        own = self._allowed()[: len(allowed)]
        allowed[: len(own)] = own
        if self._matcher.is_error():
            self.error = f"the schema became too complex: {_short(self._matcher.get_error())}"
        elif not allowed.any():
            self.error = "the schema allows no further token"
        else:
            return ~allowed
        return None

    def append(self, token: int) -> None:
        """Add the selected token."""
        closing = self._schemas.closing
        # A number may always have one more digit: a model without an end-of-text token ends it as it ends its turn.
        if self._matcher.is_accepting() and closing[token] and not self._matcher.validate_tokens([token]):
            self.closed = True
            return
        self._matcher.consume_token(token)
        self._tail = (self._tail + self._schemas.tokenizer.decode_bytes([token]))[-len(TURN_MARK) :]

    def _allowed(self) -> TokenSet:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        schemas = self._schemas
        size = schemas.tokenizer.vocab_size
        allowed: TokenSet = np.unpackbits(bits, count=size, bitorder="little").astype(np.bool_)
        allowed &= ~schemas.completing_mark(self._tail)
        return allowed | schemas.closing if self._matcher.is_accepting() else allowed


def _token_set(members: Any) -> TokenSet:
    return np.fromiter(members, dtype=np.bool_)


def _short(error: object) -> str:
    """Return an error in one line: a regular expression's is drawn over several, a parser's ends in its state."""
    return " ".join(str(error).partition("<state>")[0].split())
