# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's layers, by a stand-in: equal to megatron's own in curve, weights and checkpoints, and where
gradients go.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.errors import InputError
from steerlm.megatron import convert, device
from steerlm.megatron import model as models
from steerlm.models.families import FAMILIES
from steerlm.training.layout import LayoutSettings
from tests.megatron import te_stand_in
from tests.megatron.forked import one, ranks
from tests.megatron.material import (
    FAMILY_SHAPES,
    GQA,
    OUTPUTS,
    SHAPES,
    curve,
    engine,
    packed,
    same,
    samples,
    transformers_folder,
    weights,
)

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "recompute": {"recompute": "full"},
    "tp2": {"devices": 2, "tensor": 2},
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True},
    "dp2": {"devices": 2},
    "pp2": {"devices": 2, "pipeline": 2},
}
Curve = list[tuple[float, float]]


@pytest.fixture(scope="module")
def with_te() -> Iterator[Callable[..., list[Any]]]:
    """`ranks` where Transformer Engine's stand-in is installed: (name of a layout, function, arguments)."""
    with te_stand_in.process() as process:

        def run(layout: str, function: Callable[..., Any], *args: Any) -> list[Any]:
            world = LayoutSettings(**LAYOUTS[layout]).processes
            found: list[Any] = process.submit(ranks, world, function, *args).result()
            return found

        yield run


def _choose(attention: models.Attention) -> None:
    """`auto` never chooses Transformer Engine without a GPU. To be called in a rank, which nothing survives."""
    models.resolve_attention = lambda layout: attention


def _trained(folder: Path, outputs: int | None, layout: str, attention: models.Attention) -> Curve:
    _choose(attention)
    of = engine(SHAPES["wide heads"], outputs, layout=LAYOUTS[layout])
    losses = curve(of, outputs, range(4))
    of.write_hf(folder)
    return losses


@pytest.fixture(scope="module")
def sdpa(tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, tuple[Path, Curve]]:
    """One process without Transformer Engine, whose Adam is torch's."""
    folders = {outputs: tmp_path_factory.mktemp("sdpa") for outputs in (None, OUTPUTS)}
    return {outputs: (to, one(_trained, to, outputs, "one", "sdpa")) for outputs, to in folders.items()}


@pytest.mark.parametrize(
    ("outputs", "layout"),
    [*((None, name) for name in ("recompute", "tp2 sp", "dp2", "pp2")), (OUTPUTS, "tp2 sp"), (OUTPUTS, "one")],
)
def test_it_trains_as_megatrons_own_layers_do(
    sdpa: Any, with_te: Any, outputs: int | None, layout: str, tmp_path: Path
) -> None:
    expected, wanted = sdpa[outputs]
    for losses in with_te(layout, _trained, tmp_path, outputs, layout, "te"):
        for (loss, norm), (wanted_loss, wanted_norm) in zip(losses, wanted, strict=True):
            assert loss == pytest.approx(wanted_loss, abs=1e-5) and norm == pytest.approx(wanted_norm, rel=1e-5)
    ours, theirs = weights(tmp_path), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def _family(base: Path, folder: Path, layout: str, attention: models.Attention) -> Curve:
    _choose(attention)
    of = engine(folder=base, layout=LAYOUTS[layout])
    losses = curve(of, None, range(3))
    of.write_hf(folder)
    return losses


