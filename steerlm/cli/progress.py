# SPDX-License-Identifier: Apache-2.0
"""The progress of a command on one line that fits the terminal: position, percent, rate, time left, the rest.

Whatever reports progress says `step 12/300 loss=2.1` or `train: conversation 64/1000, ...`; the position is all that is
needed here. The same lines, without being cut, go to files now and then.
"""

import re
import time
from typing import IO

EVERY = 15.0
"""Seconds between lines of the same progress where the output is not a terminal."""
# Not "unschedulable: 0/32 nodes are available", which a cluster says.
_POSITION = re.compile(r"(?P<before>.*?)(?<!: )\b(?P<done>\d+)/(?P<total>\d+)\b(?P<after>.*)", re.DOTALL)


class Pace:
    """Adds percent, rate and time left to texts that name a position.

    The rate counts from the first position that was seen, so that work of an earlier run does not count.

    >>> pace = Pace()
    >>> pace("step 100/300 loss=3", 0.0)
    'step 100/300  33 %  loss=3'
    >>> pace("step 150/300 loss=2", 25.0)
    'step 150/300  50 %  2.0/s  1:15 left  loss=2'
    """

    def __init__(self) -> None:
        self._what, self._start, self._since = "", 0, 0.0

    def __call__(self, text: str, now: float) -> str:
        """Return the text with what is known at the time `now`; without a position, as it is."""
        match = _POSITION.fullmatch(text)
        if match is None or int(match["total"]) == 0:
            return text
        done, total, what = int(match["done"]), int(match["total"]), f"{match['before']}/{match['total']}"
        if what != self._what or done < self._start:
            self._what, self._start, self._since = what, done, now
        parts = [f"{match['before']}{done}/{total}", f"{100 * done // total} %"]
        seconds, more = now - self._since, done - self._start
        if more > 0 and seconds > 0:
            parts += [_rate(more / seconds), f"{_clock((total - done) * seconds / more)} left"]
        return "  ".join(part for part in (*parts, match["after"].strip(" ,")) if part)


class ProgressLine:
    """A line that is written over in a terminal, and printed now and then elsewhere.

    A text that says something else than the last one, not only other numbers, is printed at once.

    Args:
        out: Where it goes.
        live: Whether that is a terminal; None: ask it.
    """

    def __init__(self, out: IO[str], *, live: bool | None = None) -> None:
        self.out = out
        self.live = out.isatty() if live is None else live
        self._pace, self._last, self._shown, self._words = Pace(), float("-inf"), False, ""

    def show(self, text: str, *, head: str = "", now: float | None = None) -> None:
        """Show the progress `text` after `head`, in place of what was shown before."""
        now = time.time() if now is None else now
        line = head + self._pace(text, now)
        if self.live:
            self.out.write(f"\r\x1b[K{fitted(line, width())}")
            self._shown = True
        elif now - self._last >= EVERY or _words(text) != self._words:
            self._last, self._words = now, _words(text)
            self.out.write(f"{line}\n")
        self.out.flush()

    def note(self, text: str) -> None:
        """Show a line that stays, whole, above the progress."""
        self.out.write(("\r\x1b[K" if self._shown else "") + f"{text}\n")
        self._shown = False
        self.out.flush()

    def end(self, text: str = "") -> None:
        """Take the progress away and start anew; `text` is a line that stays."""
        self._pace, self._last = Pace(), float("-inf")
        self.out.write("\r\x1b[K" if self._shown else "")
        self._shown = False
        if text:
            self.out.write(f"{fitted(text, width()) if self.live else text}\n")
        self.out.flush()


def _words(text: str) -> str:
    """Return what a text says before its first number."""
    return re.split(r"\d", text, maxsplit=1)[0]


def width() -> int:
    """Return how many characters a line may have, so that the terminal does not wrap it."""
    from shutil import get_terminal_size

    return get_terminal_size().columns - 1


def fitted(line: str, columns: int) -> str:
    """Return a line cut to the columns, between two words where a fair part of it stays.

    >>> fitted("step 1/2  50 %  loss=2.3", 20), fitted("/a/long/path/of/one/word", 10)
    ('step 1/2  50 %', '/a/long/pa')
    """
    if len(line) <= columns:
        return line
    end = line.rfind(" ", 0, columns + 1)
    return line[: end if end > columns // 2 else columns].rstrip()


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:.0f}/s" if per_second >= 100 else f"{per_second:.1f}/s"
    return f"{1 / per_second:.1f} s each"


def _clock(seconds: float) -> str:
    """Return a duration as 0:48 or 2:03:10.

    >>> _clock(48), _clock(7390)
    ('0:48', '2:03:10')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
