# SPDX-License-Identifier: Apache-2.0
"""Plain language modeling: every token after a document's first is learned exactly once."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steerlm.errors import InputError
from steerlm.records import PlainText
from steerlm.training.config import TextSettings
from steerlm.training.data import Row
from steerlm.training.objectives.text import TextObjective
from steerlm.training.tensors import row_tensors
from tests.training.units import record_units


def objective(tokenizer: Any, window: int) -> TextObjective:
    return TextObjective(TextSettings(max_steps=1, window=window), tokenizer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(codec="ascii"), min_size=1, max_size=40), window=st.integers(2, 20))
def test_windows_lose_nothing_and_learn_nothing_twice(tokenizer: Any, text: str, window: int) -> None:
    whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    samples = [unit.samples[0] for unit in record_units(objective(tokenizer, window), PlainText(text=text))]
    assert all(2 <= len(s.ids) <= window for s in samples)
    learned = [int(i) for s in samples for i, w in zip(s.ids, s.weights, strict=True) if w]
    assert learned == whole[1:]
    assert [int(s.ids[0]) for s in samples] == whole[: -1 : window - 1][: len(samples)]
    assert sum(s.count for s in samples) == len(whole) - 1


def test_each_window_is_a_unit_and_cut_documents_are_counted(tokenizer: Any) -> None:
    text_objective = objective(tokenizer, 4)
    assert len(record_units(text_objective, PlainText(text="abcdefgh"))) == 3
    assert len(record_units(text_objective, PlainText(text="abc"))) == 1
    assert text_objective.counts == {"cut_into_windows": 1}


def test_a_window_of_one_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="window 1 is too short"):
        objective(tokenizer, 1)


def test_a_document_without_a_learned_token_is_dropped_and_counted(tokenizer: Any) -> None:
    text_objective = objective(tokenizer, 4)
    text_objective.encoder.eos = None
    assert record_units(text_objective, PlainText(text="a")) == []
    assert text_objective.counts == {"dropped_no_learned_token": 1}


def test_loss_sums_and_unweighted_statistics(tokenizer: Any) -> None:
    text_objective = objective(tokenizer, 64)
    row = Row(tuple(u.samples[0] for text in ("ab", "c") for u in record_units(text_objective, PlainText(text=text))))
    tensors = row_tensors(row, 4, "cpu")
    output = -torch.arange(1.0, len(tensors.tokens) + 1)
    output[2] = -torch.inf  # not learned: the first sample's last token predicts nothing
    loss, count, statistics = text_objective.loss(output, tensors)
    assert tensors.weights.tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert loss.item() == 1 + 2 + 4 and count == 3
    metrics = text_objective.summarize(statistics)
    assert metrics["token_nll"] == pytest.approx(7 / 3) and metrics["learned_tokens"] == 3
    assert metrics["perplexity"] == pytest.approx(torch.exp(torch.tensor(7 / 3)).item(), rel=1e-5)
