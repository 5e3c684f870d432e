# SPDX-License-Identifier: Apache-2.0
"""Token selection: the next token of every row of a batch, and log-probabilities to report.

The server and offline generation both select tokens here; they differ only in where the random numbers come from. A
row's token never depends on the other rows. Semantics: docs/upstream.md#sampling-semantics.
"""

from collections.abc import Sequence

import torch

from steerlm.inference.engine.sampling_state import MIN_LOGPROB, SamplingState, TokenLogprobs

Number = float | torch.Tensor


def token_logprobs(logprobs: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Return what to report of each row.

    Args:
        logprobs: [n, vocabulary] log-probabilities.
        tokens: The token of each row.
        counts: How many of the most likely tokens to report for each row.
    """
    if not tokens:
        return []
    logprobs = logprobs.clamp(min=MIN_LOGPROB)
    own = logprobs.gather(-1, torch.tensor(tokens, device=logprobs.device)[:, None])[:, 0].tolist()
    values, ids = (x.tolist() for x in logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1))
    rows = zip(tokens, own, ids, values, counts, strict=True)
    return [TokenLogprobs(token, log, tuple(zip(i[:n], v[:n], strict=True))) for token, log, i, v, n in rows]


def select_tokens(
    logits: torch.Tensor, states: Sequence[SamplingState], *, end_ids: Sequence[int], vocabulary_size: int
) -> list[int]:
    """Return the next token id of each row.

    Args:
        logits: [n, V], one row per element of `states`; changed in place.
        states: The sequences; each sampled one draws one random number.
        end_ids: The end-of-text ids, suppressed below `min_tokens`.
        vocabulary_size: Ids from here on (a padded embedding) are never selected.
    """
    logits[:, vocabulary_size:] = -torch.inf
    for row, state in zip(logits, states, strict=True):
        adjust(row, state)
        if len(state.tokens) < state.params.min_tokens:
            row[list(end_ids)] = -torch.inf
    tokens: list[int] = logits.argmax(-1).tolist()
    sampled = [i for i, state in enumerate(states) if not state.params.greedy]
    if sampled:
        for i, token in zip(sampled, _sample(logits[sampled], [states[i] for i in sampled]), strict=True):
            tokens[i] = token
    return tokens


def adjust(logits: torch.Tensor, state: SamplingState) -> None:
    """Apply a sequence's bias, penalties and grammar to its logits [V], in place, in the order of `SamplingParams`."""
    params = state.params
    if params.logit_bias:
        logits[list(params.logit_bias)] += torch.tensor(list(params.logit_bias.values()), device=logits.device)
    if params.repetition_penalty != 1.0:
        ids = sorted({*state.prompt, *state.tokens})
        seen, penalty = logits[ids], params.repetition_penalty
        logits[ids] = torch.where((seen < 0) & (not params.nemo_penalty), seen * penalty, seen / penalty)
    if state.tokens and (params.frequency_penalty or params.presence_penalty):
        tokens, counts = torch.tensor(state.tokens, device=logits.device).unique(return_counts=True)
        logits[tokens] -= (params.frequency_penalty * counts + params.presence_penalty).to(logits.dtype)
    if state.matcher and (forbidden := state.matcher.forbidden(logits.shape[-1])) is not None:
        logits.masked_fill_(torch.from_numpy(forbidden).to(logits.device), -torch.inf)


def _sample(logits: torch.Tensor, states: Sequence[SamplingState]) -> list[int]:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    params = [state.params for state in states]
    tokens: list[int] = draw(
        logits,
        column([state.next_uniform() for state in states])[:, 0],
        temperature=column([p.temperature for p in params]),
        top_k=column([p.top_k for p in params]),
        top_p=column([p.top_p for p in params]),
    ).tolist()
    return tokens


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: Number, top_k: Number, top_p: Number
) -> torch.Tensor:
    """Draw one token id per row from its filtered distribution.

    Args:
        logits: [n, V].
        uniform: [n] random numbers in [0, 1) that decide the draw.
        temperature: A number or [n, 1], as the filters.
        top_k: See `filtered_distribution`.
        top_p: See `filtered_distribution`.

    Returns:
        [n] token ids.
    """
    probabilities, ids = filtered_distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    cumulative = probabilities.cumsum(-1)
    rank = torch.searchsorted(cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(rank, last))[:, 0]


def filtered_distribution(
    logits: torch.Tensor, *, temperature: Number, top_k: Number, top_p: Number
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply temperature, top-k and top-p, in this order.

    Kept are the `top_k` largest logits (0: all), then the smallest set of tokens whose probability reaches `top_p`,
    including the token that crosses it. Equal logits rank by id.

    Args:
        logits: [n, V].
        temperature: A number or [n, 1], as the filters.
        top_k: 0 disables the filter.
        top_p: 1 disables the filter.

    Returns:
        [n, V] fp64 probabilities, most likely first, 0 for removed tokens and not normalized; [n, V] their token ids.
        fp64 so that a uniform number close to 1 still selects a token of the set.
    """
    ordered, ids = (logits.double() / temperature).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    limit = torch.as_tensor(top_k, device=logits.device)
    ordered = ordered.masked_fill((rank >= limit) & (limit > 0), -torch.inf)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    reached = before >= torch.as_tensor(top_p, dtype=torch.float64, device=logits.device)
    return probabilities.masked_fill(reached, 0.0), ids
