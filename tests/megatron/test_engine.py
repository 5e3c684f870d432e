# SPDX-License-Identifier: Apache-2.0
"""One process against the oracle: losses, gradients, statistics, updated weights; packing; what must not happen."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlm.errors import TrainingError
from steerlm.megatron.engine import build_engine
from steerlm.training.data import Row
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import one, ranks
from tests.megatron.material import (
    LR,
    OUTPUTS,
    SHAPES,
    curve,
    denominator,
    engine,
    objective,
    packed,
    same,
    samples,
    settings,
    weights,
)
from tests.megatron.parity import check_gradients, check_steps

HEADS = pytest.mark.parametrize("outputs", [None, OUTPUTS], ids=["text", "reward"])


def _steps(folder: Path, outputs: int | None) -> None:
    check_steps(engine(outputs=outputs), folder, outputs)


@HEADS
def test_steps_equal_the_oracles(tmp_path: Path, outputs: int | None) -> None:
    one(_steps, tmp_path, outputs)


def _gradients(folder: Path, outputs: int | None) -> None:
    check_gradients(engine(SHAPES["mha"], outputs), folder, outputs)


@HEADS
def test_gradients_equal_the_oracles(tmp_path: Path, outputs: int | None) -> None:
    one(_gradients, tmp_path, outputs)


def _packings(outputs: int | None) -> list[list[tuple[float, float]]]:
    found = []
    for one_by_one in (False, True):
        of, learn, losses = engine(outputs=outputs), objective(outputs), []
        for step in range(3):
            some = samples(step, outputs)
            rows = [Row((sample,)) for sample in some] if one_by_one else packed(some)
            result = of.step(rows, learn, LR)
            losses.append((result.loss, result.grad_norm))
        found.append(losses)
    return found


@HEADS
def test_packed_equals_unpacked(outputs: int | None) -> None:
    together, alone = one(_packings, outputs)
    assert np.allclose(together, alone, atol=1e-5)


def _recomputed(kind: str) -> list[tuple[float, float]]:
    return curve(engine(layout={"recompute": kind}), None, range(3))


def test_recomputation_changes_nothing() -> None:
    wanted = one(_recomputed, "none")
    assert one(_recomputed, "full") == wanted and one(_recomputed, "selective") == wanted


def _half(folder: Path) -> None:
    of = engine(precision="bf16")
    assert {p.dtype for p in of.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for g in of.optimizer.param_groups for p in g["params"]} == {torch.float32}
    whole = engine()
    for (a, _), (b, _) in zip(curve(of, None, range(8)), curve(whole, None, range(8)), strict=True):
        assert a == pytest.approx(b, abs=0.05)
    # Updates too small for bf16 must add up in the masters.
    of.write_hf(folder / "before")
    learn = objective(None)
    for step in range(25):
        of.step(packed(samples(step)), learn, 2e-5)
    of.write_hf(folder / "after")
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = weights(folder / "before")[name], weights(folder / "after")[name]
    large = before.abs() > 0.25  # one step moves by 2e-5, half a unit in the last place is 5e-4
    assert after.dtype == torch.bfloat16 and bool((before != after)[large].any())


def test_bf16_keeps_masters_in_fp32(tmp_path: Path) -> None:
    one(_half, tmp_path)


def _reduced(kind: str) -> tuple[list[tuple[float, float]], int]:
    of = engine(layout={"devices": 2}, precision="bf16", reduce_gradients=kind)
    return curve(of, None, range(6)), sum(buffer.grad_data.nbytes for buffer in of.ddp.buffers)


def test_gradients_summed_in_bf16_halve_their_bytes_and_hardly_change_the_curve() -> None:
    (whole, of_whole), *_ = ranks(2, _reduced, "fp32")
    (half, of_half), *_ = ranks(2, _reduced, "bf16")
    assert of_half == of_whole / 2
    assert half != whole and half[0][0] == whole[0][0]
    for (loss, norm), (wanted, wanted_norm) in zip(half, whole, strict=True):
        assert loss == pytest.approx(wanted, abs=0.02) and norm == pytest.approx(wanted_norm, rel=0.02)


def _poisoned(folder: Path, bad_rank: int) -> str:
    of, learn = engine(layout={"devices": 2}), objective(None)
    curve(of, None, range(1))
    of.write_hf(folder / "before")
    rows, count = packed(samples(1), of.layout), denominator(samples(1))
    if of.layout.rank == bad_rank:
        rows[0].samples[0].weights[1] = np.nan
    with pytest.raises(TrainingError) as caught:
        of.step(rows, learn, LR, count)
    of.write_hf(folder / "after")
    assert of.step(packed(samples(1), of.layout), learn, LR, count).loss > 0
    return str(caught.value)


def test_a_loss_that_is_not_a_number_stops_every_rank_before_the_update(tmp_path: Path) -> None:
    said = ranks(2, _poisoned, tmp_path, 1)
    assert said == ["the loss is nan", "the loss is nan"]
    before, after = weights(tmp_path / "before"), weights(tmp_path / "after")
    assert all(torch.equal(before[name], after[name]) for name in before)


def _infinite() -> None:
    of, learn = engine(), objective(None)
    parameter = next(p for p in of.model.parameters() if p.dim() == 2)
    parameter.register_hook(lambda grad: grad * float("inf"))
    before = parameter.detach().clone()
    with pytest.raises(TrainingError, match=r"gradient norm is (inf|nan)"):
        of.step(packed(samples(0)), learn, LR)
    assert torch.equal(parameter, before)


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    one(_infinite)


def _nothing_counts() -> None:
    of, learn = engine(layout={"devices": 2}), objective(None)
    before = [parameter.detach().clone() for parameter in of.model.parameters()]
    empty = of.step([Row(), Row()], learn, LR, 0)
    assert (empty.loss, empty.count, empty.grad_norm) == (0.0, 0, 0.0)
    of.gather_weights()
    decayed = [parameter.detach().clone() for parameter in of.model.parameters()]
    assert all(
        torch.allclose(a * (1 - LR * 0.1) if a.dim() > 1 else a, b) for a, b in zip(before, decayed, strict=True)
    )
    with pytest.raises(ValueError, match=r"replicas have a count of \d+, the step was given 7"):
        of.step(packed(samples(0), of.layout), learn, LR, 7)
    of.gather_weights()
    assert all(torch.equal(a, b) for a, b in zip(decayed, of.model.parameters(), strict=True))


def test_a_step_without_a_count_has_no_gradient_and_a_wrong_count_is_refused_before_the_update() -> None:
    ranks(2, _nothing_counts)


def _wrong_head() -> None:
    with pytest.raises(ValueError, match="reward head"):
        engine(outputs=OUTPUTS).step(packed(samples(0)), objective(None), LR)
    with pytest.raises(ValueError, match="either"):
        build_engine(model_folder=None, shape=None, outputs=None, settings=settings(), layout=LayoutSettings())


def test_what_cannot_be_asked() -> None:
    one(_wrong_head)


def _read_after_an_update(folder: Path) -> None:
    of = engine(layout={"devices": 2}, precision="bf16")
    curve(of, None, range(2))
    of.write_hf(folder / "at once")
    of.evaluate(packed(samples(0), of.layout), objective(None))
    of.write_hf(folder / "after a forward pass")
    curve(of, None, range(2, 4))
    of.save(folder / "checkpoint", {})
    of.finish_save()
    of.write_hf(folder / "when saved")
    again = engine(layout={"devices": 2}, precision="bf16", seed=7)
    again.load(folder / "checkpoint")
    again.write_hf(folder / "loaded")


def test_weights_are_whole_when_no_forward_pass_gathered_them(tmp_path: Path) -> None:
    ranks(2, _read_after_an_update, tmp_path)
    same(tmp_path / "at once", tmp_path / "after a forward pass")
    same(tmp_path / "when saved", tmp_path / "loaded")


READ_BACKS = ("tolist", "item", "nonzero", "cpu", "__bool__", "__int__", "__float__")
"""Methods of a tensor for which the host waits until the device has computed it."""


def _waits(outputs: int | None, layout: dict[str, Any]) -> list[tuple[int, Counter[str]]]:
    """Rows of a step and what it waited for, for a step of few and one of many rows."""
    of, learn, seen = engine(outputs=outputs, layout=layout), objective(outputs), Counter[str]()

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # Under sequence parallelism megatron compares the host's random state before and after.
            seen[name] += not sys._getframe(1).f_code.co_filename.endswith("tensor_parallel/random.py")
            return original(*args, **kwargs)

        return wrapper

    curve(of, outputs, range(2))
    for name in READ_BACKS:
        setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    torch.cuda.synchronize = counted("synchronize", torch.cuda.synchronize)
    found = []
    for count in (6, 30):
        rows = packed(samples(count, outputs, count), of.layout)
        seen.clear()
        of.step(rows, learn, LR)
        found.append((len(rows), Counter(seen)))
    return found


@pytest.mark.parametrize(
    ("outputs", "layout"),
    [
        (None, {}),
        (None, {"devices": 2, "pipeline": 2}),
        (OUTPUTS, {"devices": 2, "pipeline": 2}),
        (OUTPUTS, {"devices": 2, "tensor": 2, "sequence_parallel": True}),
    ],
    ids=["text", "text pp2", "reward pp2", "reward tp2 sp"],
)
def test_no_row_waits_for_the_device(outputs: int | None, layout: dict[str, Any]) -> None:
    for (few, waits), (many, waits_of_many) in ranks(layout.get("devices", 1), _waits, outputs, layout):
        assert many > few + 3 and waits_of_many == waits
        # What a step waits for once: its sums, the norm. (The numbers of the sums are read on the host.)
        assert waits <= Counter(cpu=1, item=3)


def _votes() -> list[bool]:
    of = engine(layout={"devices": 2})
    return [*of.agree(False, of.layout.rank == 1, True), *of.agree(of.layout.rank == 0)]


def test_one_rank_is_enough_to_agree() -> None:
    assert ranks(2, _votes) == [[False, True, True, True]] * 2
