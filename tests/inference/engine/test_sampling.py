# SPDX-License-Identifier: Apache-2.0
"""The choice of tokens: what each setting does, and that a row never depends on its neighbours."""

import pytest
import torch

from steerlm.errors import InputError
from steerlm.inference.engine.sampling import Choice, Sampling, choose

END = (0,)


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def drawn(row: list[float], sampling: Sampling, times: int = 300) -> list[int]:
    choice = Choice(sampling, [])
    return [choose(logits(row), [choice], end=END, vocabulary=len(row))[0] for _ in range(times)]


def test_greedy_takes_the_largest_and_never_the_padding() -> None:
    rows = logits([0.0, 3.0, 2.0, 9.0], [5.0, 0.0, 0.0, 9.0])
    choices = [Choice(Sampling(), []), Choice(Sampling(), [])]
    assert choose(rows, choices, end=END, vocabulary=3) == [1, 0]


def test_minimum_length_suppresses_the_end() -> None:
    choice = Choice(Sampling(min_tokens=1), [])
    assert choose(logits([5.0, 1.0, 0.0]), [choice], end=END, vocabulary=3) == [1]
    choice.tokens.append(1)
    assert choose(logits([5.0, 1.0, 0.0]), [choice], end=END, vocabulary=3) == [0]


def test_filters() -> None:
    row = [1.0, 3.0, 2.0, 0.0]
    assert set(drawn(row, Sampling(temperature=5.0, seed=1))) == {0, 1, 2, 3}
    assert set(drawn(row, Sampling(temperature=5.0, top_k=2, seed=1))) == {1, 2}
    assert set(drawn(row, Sampling(temperature=5.0, top_k=1, seed=1))) == {1}
    # Shares at temperature 1: .64 .24 .09 .03; the first crossing .7 is kept.
    assert set(drawn(row, Sampling(temperature=1.0, top_p=0.7, seed=1))) == {1, 2}
    assert set(drawn(row, Sampling(temperature=5.0, top_p=0.0, seed=1))) == {0, 1, 2, 3}


def test_extremes_neither_overflow_nor_hang() -> None:
    assert set(drawn([1.0, 3.0, 2.0], Sampling(temperature=5e-324, seed=1), 5)) == {1}
    assert set(drawn([1.0, 3.0, 2.0], Sampling(temperature=1e-5, seed=1), 5)) == {1}
    assert set(drawn([1.0, 3.0, 2.0], Sampling(temperature=100.0, top_p=1e-300, seed=1), 5)) == {1}
    for stop in (("x",) * 65, ("x" * 1001,)):
        with pytest.raises(InputError, match="at most 64 stop strings"):
            Sampling(stop=stop)


def test_frequencies_follow_the_softmax() -> None:
    got = drawn([0.0, 1.0, 2.0], Sampling(temperature=1.0, seed=4), times=6000)
    want = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    for token in range(3):
        assert abs(got.count(token) / 6000 - want[token]) < 0.02


def test_penalty_divides_what_was_seen_in_prompt_and_continuation() -> None:
    choice = Choice(Sampling(temperature=0.01, repetition_penalty=4.0, seed=1), prompt=[1])
    choice.tokens.append(2)
    assert choose(logits([0.0, 3.0, 2.0, 1.0]), [choice], end=(), vocabulary=4) == [3]


def test_a_seed_fixes_the_draw_whatever_the_batch() -> None:
    torch.manual_seed(0)
    steps = torch.randn(20, 50)

    def alone() -> list[int]:
        choice = Choice(Sampling(temperature=1.0, top_p=0.9, seed=7), [])
        return [choose(row[None].clone(), [choice], end=END, vocabulary=50)[0] for row in steps]

    mine = Choice(Sampling(temperature=1.0, top_p=0.9, seed=7), [])
    others = [Choice(Sampling(temperature=t, top_k=k), []) for t, k in ((0.0, 0), (2.0, 5))]
    together = [
        choose(
            torch.stack([torch.randn(50), row, torch.randn(50)]), [others[0], mine, others[1]], end=END, vocabulary=50
        )[1]
        for row in steps
    ]
    assert alone() == alone() == together
