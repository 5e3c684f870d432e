# SPDX-License-Identifier: Apache-2.0
"""Stop strings in a text that arrives in parts."""

from collections.abc import Sequence

from steerlm.prompt import TURN_MARK


class StopStringMatcher:
    """Cuts a growing text before its first stop string and holds back text that may be the start of one.

    The first stop string is the one that is complete first; the text ends where it begins, or before that where the
    text up to its end may be the start of a longer one. In which parts the text arrives makes no difference.

    Attributes:
        matched: The text that was cut off, up to the end of the stop string that ended the text; None without a match.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text; return the part that is final now. After a match all text is dropped."""
        if self.matched is not None:
            return ""
        self._held += text
        ends = [start + len(s) for s in self._stop if (start := self._held.find(s)) >= 0]
        if ends:
            whole, self._held = self._held[: min(ends)], ""
            cut = stop_start(whole, self._stop)
            self.matched = whole[cut:]
            return whole[:cut]
        cut = stop_start(self._held, self._stop)
        final, self._held = self._held[:cut], self._held[cut:]
        return final

    def finish(self, *, cut_short: bool) -> str:
        """Return the rest of the text at its end.

        Of a text that is cut short nothing is left: what is held back might have become a stop string. A text that the
        model ended is its own, except for the start of a turn's mark, which is never a part of an answer.
        """
        held, self._held = self._held, ""
        marks = [s for s in self._stop if s.endswith(TURN_MARK)]
        return "" if cut_short else held[: stop_start(held, marks)]


def stop_start(text: str, stop: Sequence[str]) -> int:
    """Return where the longest ending of `text` starts that a stop string begins with, or else its length.

    >>> stop_start("a dog<extra", ["<extra_id_1>"])
    5
    """
    first = max(0, len(text) - max(map(len, stop), default=0))
    return next((i for i in range(first, len(text)) if any(s.startswith(text[i:]) for s in stop)), len(text))
