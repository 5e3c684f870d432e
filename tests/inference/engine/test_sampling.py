# SPDX-License-Identifier: Apache-2.0
"""Token selection: the effect of each parameter, and that a row never depends on the other rows."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerlm.errors import InputError
from steerlm.inference.engine.sampling import draw, select_tokens
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState

END = (0,)


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def drawn(row: list[float], sampling: SamplingParams, times: int = 300) -> list[int]:
    state = SamplingState(sampling, [])
    return [select_tokens(logits(row), [state], end_ids=END, vocabulary_size=len(row))[0] for _ in range(times)]


def test_greedy_takes_the_largest_and_never_the_padding() -> None:
    rows = logits([0.0, 3.0, 2.0, 9.0], [5.0, 0.0, 0.0, 9.0])
    states = [SamplingState(SamplingParams(), []), SamplingState(SamplingParams(), [])]
    assert select_tokens(rows, states, end_ids=END, vocabulary_size=3) == [1, 0]


def test_minimum_length_suppresses_the_end() -> None:
    state = SamplingState(SamplingParams(min_tokens=1), [])
    assert select_tokens(logits([5.0, 1.0, 0.0]), [state], end_ids=END, vocabulary_size=3) == [1]
    state.tokens.append(1)
    assert select_tokens(logits([5.0, 1.0, 0.0]), [state], end_ids=END, vocabulary_size=3) == [0]


def test_filters() -> None:
    row = [1.0, 3.0, 2.0, 0.0]
    assert set(drawn(row, SamplingParams(temperature=5.0, seed=1))) == {0, 1, 2, 3}
    assert set(drawn(row, SamplingParams(temperature=5.0, top_k=2, seed=1))) == {1, 2}
    assert set(drawn(row, SamplingParams(temperature=5.0, top_k=1, seed=1))) == {1}
    # Shares at temperature 1: .64 .24 .09 .03; the first crossing .7 is kept.
    assert set(drawn(row, SamplingParams(temperature=1.0, top_p=0.7, seed=1))) == {1, 2}
    assert set(drawn(row, SamplingParams(temperature=5.0, top_p=0.0, seed=1))) == {1}


def test_extremes_neither_overflow_nor_hang() -> None:
    assert set(drawn([1.0, 3.0, 2.0], SamplingParams(temperature=5e-324, seed=1), 5)) == {1}
    assert set(drawn([1.0, 3.0, 2.0], SamplingParams(temperature=1e-5, seed=1), 5)) == {1}
    assert set(drawn([1.0, 3.0, 2.0], SamplingParams(temperature=100.0, top_p=1e-300, seed=1), 5)) == {1}
    for stop in (("x",) * 65, ("x" * 1001,)):
        with pytest.raises(InputError, match="at most 64 stop strings"):
            SamplingParams(stop=stop)


def test_frequencies_follow_the_softmax() -> None:
    got = drawn([0.0, 1.0, 2.0], SamplingParams(temperature=1.0, seed=4), times=6000)
    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    for token in range(3):
        assert abs(got.count(token) / 6000 - expected[token]) < 0.02


def test_penalty_divides_tokens_of_prompt_and_continuation() -> None:
    state = SamplingState(SamplingParams(temperature=0.01, repetition_penalty=4.0, seed=1), prompt=[1])
    state.tokens.append(2)
    assert select_tokens(logits([0.0, 3.0, 2.0, 1.0]), [state], end_ids=(), vocabulary_size=4) == [3]


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign_except_as_nemos() -> None:
    # Token 0 was seen. Dividing its logit of -1 would raise it above that of token 1.
    rows = [[-1.0, -1.2, -9.0]]
    for temperature in (0.0, 1e-3):
        params = SamplingParams(temperature=temperature, repetition_penalty=1.5, seed=1)
        assert select_tokens(logits(*rows), [SamplingState(params, [0])], end_ids=(2,), vocabulary_size=3) == [1]
        nemo = dataclasses.replace(params, nemo_penalty=True)
        assert select_tokens(logits(*rows), [SamplingState(nemo, [0])], end_ids=(2,), vocabulary_size=3) == [0]


@given(st.integers(), st.integers(), st.integers(0, 200), st.integers(0, 200))
def test_every_seed_and_every_answer_has_numbers_of_its_own(one: int, other: int, answer: int, second: int) -> None:
    def numbers(seed: int, index: int) -> list[float]:
        state = SamplingState(SamplingParams(temperature=1.0, seed=seed).for_answer(index), [])
        return [state.next_uniform() for _ in range(3)]

    assert numbers(one, answer) == numbers(one, answer)
    for seed in {other, -one, one + 1, one + answer, one + (1 << 64)} - {one}:
        assert numbers(one, answer) != numbers(seed, answer)
    for index in {second, answer + 1} - {answer}:
        assert numbers(one, answer) != numbers(one, index)
        assert numbers(one, answer) != numbers(one + answer - index, index)  # no seed's answers are another seed's


def test_a_seed_fixes_the_draw_whatever_the_batch() -> None:
    torch.manual_seed(0)
    steps = torch.randn(20, 50)

    def alone() -> list[int]:
        state = SamplingState(SamplingParams(temperature=1.0, top_p=0.9, seed=7), [])
        return [select_tokens(row[None].clone(), [state], end_ids=END, vocabulary_size=50)[0] for row in steps]

    mine = SamplingState(SamplingParams(temperature=1.0, top_p=0.9, seed=7), [])
    others = [SamplingState(SamplingParams(temperature=t, top_k=k), []) for t, k in ((0.0, 0), (2.0, 5))]
    together = [
        select_tokens(
            torch.stack([torch.randn(50), row, torch.randn(50)]),
            [others[0], mine, others[1]],
            end_ids=END,
            vocabulary_size=50,
        )[1]
        for row in steps
    ]
    assert alone() == alone() == together


LOGITS = torch.tensor([0.1, 2.0, 1.0, -1.0, 2.0, 0.5])
GRID = (torch.arange(20_000) + 0.5) / 20_000


def frequencies(**settings: float) -> torch.Tensor:
    ids = draw(LOGITS.expand(len(GRID), -1), GRID, **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings})
    return torch.bincount(ids, minlength=len(LOGITS)) / len(GRID)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_tokens_follow_the_softmax(temperature: float) -> None:
    torch.testing.assert_close(
        frequencies(temperature=temperature), (LOGITS / temperature).softmax(-1), atol=2e-4, rtol=0
    )


def test_top_k_keeps_the_largest_and_ties_go_by_id() -> None:
    assert torch.nonzero(frequencies(top_k=3)).flatten().tolist() == [1, 2, 4]
    assert torch.nonzero(frequencies(top_k=1)).flatten().tolist() == [1]


def test_top_p_keeps_the_token_that_crosses() -> None:
    chances = LOGITS.softmax(-1).sort(descending=True)
    two = float(chances.values[:2].sum())
    assert (frequencies(top_p=two - 0.01) > 0).sum() == 2
    assert (frequencies(top_p=two + 0.01) > 0).sum() == 3
    assert torch.nonzero(frequencies(top_p=1e-9)).flatten().tolist() == [1]


def test_both_filters_apply_top_k_first() -> None:
    # Among the two best, equal ones, 0.6 needs both; of all six it would need three.
    assert torch.nonzero(frequencies(top_k=2, top_p=0.6)).flatten().tolist() == [1, 4]


def test_rows_may_have_settings_of_their_own() -> None:
    rows, uniform = LOGITS.expand(4, -1), torch.tensor([0.99, 0.99, 0.2, 0.7])
    column = {
        "temperature": torch.tensor([[1.0], [0.1], [1.0], [3.0]]),
        "top_k": torch.tensor([[0], [2], [1], [4]]),
        "top_p": torch.tensor([[1.0], [0.9], [1.0], [0.5]]),
    }
    together = draw(rows, uniform, **column)
    for i in range(4):
        one = {name: float(values[i]) for name, values in column.items()}
        assert together[i] == draw(rows[:1], uniform[i : i + 1], **one)[0]


def test_a_uniform_of_almost_one_stays_in_the_set() -> None:
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    token = draw(torch.linspace(0, 5, 50_000)[None], almost, temperature=1.0, top_k=0, top_p=0.3)
    assert 0 < int(token) < 50_000
    kept = draw(LOGITS[None], almost, temperature=1.0, top_k=2, top_p=1.0)
    assert int(kept) in (1, 4)
