# SPDX-License-Identifier: Apache-2.0
"""A continuation as it grows: token ids become text, held back while a character or a stop string may be unfinished.

Knows a tokenizer and stop strings, not where tokens come from. What is emitted never changes afterwards, and the sum
of what is emitted is the final text.
"""

import re
from collections.abc import Sequence
from typing import Any

BYTE = re.compile(r"<0x[0-9A-F]{2}>$")
BROKEN = "\ufffd"


class Vocabulary:
    """What decoding needs to know of a fast tokenizer: byte-fallback pieces and special tokens without a text.

    `visible` are special tokens that stay in the text (the template's marks may be single tokens).
    """

    def __init__(self, tokenizer: Any, visible: Sequence[str] = ()) -> None:
        self.backend = tokenizer.backend_tokenizer
        table: dict[str, int] = self.backend.get_vocab(with_added_tokens=True)
        self.bytes = {i for piece, i in table.items() if BYTE.match(piece)}
        shown = {table[mark] for mark in visible if mark in table}
        self.silent = set(tokenizer.all_special_ids) - shown
        # Decoders treat the first token of a text apart: a token's own text is what it adds to this one's.
        self._anchor = self.backend.encode("a", add_special_tokens=False).ids[-1:]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.backend.decode([i for i in ids if i not in self.silent], skip_special_tokens=False)
        return text

    def token_text(self, token: int) -> tuple[str, list[int] | None]:
        """A token's text and its UTF-8 bytes; None where it is a piece of a character that the text cannot show."""
        piece: str = self.backend.id_to_token(token) or ""
        if token in self.silent:
            return piece, list(piece.encode())
        if token in self.bytes:
            return piece, [int(piece[3:5], 16)]
        text = self.decode([*self._anchor, token])[len(self.decode(self._anchor)) :]
        return text, None if BROKEN in text else list(text.encode())


class Detokenizer:
    """Text of one continuation, token by token; `push` returns what became final, `flush` the rest.

    Held back: a trailing run of byte pieces and an incomplete UTF-8 character, whose text depends on what follows.
    Text is decoded after one token of context, so that a leading space is kept as in the text decoded whole.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        plain = (i for i in reversed(prompt[-64:]) if i not in vocabulary.bytes and i not in vocabulary.silent)
        last = next(plain, None)
        self._context = [] if last is None else [last]
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(token)
        if token in self._vocabulary.bytes:
            return ""
        text = self._pending_text()
        if text.endswith(BROKEN):
            return ""
        return self._emit(text)

    def flush(self) -> str:
        """What is still held back; bytes that never became a character come out as U+FFFD."""
        return self._emit(self._pending_text())

    def _pending_text(self) -> str:
        decode = self._vocabulary.decode
        return decode(self._context + self._pending)[len(decode(self._context)) :]

    def _emit(self, text: str) -> str:
        plain = [i for i in self._pending if i not in self._vocabulary.bytes and i not in self._vocabulary.silent]
        self._context = plain[-1:] or self._context
        self._pending = []
        return text


class StopText:
    """Cuts a growing text at the first stop string, and holds back what may turn out to be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is now certain. After a stop string was `found`, nothing more comes."""
        if self.found is not None:
            return ""
        self._held += text
        hits = [(at, -len(s), s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if hits:
            at, _, self.found = min(hits)
            out, self._held = self._held[:at], ""
            return out
        keep = max(
            (n for s in self._stop for n in range(1, min(len(s), len(self._held) + 1)) if self._held.endswith(s[:n])),
            default=0,
        )
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def flush(self) -> str:
        out, self._held = self._held, ""
        return out
