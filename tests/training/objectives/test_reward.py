# SPDX-License-Identifier: Apache-2.0
"""Masked regression against an example computed by hand, and its statistics against numpy and scipy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.errors import InputError
from steerlm.records import RegressionSample
from steerlm.training.config import RewardSettings
from steerlm.training.data import Row, Sample
from steerlm.training.engine import Statistics
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.tensors import row_tensors
from tests.training.units import record_units

OUTPUTS = [[3.1, 0.2, 0.1, 1, 2.5, 2, 3, 1, 1], [2, 0, 0, 0, 3, 3.5, 3.9, 1.2, 2.2]]
LABELS = [[3.0, 0, 0, 1, *[MASKED] * 5], [*[MASKED] * 4, 4.0, 4, 4, 1, 2]]


def objective(tokenizer: Any, schema: AttributeSchema | None = None, **values: Any) -> RewardObjective:
    return RewardObjective(RewardSettings(max_steps=1, **values), tokenizer, schema or AttributeSchema())


def record(label: list[float], text: str = "An answer.\n<extra_id_2>") -> RegressionSample:
    return RegressionSample(text=text, label=label)


def row(labels: list[list[float]]) -> Row:
    vectors = [np.array(label, np.float32) for label in labels]
    return Row(
        tuple(Sample(np.ones(3, np.int32), np.zeros(3, np.float32), y, int((y != MASKED).sum())) for y in vectors)
    )


def test_the_loss_of_an_example_computed_by_hand(tokenizer: Any) -> None:
    """`docs/upstream.md#masked-regression-loss`: sum 1.40, 9 labels, 0.155556."""
    samples = [record_units(objective(tokenizer), record(label))[0].samples[0] for label in LABELS]
    tensors = row_tensors(Row(tuple(samples)), 1, "cpu", 9)
    loss, count, _ = objective(tokenizer).loss(torch.tensor(OUTPUTS), tensors)
    assert loss.item() == pytest.approx(1.40, abs=1e-5)
    assert count == 9
    assert loss.item() / count == pytest.approx(0.155556, abs=1e-6)


def test_masked_entries_have_no_gradient(tokenizer: Any) -> None:
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    loss, _, _ = objective(tokenizer).loss(outputs, row_tensors(row(LABELS), 1, "cpu", 9))
    loss.backward()  # type: ignore[no-untyped-call]
    expected = [
        [2 * (o - y) if y != MASKED else 0 for o, y in zip(*p, strict=True)] for p in zip(OUTPUTS, LABELS, strict=True)
    ]
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad, torch.tensor(expected))


def test_an_empty_row_adds_nothing(tokenizer: Any) -> None:
    loss, count, statistics = objective(tokenizer).loss(torch.zeros(0, 9), row_tensors(Row(), 4, "cpu", 9))
    assert loss.item() == 0 and count == 0
    assert all(value.shape == (9,) and not value.any() for value in statistics.values())


def test_statistics_add_up_to_the_metrics_of_the_whole(tokenizer: Any) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (60, 3)).astype(float)
    truth[rng.random((60, 3)) < 0.4] = MASKED
    truth[:, 2] = MASKED
    values = (np.where(truth == MASKED, 2, truth) + rng.normal(0, 1, (60, 3))).astype(np.float32)
    reward = objective(tokenizer, AttributeSchema(names=("a", "b", "c")))
    total: Statistics = {}
    for start in range(0, 60, 7):
        part = slice(start, start + 7)
        tensors = row_tensors(row(truth[part].tolist()), 1, "cpu", 3)
        _, _, statistics = reward.loss(torch.tensor(values[part]), tensors)
        total = {name: total.get(name, 0) + value for name, value in statistics.items()}
    metrics = reward.summarize(total)
    for i, name in enumerate("ab"):
        present = truth[:, i] != MASKED
        y, o = truth[present, i], values[present, i].astype(float)
        assert metrics[f"labels/{name}"] == present.sum()
        assert metrics[f"mse/{name}"] == pytest.approx(np.mean((o - y) ** 2))
        assert metrics[f"mean_predictor_mse/{name}"] == pytest.approx(np.var(y))
        assert metrics[f"pearson/{name}"] == pytest.approx(pearsonr(o, y).statistic)
        assert metrics[f"agreement/{name}"] == pytest.approx(np.mean(np.rint(np.clip(o, 0, 4)) == y))
    assert metrics["pearson"] == pytest.approx((metrics["pearson/a"] + metrics["pearson/b"]) / 2)
    assert not any(name.endswith("/c") for name in metrics)


def test_agreement_rounds_like_the_annotator(tokenizer: Any) -> None:
    """Clamped, then half to even, as `AttributeSchema.round` writes labels."""
    schema = AttributeSchema(names=("a",))
    scores = [-0.7, 0.5, 1.5, 2.5, 2.51, 4.9]
    truth = [[float(schema.round([score])["a"])] for score in scores]
    _, _, statistics = objective(tokenizer, schema).loss(
        torch.tensor(scores)[:, None], row_tensors(row(truth), 1, "cpu", 1)
    )
    assert statistics["agree"].tolist() == [6]


def test_a_constant_has_no_correlation(tokenizer: Any) -> None:
    reward = objective(tokenizer, AttributeSchema(names=("a",)))
    tensors = row_tensors(row([[1.0], [1.0], [1.0]]), 1, "cpu", 1)
    metrics = reward.summarize(reward.loss(torch.tensor([[1.0], [2.0], [3.0]]), tensors)[2])
    assert "pearson/a" not in metrics and "pearson" not in metrics
    assert math.isfinite(metrics["mse/a"]) and metrics["mean_predictor_mse/a"] == 0


@pytest.mark.parametrize(
    ("label", "text", "message"),
    [
        ([MASKED] * 9, None, "label has no value: all are -100"),
        ([1.0] * 8, None, "label has 8 values for 9 attributes \\(quality, toxicity"),
        ([5.0, *[MASKED] * 8], None, "label quality:5 is outside 0..4"),
        ([float("nan"), *[MASKED] * 8], None, "label quality:nan is outside"),
        ([1.0] * 9, "no mark", "does not end in the read-out mark <extra_id_2>"),
    ],
)
def test_an_invalid_sample_is_refused(tokenizer: Any, label: list[float], text: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record_units(objective(tokenizer), record(label, text or "x<extra_id_2>"))


def test_over_long_texts_follow_the_policy_and_are_counted(tokenizer: Any) -> None:
    sample = record([1.0] * 9, "x" * 50 + "<extra_id_2>")
    dropped = objective(tokenizer, window=20)
    assert record_units(dropped, sample) == [] and dropped.counts["dropped_over_long"] == 1
    cut = objective(tokenizer, window=20, over_long="keep_end")
    ids = record_units(cut, sample)[0].samples[0].ids
    assert tokenizer.decode(ids) == "x" * 8 + "<extra_id_2>" and cut.counts["cut_over_long"] == 1
    with pytest.raises(InputError, match="62 tokens do not fit the window of 20"):
        record_units(objective(tokenizer, window=20, over_long="error"), sample)
    fits = record_units(objective(tokenizer, window=62, over_long="error"), sample)
    assert len(fits[0].samples[0].ids) == 62


def test_the_attributes_that_have_labels_are_counted(tokenizer: Any) -> None:
    reward = objective(tokenizer)
    for label in LABELS:
        record_units(reward, record(label))
    counted = {name.removeprefix("labels/") for name, n in reward.counts.items() if n and name.startswith("labels/")}
    assert counted == set(AttributeSchema().names)
    assert reward.counts["labels/quality"] == 1
