# SPDX-License-Identifier: Apache-2.0
"""What is known of the HTTP request being answered: its id, its key, the tokens, attributes and scores it came to.

The outermost middleware makes a record (`operations/observer.py`) and reports it to metrics, log and trace. Routes and
services add to it through `current()`, without passing it on: it is in a context variable, which the tasks that a
request starts inherit.
"""

import contextvars
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

OTHER = "other"
"""The route of a request to a path that no route has."""


class TokenSink(Protocol):
    """Where tokens and scores are counted while a request runs."""

    def prompt_tokens(self, record: "RequestRecord", count: int) -> None:
        """Count tokens of prompts or of texts to score."""

    def generated_tokens(self, record: "RequestRecord", count: int) -> None:
        """Count tokens of answers."""

    def first_token(self, seconds: float) -> None:
        """Observe the time from a request to the first token of a streamed answer."""

    def between_tokens(self, seconds: float) -> None:
        """Observe the time between two tokens of a streamed answer."""

    def scored(self, scores: Any) -> None:
        """Count [n, attributes] scores."""


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        id: Of the request, from its `X-Request-Id` or made.
        method: HTTP method.
        path: Percent-encoded path.
        client: Address of the client, of a proxy if there is one.
        started: When its headers were complete, on the monotonic clock.
        received: When its body was complete.
        route: Path of the route with placeholders; "other" if no route has the path.
        status: HTTP status of the response; 499 if the client closed its connection first.
        key: Name of the API key; empty without one.
        reason: Why it was not served, a word of `operations.metrics`; None if it was.
        body: The request's body, if it is to be logged.
        prompts: Tokens of prompts, or of texts to score.
        generated: Tokens of answers.
        texts: Texts scored.
        attributes: The dials that the request sets.
        finish_reasons: Why each answer ended.
        sink: Where tokens are counted.
        spend: Called with every count of tokens: the budget of the request's key.
    """

    id: str = ""
    method: str = ""
    path: str = ""
    client: str = ""
    started: float = field(default_factory=time.monotonic)
    received: float | None = None
    route: str = OTHER
    status: int = 0
    key: str = ""
    reason: str | None = None
    body: bytes | None = None
    prompts: int = 0
    generated: int = 0
    texts: int = 0
    attributes: dict[str, int] = field(default_factory=dict)
    finish_reasons: list[str] = field(default_factory=list)
    sink: TokenSink | None = None
    spend: Callable[[int], None] | None = None
    _last_token: dict[int, float] = field(default_factory=dict)

    def asked(self, attributes: Mapping[str, int]) -> None:
        """Record the dials that the request sets itself, checked."""
        self.attributes.update(attributes)

    def prompted(self, tokens: int) -> None:
        """Count the tokens of the request's prompts or texts."""
        self.prompts += tokens
        if self.sink:
            self.sink.prompt_tokens(self, tokens)
        if self.spend:
            self.spend(tokens)

    def streamed(self, answer: int, tokens: int = 1, finish_reason: str | None = None) -> None:
        """Count tokens of a streamed answer, which have just arrived.

        Args:
            answer: Index of the answer.
            tokens: How many.
            finish_reason: Why the answer ended, with its last tokens.
        """
        now = time.monotonic()
        if self.sink and tokens:
            if answer in self._last_token:
                self.sink.between_tokens((now - self._last_token[answer]) / tokens)
            elif not self._last_token:
                self.sink.first_token(now - (self.received or self.started))
            self._last_token[answer] = now
        self.answered(tokens, finish_reason)

    def answered(self, tokens: int, finish_reason: str | None) -> None:
        """Count the tokens of an answer, or of a part of it."""
        self.generated += tokens
        if finish_reason is not None:
            self.finish_reasons.append(finish_reason)
        if self.sink:
            self.sink.generated_tokens(self, tokens)
        if self.spend:
            self.spend(tokens)

    def scored(self, scores: Any) -> None:
        """Count scored texts: an array [n, attributes] of fp32 scores."""
        self.texts += len(scores)
        if self.sink:
            self.sink.scored(scores)


_CURRENT: contextvars.ContextVar[RequestRecord | None] = contextvars.ContextVar("request_record", default=None)


def current() -> RequestRecord:
    """Return the record of the request that this task works for; outside of a request, one that nobody reads."""
    return _CURRENT.get() or RequestRecord()


def enter(record: RequestRecord) -> contextvars.Token[RequestRecord | None]:
    """Make `record` the current one of this task and of those it starts."""
    return _CURRENT.set(record)


def leave(token: contextvars.Token[RequestRecord | None]) -> None:
    """End `enter`."""
    _CURRENT.reset(token)
