# SPDX-License-Identifier: Apache-2.0
"""Token selection inside transformers' continuous batching.

Its version 5.23 has no per-request seed, minimum length, penalty or stop strings, and no greedy request beside a
sampled one. `TokenSelector` replaces its list of logits processors: it selects every token itself and returns one-hot
scores, so that the library's argmax picks that token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import LogitsProcessorList

from steerlm.errors import SteerLMError
from steerlm.inference.engine.continuous_batching import ContinuousBatchingLogitsProcessorList
from steerlm.inference.engine.request import GenerationChunk, GenerationRequest, deliver
from steerlm.inference.engine.sampling import select_tokens, token_logprobs
from steerlm.inference.engine.sampling_state import TokenLogprobs


class RequestTable(Protocol):
    """What token selection needs of the engine: its requests by id, and to hear of each step."""

    requests: dict[str, GenerationRequest]

    @property
    def end_ids(self) -> Sequence[int]:
        """Token ids that end an answer."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the width of the logits that requests may select from."""

    def close(self, request: GenerationRequest) -> None:
        """Remove a finished request."""

    def step_finished(self) -> None:
        """Record that a step finished."""


class TokenSelector(ContinuousBatchingLogitsProcessorList):
    """Selects the next token of every request in a step and delivers it to the caller."""

    def __init__(self, engine: RequestTable) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._engine = engine
        self._rows: list[GenerationRequest | None] = []

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Remember the requests of the next step. Called by the library before the forward pass."""
        # Logits come only for requests whose prompt is read to its end, in this order.
        self._rows = [self._engine.requests.get(r.state.request_id) for r in requests_in_batch if r.has_new_token]
        return arg_storage

    def __call__(self, input_ids: Any, scores: torch.Tensor, logits_processor_args: Any) -> torch.Tensor:
        """Return one-hot [rows, V] scores of the selected tokens."""
        active = [(row, r) for row, r in enumerate(self._rows) if r is not None and not r.closed]
        selected = torch.zeros(scores.shape[0], dtype=torch.int64)
        if active:
            for row, token in zip([row for row, _ in active], self._select(scores, active), strict=True):
                selected[row] = token
        self._engine.step_finished()
        return torch.zeros_like(scores).scatter_(1, selected.to(scores.device)[:, None], 1.0)

    def _select(self, scores: torch.Tensor, active: list[tuple[int, GenerationRequest]]) -> list[int]:
        logits, requests = scores[[row for row, _ in active]], [request for _, request in active]
        logprobs_of = self._logprobs(logits, requests)
        tokens = select_tokens(
            logits,
            [request.continuation.state for request in requests],
            end_ids=self._engine.end_ids,
            vocabulary_size=self._engine.vocabulary_size,
        )
        logprobs = logprobs_of(tokens)
        chunks: list[tuple[GenerationRequest, GenerationChunk | SteerLMError]] = []
        for request, token in zip(requests, tokens, strict=True):
            if error := request.error:
                request.closed = True
                chunks.append((request, SteerLMError(error)))
            else:
                chunks.extend((request, chunk) for chunk in request.append(token, logprobs.get(request.id)))
            if request.closed:
                self._engine.close(request)
        deliver(chunks)
        return tokens

    def _logprobs(
        self, logits: torch.Tensor, requests: list[GenerationRequest]
    ) -> Callable[[list[int]], Mapping[str, TokenLogprobs]]:
        """Copy the distributions to report before selection changes the logits.

        Returns:
            A function from the selected tokens to log-probabilities by request id.
        """
        counts_by_row = enumerate(request.continuation.state.params.logprobs for request in requests)
        counts = {row: count for row, count in counts_by_row if count is not None}
        if not counts:
            return lambda tokens: {}
        rows = list(counts)
        values = logits[rows, : self._engine.vocabulary_size].float().log_softmax(-1)

        def logprobs_of(tokens: list[int]) -> Mapping[str, TokenLogprobs]:
            reported = token_logprobs(values, [tokens[row] for row in rows], list(counts.values()))
            return {requests[row].id: logprobs for row, logprobs in zip(rows, reported, strict=True)}

        return logprobs_of
