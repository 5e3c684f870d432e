# SPDX-License-Identifier: Apache-2.0
"""Incremental detokenization: token ids become text while they are generated.

Text is held back while it depends on the next token. What was returned never changes, and its sum is the text of all
ids decoded at once.
"""

import re
from collections.abc import Sequence
from typing import Any

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>$")
REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are not a character."""


class Vocabulary:
    """Decoding with a fast tokenizer, which special tokens take part in only if they are `visible`.

    Attributes:
        byte_ids: Ids of byte-fallback pieces.
        hidden_ids: Ids of special tokens that have no text.
    """

    def __init__(self, tokenizer: Any, visible: Sequence[str] = ()) -> None:
        """Read a transformers fast tokenizer.

        Args:
            tokenizer: The tokenizer.
            visible: Special tokens that keep their text, such as the template's marks.
        """
        self._backend = tokenizer.backend_tokenizer
        ids_by_piece: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        self.byte_ids = {i for piece, i in ids_by_piece.items() if BYTE_PIECE.match(piece)}
        self.hidden_ids = set(tokenizer.all_special_ids) - {ids_by_piece[v] for v in visible if v in ids_by_piece}
        # Decoders treat the first token of a text differently: a token's own text is what it adds after this one.
        self._anchor = self._backend.encode("a", add_special_tokens=False).ids[-1:]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        text: str = self._backend.decode([i for i in ids if i not in self.hidden_ids], skip_special_tokens=False)
        return text

    def token_text(self, token: int) -> tuple[str, list[int] | None]:
        """Return a token's text and its UTF-8 bytes; None for a part of a character that text cannot show."""
        piece: str = self._backend.id_to_token(token) or ""
        if token in self.hidden_ids:
            return piece, list(piece.encode())
        if token in self.byte_ids:
            return piece, [int(piece[3:5], 16)]
        text = self.decode([*self._anchor, token])[len(self.decode(self._anchor)) :]
        return text, None if REPLACEMENT in text else list(text.encode())

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """Return the index of the character that each token starts at in the text of `ids`."""
        detokenizer, offset = Detokenizer(self, []), 0
        offsets = []
        for token in ids:
            offsets.append(offset)
            offset += len(detokenizer.push(token))
        return offsets


class Detokenizer:
    """The text of one continuation, token by token.

    Held back are trailing byte pieces and an incomplete UTF-8 character, whose text depends on the next token. Tokens
    are decoded after the last token before them, which keeps the leading space that decoding them alone would strip.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._not_context = vocabulary.byte_ids | vocabulary.hidden_ids
        self._context = next(([i] for i in reversed(prompt[-64:]) if i not in self._not_context), list[int]())
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Add a token; return the text that is final now."""
        self._pending.append(token)
        if token in self._vocabulary.byte_ids:
            return ""
        text = self._pending_text()
        return "" if text.endswith(REPLACEMENT) else self._emit(text)

    def flush(self) -> str:
        """Return the text still held back; bytes that are not a character become U+FFFD."""
        return self._emit(self._pending_text())

    def _pending_text(self) -> str:
        decode = self._vocabulary.decode
        return decode(self._context + self._pending)[len(decode(self._context)) :]

    def _emit(self, text: str) -> str:
        self._context = next(([i] for i in reversed(self._pending) if i not in self._not_context), self._context)
        self._pending = []
        return text
