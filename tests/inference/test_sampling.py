# SPDX-License-Identifier: Apache-2.0
"""Drawing tokens: the distribution, the filters, and independence of what else is in the batch."""

import numpy as np
import pytest
import torch

from steerlm.inference.sampling import draw, uniforms

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


def test_numbers_belong_to_the_prompt_not_to_its_place() -> None:
    table = uniforms(["a", "b", "a"], n=2, steps=3, seed=5)
    assert table.shape == (6, 3)
    assert len(np.unique(table)) == table.size
    np.testing.assert_array_equal(uniforms(["b"], 2, 3, 5), table[2:4])
    np.testing.assert_array_equal(uniforms(["b", "a"], 1, 3, 5), table[[2, 0]])
    assert not np.isin(uniforms(["a"], 1, 3, seed=6), table).any()