@pytest.mark.parametrize("layout", ["one", "tp2 sp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_as_on_megatrons_own_layers(with_te: Any, family: str, layout: str, tmp_path: Path) -> None:
    base = transformers_folder(tmp_path / "base", FAMILY_SHAPES[family])
    wanted = one(_family, base, tmp_path / "sdpa", "one", "sdpa")
    for losses in with_te(layout, _family, base, tmp_path / "te", layout, "te"):
        for (loss, norm), (wanted_loss, wanted_norm) in zip(losses, wanted, strict=True):
            assert loss == pytest.approx(wanted_loss, abs=1e-5) and norm == pytest.approx(wanted_norm, rel=1e-5)
    ours, theirs = weights(tmp_path / "te"), weights(tmp_path / "sdpa")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def _gradients(layout: str, outputs: int | None, fused: bool) -> dict[str, Any]:
    """What lies in `main_grad` after the second of two steps of several rows, and of which weights a kernel put it."""
    _choose("te")
    of = engine(GQA, outputs, layout=LAYOUTS[layout])
    linear = [module for module in of.model.modules() if hasattr(module, "fuse_wgrad_accumulation")]
    assert linear and all(module.fuse_wgrad_accumulation for module in linear)
    for module in linear:
        module.fuse_wgrad_accumulation = fused
    assert len(packed(samples(4, outputs), of.layout)) >= 3
    curve(of, outputs, range(3, 5))
    parameters = dict(of.model.named_parameters())
    assert all(parameter.grad is None for parameter in parameters.values())
    return {
        "gradients": {name: parameter.main_grad.clone() for name, parameter in parameters.items()},
        "by kernel": {name for name, parameter in parameters.items() if parameter.grad_added_to_main_grad},
    }


@pytest.mark.parametrize(
    ("layout", "outputs"),
    [("one", None), ("recompute", None), ("tp2", None), ("tp2 sp", OUTPUTS), ("dp2", None), ("pp2", OUTPUTS)],
)
def test_a_fused_gradient_arrives_once(with_te: Any, layout: str, outputs: int | None) -> None:
    fused, apart = (with_te(layout, _gradients, layout, outputs, how) for how in (True, False))
    for ours, theirs in zip(fused, apart, strict=True):
        linear = {name for name in ours["gradients"] if "linear" in name and not name.endswith("layer_norm_weight")}
        assert ours["by kernel"] == linear and len(linear) >= 8 and not theirs["by kernel"]
        for name, gradient in theirs["gradients"].items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(ours["gradients"][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def _passed_through(folder: Path, out: Path) -> None:
    _choose("te")
    of = engine(folder=folder, layout=LAYOUTS["tp2 sp"])
    assert {parameter.name for parameter in of.own} == dict(of.model.named_parameters()).keys()
    of.write_hf(out)


def test_a_hugging_face_folder_passes_through_unchanged(with_te: Any, tmp_path: Path) -> None:
    folder = transformers_folder(tmp_path / "folder", GQA)
    with_te("tp2 sp", _passed_through, folder, tmp_path / "out")
    same(tmp_path / "out", folder)


def _state(of: Any) -> dict[str, Any]:
    """This rank's share of the optimizer, by parameter."""
    inner = of.optimizer.optimizer
    found: dict[str, Any] = {}
    for name, parameter in of.model.named_parameters():
        if parameter in of.optimizer.model_param_group_index_map:
            group, order = of.optimizer.model_param_group_index_map[parameter]
            main = inner.param_groups[group]["params"][order]
            found[name] = {"main": main.detach().clone(), **inner.state[main]}
    # The rate and decay of a group are set from the settings before each update.
    found["groups"] = [{k: v for k, v in g.items() if k not in ("params", "weight_decay")} for g in inner.param_groups]
    return found


def _whole(folder: Path, layout: str, attention: models.Attention, precision: str) -> tuple[Any, Curve]:
    _choose(attention)
    of = engine(layout=LAYOUTS[layout], precision=precision)
    curve(of, None, range(3))
    of.save(folder / "step", {})
    of.finish_save()
    of.write_hf(folder / "saved")
    return _state(of), curve(of, None, range(3, 5))


def _resumed(
    folder: Path, layout: str, attention: models.Attention, precision: str, times: int = 1
) -> list[tuple[Any, Curve]]:
    """The second time in an engine that has a state, which is to be replaced."""
    _choose(attention)
    of = engine(layout=LAYOUTS[layout], precision=precision, seed=99)
    found = []
    for _ in range(times):
        of.load(folder / "step")
        found.append((_state(of), curve(of, None, range(3, 5))))
    return found


@pytest.mark.parametrize(("layout", "precision"), [("tp2 sp", "bf16"), ("dp2", "bf16"), ("pp2", "fp32")])
def test_a_resume_restores_the_state_of_fused_adam(with_te: Any, layout: str, precision: str, tmp_path: Path) -> None:
    whole = with_te(layout, _whole, tmp_path, layout, "te", precision)
    resumed = with_te(layout, _resumed, tmp_path, layout, "te", precision, 2)
    for found, (wanted, wanted_losses) in zip(resumed, whole, strict=True):
        for state, losses in found:
            assert losses == wanted_losses
            assert state.keys() == wanted.keys() and state["groups"] == wanted["groups"]
            assert all(group["step"] == 3 for group in state["groups"])
            for name in wanted.keys() - {"groups"}:
                assert state[name].keys() == {"main", "exp_avg", "exp_avg_sq"}
                assert all(torch.equal(state[name][key], value) for key, value in wanted[name].items()), name


def _close(found: Curve, wanted: Curve) -> None:
    for (loss, norm), (wanted_loss, wanted_norm) in zip(found, wanted, strict=True):
        assert loss == pytest.approx(wanted_loss, abs=1e-6) and norm == pytest.approx(wanted_norm, rel=1e-5)


def test_a_resume_in_another_layout(with_te: Any, tmp_path: Path) -> None:
    for saved, loaded in (("dp2", "one"), ("tp2", "one")):
        wanted = with_te(saved, _whole, tmp_path / saved, saved, "te", "fp32")[0][1]
        _close(with_te(loaded, _resumed, tmp_path / saved, loaded, "te", "fp32")[0][0][1], wanted)


def test_a_resume_where_transformer_engine_is_not_installed_and_back(with_te: Any, tmp_path: Path) -> None:
    _, wanted = with_te("dp2", _whole, tmp_path / "te", "dp2", "te", "fp32")[0]
    for ((state, losses),) in ranks(2, _resumed, tmp_path / "te", "dp2", "sdpa", "fp32"):
        _close(losses, wanted)
        assert all(group["fused"] for group in state["groups"])
    one(convert.export_hf, tmp_path / "te" / "step", tmp_path / "exported")
    same(tmp_path / "exported", tmp_path / "te" / "saved")
    _, wanted = ranks(2, _whole, tmp_path / "sdpa", "dp2", "sdpa", "fp32")[0]
    for ((state, losses),) in with_te("dp2", _resumed, tmp_path / "sdpa", "dp2", "te", "fp32"):
        _close(losses, wanted)
        assert all(group["step"] == 3 for group in state["groups"])


def _saved_at_once(folder: Path) -> tuple[Curve, Curve]:
    _choose("te")
    of = engine()
    of.save(folder / "step", {})
    of.finish_save()
    again = engine(seed=99)
    again.load(folder / "step")
    return curve(of, None, range(2)), curve(again, None, range(2))


def test_a_checkpoint_before_the_first_step(with_te: Any, tmp_path: Path) -> None:
    ((first, again),) = with_te("one", _saved_at_once, tmp_path)
    assert first == again


@pytest.mark.parametrize(
    ("accelerator", "installed", "wanted"),
    [
        (False, True, {"auto": "sdpa", "te": None, "sdpa": "sdpa"}),
        (True, False, {"auto": "sdpa", "te": None, "sdpa": "sdpa"}),
        (True, True, {"auto": "te", "te": "te", "sdpa": "sdpa"}),
    ],
)
def test_the_choice_of_attention(
    monkeypatch: pytest.MonkeyPatch, accelerator: bool, installed: bool, wanted: dict[str, str | None]
) -> None:
    monkeypatch.setattr(device, "on_accelerator", lambda: accelerator)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if installed else None)
    for asked, found in wanted.items():
        layout = LayoutSettings(attention=asked)
        if found is None:
            with pytest.raises(InputError, match=r"layout\.attention te needs a GPU and transformer-engine"):
                models.resolve_attention(layout)
        else:
            assert models.resolve_attention(layout) == found
