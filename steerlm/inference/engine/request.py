# SPDX-License-Identifier: Apache-2.0
"""One generation request: the tokens it chose so far, the text they make, and the caller who waits for it.

Knows event loops and text; nothing of models or batches. `advance` runs in the engine's thread, the rest on the
caller's event loop.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from steerlm.errors import SteerLMError
from steerlm.inference.engine.detokenizer import Detokenizer, StopText, Vocabulary
from steerlm.inference.engine.sampling import Choice, Sampling, TokenLog

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added: final text (may be empty), the token, and at the end why it ended and by which string.

    `log`: of the token, if the request asked for log-probabilities.
    """

    text: str
    token: int | None
    finish: Finish | None = None
    stopped_by: str | None = None
    log: TokenLog | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished continuation. `text` has no stop string; `tokens` has all ids, the end-of-text id included.

    `logs`: one for each token, if the request asked for log-probabilities.
    """

    text: str
    tokens: list[int]
    finish: Finish
    stopped_by: str | None
    logs: list[TokenLog]


class Job:
    """One request inside the engine; made on the event loop that its pieces go to.

    `whole`: the caller wants no piece before the end. Each time its event loop wakes, the engine's thread waits.
    """

    def __init__(self, key: str, prompt: list[int], sampling: Sampling, vocabulary: Vocabulary, whole: bool) -> None:
        self.key, self._whole = key, whole
        self._kept: list[Piece] = []
        self.choice = Choice(sampling, prompt)
        self.done = False
        self._detokenizer = Detokenizer(vocabulary, prompt)
        self._stop = StopText(sampling.stop)
        self.loop = asyncio.get_running_loop()
        self.pieces: asyncio.Queue[Piece | SteerLMError] = asyncio.Queue()

    def advance(self, token: int, end: Sequence[int], log: TokenLog | None = None) -> list[Piece]:
        """Take the chosen token: extend the text, decide whether the request is finished; what to tell the caller."""
        tokens, limit = self.choice.tokens, self.choice.sampling.max_tokens
        tokens.append(token)
        at_end = token in end
        text = self._stop.push("" if at_end else self._detokenizer.push(token))
        finish: Finish | None = None
        if self._stop.found is None and (at_end or len(tokens) >= limit):
            text += self._stop.push(self._detokenizer.flush())
            finish = "stop" if at_end else "length"
            if self._stop.found is None:
                text += self._stop.flush()
        if self._stop.found is not None:
            finish = "stop"
        self.done = finish is not None
        self._kept.append(Piece(text, token, finish, self._stop.found, log))
        if self._whole and not self.done:
            return []
        told, self._kept = self._kept, []
        return told


def deliver(news: Iterable[tuple[Job, Piece | SteerLMError]]) -> None:
    """Hand each job its piece on its caller's event loop, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Piece | SteerLMError]]] = {}
    for job, piece in news:
        by_loop.setdefault(job.loop, []).append((job, piece))

    def put(items: list[tuple[Job, Piece | SteerLMError]]) -> None:
        for job, piece in items:
            job.pieces.put_nowait(piece)

    for loop, items in by_loop.items():
        # A loop may be gone already, when a server is torn down with requests in flight.
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, items)
