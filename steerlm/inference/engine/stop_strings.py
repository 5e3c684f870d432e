# SPDX-License-Identifier: Apache-2.0
"""Stop strings in a text that arrives in parts."""

from collections.abc import Sequence


class StopStringMatcher:
    """Cuts a growing text before its first stop string and holds back text that may be the start of one.

    Attributes:
        matched: The stop string that ended the text, or None.
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
        matches = [(start, -len(s), s) for s in self._stop if (start := self._held.find(s)) >= 0]
        if matches:
            start, _, self.matched = min(matches)
            final, self._held = self._held[:start], ""
            return final
        keep = max(
            (n for s in self._stop for n in range(1, min(len(s), len(self._held) + 1)) if self._held.endswith(s[:n])),
            default=0,
        )
        cut = len(self._held) - keep
        final, self._held = self._held[:cut], self._held[cut:]
        return final

    def flush(self) -> str:
        """Return the text still held back, at the end of the text."""
        final, self._held = self._held, ""
        return final
