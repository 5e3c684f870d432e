# SPDX-License-Identifier: Apache-2.0
"""A generation request: its continuation and the caller that waits for it on an event loop."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerlm.errors import SteerLMError
from steerlm.inference.engine.continuation import Continuation, FinishReason
from steerlm.inference.engine.sampling_state import TokenLogprobs

STOPPED = "the generation engine is not running"


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """What one step added to a continuation.

    Attributes:
        text: Final text; may be empty.
        token: The token of the step; None for the rest of the text, where another engine ends it without a token.
        finish_reason: Set on the last chunk.
        stop_string: On the last chunk, what was cut off up to the end of the stop string that ended the text.
        logprobs: Of the token, if the request asks for log-probabilities.
    """

    text: str
    token: int | None
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished continuation.

    Attributes:
        text: The text before the stop string.
        tokens: All ids, including the end-of-text id.
        finish_reason: Why it ended.
        stop_string: What was cut off up to the end of the stop string that ended it.
        logprobs: One per token, if the request asks for log-probabilities.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    stop_string: str | None
    logprobs: list[TokenLogprobs]

    @classmethod
    def from_chunks(cls, chunks: Sequence[GenerationChunk]) -> "Completion":
        """Join the chunks of a continuation."""
        last = chunks[-1]
        assert last.finish_reason is not None
        return cls(
            text="".join(chunk.text for chunk in chunks),
            tokens=[chunk.token for chunk in chunks if chunk.token is not None],
            finish_reason=last.finish_reason,
            stop_string=last.stop_string,
            logprobs=[chunk.logprobs for chunk in chunks if chunk.logprobs is not None],
        )


class GenerationRequest:
    """A request in the engine; created on the event loop that its chunks go to.

    Attributes:
        id: Unique within the engine.
        continuation: Tokens and text so far.
        closed: Whether it is finished, canceled or failed.
        loop: The caller's event loop.
        chunks: What the caller reads; an error ends it.
    """

    def __init__(self, request_id: str, continuation: Continuation, *, stream: bool) -> None:
        """Create a request.

        Args:
            request_id: Unique within the engine.
            continuation: The empty continuation of its prompt.
            stream: Deliver each chunk at once; else all at the end, because the engine's thread has to wait each time
                it wakes an event loop.
        """
        self.id, self.continuation = request_id, continuation
        self.closed = False
        self.loop = asyncio.get_running_loop()
        self.chunks: asyncio.Queue[GenerationChunk | SteerLMError] = asyncio.Queue()
        self._stream = stream
        self._undelivered: list[GenerationChunk] = []

    @property
    def error(self) -> str | None:
        """Why the continuation cannot go on; None if it can."""
        matcher = self.continuation.state.matcher
        return matcher.error if matcher else None

    def append(self, token: int, logprobs: TokenLogprobs | None = None) -> list[GenerationChunk]:
        """Add the selected token; return the chunks to deliver now. Called in the engine's thread."""
        text = self.continuation.append(token)
        finish_reason = self.continuation.finish_reason
        self.closed = finish_reason is not None
        self._undelivered.append(
            GenerationChunk(text, token, finish_reason, self.continuation.stop_string, logprobs),
        )
        if not self._stream and not self.closed:
            return []
        chunks, self._undelivered = self._undelivered, []
        return chunks


def deliver(items: Iterable[tuple[GenerationRequest, GenerationChunk | SteerLMError]]) -> None:
    """Put chunks and errors into the queues of their requests, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[GenerationRequest, GenerationChunk | SteerLMError]]] = {}
    for request, item in items:
        by_loop.setdefault(request.loop, []).append((request, item))

    def put(pairs: list[tuple[GenerationRequest, GenerationChunk | SteerLMError]]) -> None:
        for request, item in pairs:
            request.chunks.put_nowait(item)

    for loop, pairs in by_loop.items():
        # Closed if a server is torn down with requests in flight.
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, pairs)
