# SPDX-License-Identifier: Apache-2.0
"""The training loop with the reference engine: it learns, logs, validates, and refuses what cannot work."""

import math

import pytest
import torch

from steerlm.errors import ConfigError
from steerlm.training.config import TextSettings
from steerlm.training.layout import LayoutSettings
from steerlm.training.objectives.text import TextObjective
from steerlm.training.sampler import Sampler
from tests.reference_engine import ReferenceEngine
from tests.training.tiny import CONFIG, OPTIMIZER, SETTINGS, TinyTraining
from tests.training.units import read_unit


def test_loss_falls_and_everything_is_logged(tiny: TinyTraining) -> None:
    result = tiny.run(max_steps=30, validate_every=10)
    losses = tiny.lines()
    assert list(losses) == list(range(1, 31))
    assert losses[30] < 0.6 * losses[1]
    assert list(tiny.lines(key="validation/loss")) == [10, 20, 30]
    rates = tiny.lines(key="train/lr")
    assert rates[1] == pytest.approx(1e-2 / 3) and rates[3] == pytest.approx(1e-2)
    assert all(
        value > 0 for key in ("grad_norm", "tokens_per_second") for value in tiny.lines(key=f"train/{key}").values()
    )
    assert all(value > 0 for value in tiny.lines(key="train/tflops_per_gpu").values())
    assert set(tiny.lines(key="train/row_imbalance").values()) == {1.0}  # one replica
    assert result.steps == 30 and result.unused_units == 0 and result.seconds > 0
    assert result.counts["train"]["records"] == 18 and result.counts["validation"]["records"] == 3
    assert result.real_token_share == 1.0
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["loss"]), rel=1e-6)


def test_the_logged_loss_is_computed_before_the_update(tiny: TinyTraining) -> None:
    """The first logged loss against transformers' own, over the first batch's tokens."""
    tiny.run(max_steps=1)
    settings = TextSettings.model_validate(SETTINGS)
    fresh = ReferenceEngine(settings.optimizer, config=CONFIG).model
    data = tiny.data("train", TextObjective(settings, tiny.tokenizer))

    total, tokens = 0.0, 0
    for unit in Sampler(len(data), settings.seed).take(4).tolist():
        ids = torch.tensor(read_unit(data, unit).samples[0].ids.tolist())[None]
        n = ids.shape[1] - 1
        total, tokens = total + fresh(input_ids=ids, labels=ids).loss.item() * n, tokens + n
    assert tiny.lines()[1] == pytest.approx(total / tokens, rel=1e-5)


def test_another_packing_gives_the_same_curve(tiny: TinyTraining) -> None:
    tiny.run("tight", layout=LayoutSettings(row_tokens=64))
    tiny.run("wide", layout=LayoutSettings(micro_batch=8))
    assert tiny.lines("wide") == pytest.approx(tiny.lines("tight"), abs=1e-5)


def test_validation_batches_limits_a_validation(tiny: TinyTraining) -> None:
    whole = tiny.run("whole", global_batch=2)
    part = tiny.run("part", global_batch=2, validation_batches=1)
    assert part.metrics["learned_tokens"] < whole.metrics["learned_tokens"]


def test_impossible_settings_are_refused_before_the_first_step(tiny: TinyTraining) -> None:
    with pytest.raises(ConfigError, match="the layout's rows hold 8"):
        tiny.run(layout=LayoutSettings(row_tokens=8))
    with pytest.raises(ConfigError, match="leave no step of 12"):
        tiny.run(optimizer={**OPTIMIZER, "constant_steps": 50})
    with pytest.raises(ConfigError, match="hold no global batch"):
        tiny.run(max_steps=None, epochs=0.1)


def test_units_that_fill_no_batch_are_counted(tiny: TinyTraining) -> None:
    result = tiny.run(max_steps=None, epochs=2.5)
    assert (result.steps, result.unused_units) == (11, 1)  # 45 units in batches of 4
