# SPDX-License-Identifier: Apache-2.0
"""An engine against the oracle with the same weights: fails where they differ by more than rounding."""

from pathlib import Path

import pytest
import torch

from steerlm.megatron.engine import MegatronEngine
from steerlm.megatron.mapping import split
from steerlm.training.data import Row
from tests.megatron.material import LR, objective, oracle, packed, samples, weights
from tests.megatron.outputs import model_outputs


def check_steps(ours: MegatronEngine, folder: Path, outputs: int | None) -> None:
    """Forward passes, evaluations, steps, statistics and the weights after four steps."""
    theirs, learn = oracle(ours, folder / "start", outputs), objective(outputs)
    for step in range(4):
        rows = [*packed(samples(step, outputs)), Row()]
        for a, b in zip(model_outputs(ours, rows, learn.output), theirs.forward(rows, learn.output), strict=True):
            assert a.dtype == torch.float32 and torch.allclose(a, b, atol=2e-5)
        assert ours.evaluate(rows, learn).loss == pytest.approx(theirs.evaluate(rows, learn).loss, abs=1e-5)
        one, other = ours.step(rows, learn, LR), theirs.step(rows, learn, LR)
        assert one.loss == pytest.approx(other.loss, abs=1e-5) and one.count == other.count
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
        for name, value in other.statistics.items():
            assert one.statistics[name].dtype == torch.float64
            assert torch.allclose(one.statistics[name], value.double(), rtol=1e-5, atol=1e-4), name
    ours.write_hf(folder / "end")
    theirs.write_hf(folder / "theirs")
    ends, wanted = weights(folder / "end"), weights(folder / "theirs")
    assert ends.keys() == wanted.keys()
    assert max(float((ends[name] - wanted[name]).abs().max()) for name in wanted) < 1e-5


def check_gradients(ours: MegatronEngine, folder: Path, outputs: int | None) -> None:
    """Every gradient of one step, by the Hugging Face tensor that it is of."""
    theirs, learn = oracle(ours, folder, outputs), objective(outputs)
    rows = packed(samples(0, outputs))
    ours.step(rows, learn, 0.0)  # clipping scales copies for the optimizer, not these
    theirs.clip = 0.0
    theirs.step(rows, learn, 0.0)
    wanted = {name: parameter.grad for name, parameter in theirs.model.named_parameters()}
    norm = float(torch.stack([g.norm() for g in wanted.values() if g is not None]).norm())
    own = dict(ours.model.named_parameters())
    for parameter in ours.own:
        for part, got in zip(parameter.parts, split(own[parameter.name].main_grad, parameter), strict=True):
            want = wanted.pop(part.name)
            assert want is not None and float((got - want * min(1, 0.5 / norm)).abs().max()) < 1e-5, part.name
    assert not wanted
