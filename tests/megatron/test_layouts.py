# SPDX-License-Identifier: Apache-2.0
"""Every layout gives the curve of one process: losses, norms, statistics, forward passes, weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.models.families import FAMILIES
from steerlm.models.shape import ModelShape
from steerlm.training.data import Row
from steerlm.training.layout import LayoutSettings
from tests.megatron.forked import ranks
from tests.megatron.material import (
    FAMILY_SHAPES,
    GQA,
    OUTPUTS,
    SHAPES,
    curve,
    denominator,
    engine,
    objective,
    packed,
    samples,
    transformers_folder,
    weights,
)
from tests.megatron.outputs import model_outputs

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"devices": 2, "tensor": 2},
    "dp2": {"devices": 2},
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True},
    "pp2": {"devices": 2, "pipeline": 2},
    "tp2 sp pp2 dp2 recompute": {
        "nodes": 2,
        "devices": 4,
        "tensor": 2,
        "pipeline": 2,
        "sequence_parallel": True,
        "recompute": "full",
    },
}


def _run(
    folder: Path, shape: ModelShape, outputs: int | None, start: Path | None, layout: dict[str, Any]
) -> dict[str, Any]:
    of, learn = engine(shape, outputs, start, layout=layout), objective(outputs)
    of.write_hf(folder / "drawn")
    losses = curve(of, outputs, range(4))
    rows = [*packed(samples(0, outputs), of.layout), Row()]  # an empty row last, where gradients are sent
    evaluated = of.evaluate(rows, learn)
    result = of.step(rows, learn, 0.0, denominator(samples(0, outputs)))
    of.write_hf(folder / "trained")
    return {
        "curve": losses,
        "evaluated": (evaluated.loss, evaluated.count, evaluated.statistics),
        "stepped": (result.loss, result.count, result.statistics),
        "rows": [len(row.samples) for row in rows],
        "forward": model_outputs(of, rows, learn.output),
        "dp_rank": of.layout.dp_rank,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process's results by model, and where its weights are."""
    found = {}
    models = {"text": (GQA, None), "tied": (SHAPES["tied"], None), "reward": (GQA, OUTPUTS)}
    models |= {name: (shape, None) for name, shape in FAMILY_SHAPES.items()}
    models["qwen2 reward"] = (SHAPES["qwen2"], OUTPUTS)
    for name, (shape, outputs) in models.items():
        folder = tmp_path_factory.mktemp(name)
        # Weights of a folder, where biases are not zero as drawn ones are.
        start = transformers_folder(folder / "start", shape) if shape.model_type != "llama" else None
        (result,) = ranks(1, _run, folder, shape, outputs, start, {})
        found[name] = (folder, shape, outputs, start, result)
    return found


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("text", name) for name in LAYOUTS),
        # Tied weights are split over processes, and held twice under pipeline parallelism.
        *(("tied", name) for name in ("tp2", "pp2")),
        *(("reward", name) for name in ("tp2", "dp2", "tp2 sp", "pp2")),
        *((family, name) for family in FAMILIES for name in ("tp2", "pp2")),
        *((f"{family} tied", "pp2") for family in FAMILIES),
        *(("qwen2 reward", name) for name in ("tp2 sp", "pp2")),
        ("qwen2", "tp2 sp pp2 dp2 recompute"),
    ],
)
def test_layout(alone: dict[str, Any], model: str, name: str, tmp_path: Path) -> None:
    folder, shape, outputs, start, wanted = alone[model]
    layout = LAYOUTS[name]
    results = ranks(LayoutSettings(**layout).processes, _run, tmp_path, shape, outputs, start, layout)
    for got in results:
        for (loss, norm), (wanted_loss, wanted_norm) in zip(got["curve"], wanted["curve"], strict=True):
            assert loss == pytest.approx(wanted_loss, abs=1e-5) and norm == pytest.approx(wanted_norm, rel=1e-4)
        for kind in ("evaluated", "stepped"):
            (loss, count, statistics), (wanted_loss, wanted_count, wanted_statistics) = got[kind], wanted[kind]
            assert loss == pytest.approx(wanted_loss, abs=1e-5) and count == wanted_count
            assert statistics.keys() == wanted_statistics.keys()
            for key, value in wanted_statistics.items():
                assert torch.allclose(statistics[key], value, rtol=1e-4, atol=1e-4), key
        # The same on every rank of a model, to the last bit: the loop decides by it.
        assert got["curve"] == results[0]["curve"]
        peer = next(r for r in results if r["dp_rank"] == got["dp_rank"])
        assert len(got["forward"]) == len(got["rows"])
        for mine, theirs, count in zip(got["forward"], peer["forward"], got["rows"], strict=True):
            assert torch.equal(mine, theirs) and len(mine) == count
    assert _total(results) == pytest.approx(_total([wanted]), rel=1e-4)
    for which, tolerance in (("drawn", 0.0), ("trained", 1e-5)):
        ours, theirs = weights(tmp_path / which), weights(folder / which)
        assert ours.keys() == theirs.keys()
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) <= tolerance, which


def _total(results: list[dict[str, Any]]) -> float:
    """Over the samples of all data-parallel ranks: how they are dealt differs."""
    by_rank = {r["dp_rank"]: sum(float(value.double().sum()) for value in r["forward"]) for r in results}
    return sum(by_rank.values())
