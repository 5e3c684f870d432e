# SPDX-License-Identifier: Apache-2.0
"""Server and offline generation select the same tokens, and filter as transformers' logits processors do."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steerlm.inference.engine.continuation import Continuation
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.request import GenerationRequest
from steerlm.inference.engine.sampling import adjust, filtered_distribution, select_tokens
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState
from steerlm.inference.engine.token_selector import TokenSelector
from steerlm.inference.generator import TransformersGenerator, _Row

SIZE, PADDED = 40, 48
END = (1, 7)

params = st.builds(
    SamplingParams,
    max_tokens=st.just(100),
    temperature=st.one_of(st.just(0.0), st.floats(0.05, 5)),
    top_k=st.integers(0, 50),
    top_p=st.floats(0, 1),
    logit_bias=st.dictionaries(st.integers(0, SIZE - 1), st.floats(-100, 100), max_size=3),
    repetition_penalty=st.floats(0.5, 3),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
    min_tokens=st.integers(0, 4),
    seed=st.integers(0, 99),
)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    return Vocabulary(tokenizer)


def continuation(vocabulary: Vocabulary, one: SamplingParams, uniform: float, tokens: list[int]) -> Continuation:
    state = SamplingState(one, [5, 6, 9], lambda: uniform)
    state.tokens.extend(tokens)
    return Continuation(state, vocabulary, END, 100)


def served(continuations: list[Continuation], logits: torch.Tensor) -> list[int]:
    """The tokens that the server's token selector selects."""

    async def select() -> list[int]:
        requests = {
            f"request-{i}": GenerationRequest(f"request-{i}", one, stream=True) for i, one in enumerate(continuations)
        }
        engine = SimpleNamespace(
            requests=requests,
            end_ids=END,
            vocabulary_size=SIZE,
            close=lambda request: None,
            step_finished=lambda: None,
        )
        selector = TokenSelector(engine)
        batch: list[Any] = [SimpleNamespace(state=SimpleNamespace(request_id=i), has_new_token=True) for i in requests]
        selector.prepare_tensor_args(batch, torch.zeros(1))
        tokens: list[int] = selector(None, logits.clone(), None).argmax(-1).tolist()
        return tokens

    return asyncio.run(select())


def offline(continuations: list[Continuation], logits: torch.Tensor) -> list[int]:
    """The tokens that offline generation selects."""
    generator = TransformersGenerator.__new__(TransformersGenerator)
    generator._end_ids = END
    generator._loaded = SimpleNamespace(tokenizer=range(SIZE))  # type: ignore[assignment]
    return generator._extend([_Row(one, 100) for one in continuations], logits.clone(), None)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(params, st.floats(0, 1, exclude_max=True), st.lists(st.integers(8, SIZE - 1), max_size=5)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_server_and_offline_generation_select_the_same_tokens(
    vocabulary: Vocabulary,
    rows: list[tuple[SamplingParams, float, list[int]]],
    seed: int,
    dtype: torch.dtype,
) -> None:
    logits = (torch.randn(len(rows), PADDED, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)
    one = served([continuation(vocabulary, *row) for row in rows], logits)
    other = offline([continuation(vocabulary, *row) for row in rows], logits)
    assert one == other
    assert all(token < SIZE for token in one)


def kept_by_transformers(logits: torch.Tensor, one: SamplingParams) -> torch.Tensor:
    """The distribution after transformers' own processors."""
    scores = TemperatureLogitsWarper(one.temperature)(None, logits.double())
    if one.top_k:
        scores = TopKLogitsWarper(one.top_k)(None, scores)
    if 0 < one.top_p < 1:
        scores = TopPLogitsWarper(one.top_p)(None, scores)
    probabilities: torch.Tensor = scores.softmax(-1)
    return probabilities


@settings(deadline=None, max_examples=50)
@given(one=params, seed=st.integers(0, 999))
def test_filters_are_those_of_transformers(one: SamplingParams, seed: int) -> None:
    assume(not one.greedy)
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    probabilities, ids = filtered_distribution(logits, temperature=one.temperature, top_k=one.top_k, top_p=one.top_p)
    # Where the cumulative probability is `top_p` to the last digits, rounding decides.
    unfiltered, _ = filtered_distribution(logits, temperature=one.temperature, top_k=one.top_k, top_p=1.0)
    assume(float((unfiltered.cumsum(-1) - one.top_p).abs().min()) > 1e-9)
    ours = torch.zeros_like(probabilities).scatter_(-1, ids, probabilities / probabilities.sum())
    torch.testing.assert_close(ours, kept_by_transformers(logits, one))


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 999),
    shift=st.floats(-6, 6),
    tokens=st.lists(st.integers(0, SIZE - 1), max_size=6),
    minimum=st.integers(0, 6),
    penalty=st.floats(0.1, 10),
    bias=st.dictionaries(st.integers(0, SIZE - 1), st.floats(-100, 100), max_size=4),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_bias_penalty_and_minimum_length_are_those_of_transformers(
    seed: int,
    shift: float,
    tokens: list[int],
    minimum: int,
    penalty: float,
    bias: dict[int, float],
    temperature: float,
) -> None:
    """For logits of either sign, greedy or not."""
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed)) * 3 + shift
    prompt = [5, 6, 9]
    read = torch.tensor([prompt + tokens])
    scores = logits.clone()
    if bias:
        scores = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])(read, scores)
    scores = RepetitionPenaltyLogitsProcessor(penalty)(read, scores)
    adjusted = logits[0].clone()
    params = SamplingParams(
        temperature=temperature, repetition_penalty=penalty, logit_bias=bias, min_tokens=minimum, top_k=1, seed=3
    )
    state = SamplingState(params, prompt)
    state.tokens.extend(tokens)
    adjust(adjusted, state)
    torch.testing.assert_close(adjusted, scores[0])
    scores = MinNewTokensLengthLogitsProcessor(len(prompt), minimum, list(END))(read, scores)
    assert select_tokens(logits, [state], end_ids=END, vocabulary_size=SIZE) == [int(scores.argmax())]


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 999),
    tokens=st.lists(st.integers(0, SIZE - 1), max_size=12),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
def test_frequency_and_presence_penalty_are_those_of_openai(
    seed: int, tokens: list[int], frequency: float, presence: float
) -> None:
    """mu[j] -> mu[j] - c[j] * alpha_frequency - (c[j] > 0) * alpha_presence; the prompt does not count."""
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))
    expected = [float(logits[j]) - tokens.count(j) * frequency - (tokens.count(j) > 0) * presence for j in range(SIZE)]
    state = SamplingState(SamplingParams(frequency_penalty=frequency, presence_penalty=presence), [5, 6, 9])
    state.tokens.extend(tokens)
    adjust(logits, state)
    torch.testing.assert_close(logits, torch.tensor(expected))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), temperature=st.floats(0, 5), top_k=st.integers(0, 50))
def test_top_p_of_0_is_greedy(seed: int, temperature: float, top_k: int) -> None:
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed))
    state = SamplingState(SamplingParams(temperature=temperature, top_p=0.0, top_k=top_k), [5])
    assert select_tokens(logits.clone(), [state], end_ids=END, vocabulary_size=SIZE) == [int(logits.argmax())]
