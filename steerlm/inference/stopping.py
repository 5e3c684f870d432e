# SPDX-License-Identifier: Apache-2.0
"""When a continuation is finished, and what text it is: end-of-text ids, stop strings, decoding after a prompt.

Knows a tokenizer and the sampling settings; nothing of models or batches.
"""

from collections.abc import Sequence
from typing import Any

from steerlm.prompt import MARKS


class Continuations:
    """Decodes continuations of one tokenizer and finds stop strings in them, whatever pieces those split into."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        marks = {i for i in tokenizer.convert_tokens_to_ids(list(MARKS)) if i is not None}
        # The template's marks may be special tokens; they are text all the same. Other special tokens are none.
        self._silent = set(tokenizer.all_special_ids) - marks
        # Each token is at least a byte of text, but the first piece may be a space that decoding strips.
        self._tail = max((len(s.encode()) for s in stop), default=0) + 1
        last = {s[-1] for s in stop}
        self._closing = {
            i
            for piece, i in tokenizer.get_vocab().items()
            if not piece.isascii() or piece.startswith("<0x") or any(c in piece for c in last)
        }

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether the newest token completed a stop string. Cheap for tokens that cannot end one."""
        return ids[-1] in self._closing and any(s in self._decode(ids[-self._tail :]) for s in self._stop)

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The continuation as it stands in the text decoded whole, up to the first stop string.

        Decoded behind the end of its prompt: decoding alone, a first piece would lose its leading space.
        """
        context = list(prompt[-8:])
        head, whole = self._decode(context), self._decode([*context, *ids])
        text = whole[len(head) :] if whole.startswith(head) else self._decode(ids)
        return text[: min((at for s in self._stop if (at := text.find(s)) >= 0), default=len(text))]

    def _decode(self, ids: Sequence[int]) -> str:
        shown = [i for i in ids if i not in self._silent]
        text: str = self._tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
