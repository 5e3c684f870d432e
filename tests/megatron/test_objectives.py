# SPDX-License-Identifier: Apache-2.0
"""The real objectives through the loop, in every layout: the same units, and the curve of one process.

fp32: losses within 1e-4 (seen: 4e-7). bf16 rounds a sum in another order to another neighbor: losses within 0.01
(seen: 0.004), at losses of 2 to 6 less than one unit in the last place of bf16.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.megatron.engine import MegatronEngine
from steerlm.training.config import RewardSettings, SFTSettings
from steerlm.training.data import Row
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Objective, StepResult
from steerlm.training.layout import LayoutSettings
from steerlm.training.loop import train
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.sft import SFTObjective
from steerlm.training.sink import JsonlSink, Sinks
from tests.byte_tokenizer import byte_tokenizer
from tests.megatron.forked import ranks
from tests.megatron.material import GQA, engine

SHAPE = GQA.model_copy(update={"vocab_size": 260, "max_position_embeddings": 256})
SCHEMA = AttributeSchema(names=("quality", "humor"))
WORDS = ("ice", "snow", "rain", "fog", "hail", "wind", "sun")
STEPS, BATCH = 5, 5
TOLERANCE = {"fp32": 1e-4, "bf16": 0.01}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"devices": 2, "tensor": 2, "recompute": "selective"},
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True, "recompute": "full"},
    "pp2": {"devices": 2, "pipeline": 2, "recompute": "selective"},
    "dp2": {"devices": 2, "recompute": "full"},
    "dp4": {"nodes": 2, "devices": 2},
    "tp2 pp2 dp2": {"nodes": 2, "devices": 4, "tensor": 2, "pipeline": 2},
    "tp2 sp pp2 dp2": {
        "devices": 8,
        "tensor": 2,
        "pipeline": 2,
        "sequence_parallel": True,
        "recompute": "full",
    },
}
OPTIMIZER = {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 2, "eps": 1e-5}
SETTINGS = {"max_steps": STEPS, "global_batch": BATCH, "validate_every": 2, "export": "last", "optimizer": OPTIMIZER}


def _conversation(at: int) -> dict[str, Any]:
    """Of one or two exchanges, with the label of one, both or no answer."""
    turns = []
    for turn in range(1 + at % 2):
        asked, told = WORDS[(at + turn) % 7], WORDS[(at * 3 + turn) % 7]
        label = f"quality:{at % 5},humor:{(at + turn) % 5}" if at % 3 != 1 or turn == 0 else None
        turns.append({"value": asked * (1 + at % 3), "from": "User", "label": None})
        turns.append({"value": f"It is {told}.", "from": "Assistant", "label": label})
    return {"conversations": turns, "system": "", "mask": "User", "type": "VALUE_TO_TEXT"}


def _rating(at: int) -> dict[str, Any]:
    text = " ".join(WORDS[(at * k) % 7] for k in range(1, 3 + at % 5))
    return {"text": f"{text}<extra_id_2>", "label": [-100.0 if at % 4 == 1 else at % 5, (at * 3) % 5]}


class Spy:
    """The engine, and what went into it: per step the samples by digest; rows that were empty, rows with a tail."""

    def __init__(self, of: MegatronEngine) -> None:
        self.of, self.layout = of, of.layout
        self.taken: list[Counter[str]] = []
        self.empty = self.tails = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)

    def step(self, rows: Sequence[Row], objective: Objective, lr: float, count: int | None = None) -> StepResult:
        self.taken.append(Counter(hashlib.sha256(s.ids.tobytes()).hexdigest() for row in rows for s in row.samples))
        self._look(rows)
        return self.of.step(rows, objective, lr, count)

    def evaluate(self, rows: Sequence[Row], objective: Objective) -> StepResult:
        self._look(rows)
        return self.of.evaluate(rows, objective)

    def _look(self, rows: Sequence[Row]) -> None:
        self.empty += sum(not row.samples for row in rows)
        self.tails += sum(row.tokens % self.layout.row_multiple != 0 for row in rows)


def _trained(folder: Path, kind: str, layout: dict[str, Any], precision: str) -> dict[str, Any]:
    values = {**SETTINGS, "precision": precision}
    if kind == "sft":
        sft = SFTSettings.model_validate({**values, "window": 200})
        objective: Any = SFTObjective(sft, byte_tokenizer(), SCHEMA)
        settings: SFTSettings | RewardSettings = sft
    else:
        settings = RewardSettings.model_validate({**values, "window": 64})
        objective = RewardObjective(settings, byte_tokenizer(), SCHEMA)
    of = Spy(engine(SHAPE, len(SCHEMA.names) if kind == "reward" else None, layout=layout, precision=precision))
    data = TokenDataset.build([folder / f"{kind}.jsonl"], objective, folder / "cache")
    validation = TokenDataset.build([folder / f"{kind}_val.jsonl"], objective, folder / "cache")
    place = folder / f"{kind} {precision} {layout}"
    lines = place / f"metrics-{of.layout.rank}.jsonl"
    with Sinks([JsonlSink(lines)]) as sink:
        result = train(of, objective, data, validation, settings, LayoutSettings(**layout), place, sink, lambda: False)
    logged = [json.loads(line) for line in lines.read_text().splitlines()]
    return {
        "losses": [line["train/loss"] for line in logged if "train/loss" in line],
        "norms": [line["train/grad_norm"] for line in logged if "train/loss" in line],
        "validation": [line["validation/loss"] for line in logged if "validation/loss" in line],
        "metrics": result.metrics,
        "taken": of.taken,
        "empty": of.empty,
        "tails": of.tails,
        "dp_rank": of.layout.dp_rank,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("objectives")
    for kind, record in (("sft", _conversation), ("reward", _rating)):
        for name, numbers in (("", range(17)), ("_val", range(17, 23))):
            lines = [json.dumps(record(at)) + "\n" for at in numbers]
            (made / f"{kind}{name}.jsonl").write_text("".join(lines))
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (kind, precision): ranks(1, _trained, folder, kind, {}, precision)[0]
        for kind in ("sft", "reward")
        for precision in ("fp32", "bf16")
    }


@pytest.mark.parametrize(
    ("kind", "name", "precision"),
    [
        *((kind, name, "fp32") for kind in ("sft", "reward") for name in LAYOUTS),
        *((kind, name, "bf16") for kind in ("sft", "reward") for name in ("tp2 sp", "dp4", "tp2 sp pp2 dp2")),
    ],
)
def test_the_curve_of_one_process(
    alone: dict[tuple[str, str], dict[str, Any]], folder: Path, kind: str, name: str, precision: str
) -> None:
    wanted, layout = alone[kind, precision], LayoutSettings(**LAYOUTS[name])
    results = ranks(layout.processes, _trained, folder, kind, LAYOUTS[name], precision)
    within = TOLERANCE[precision]
    for got in results:
        for key in ("losses", "validation"):
            assert got[key] == pytest.approx(wanted[key], rel=0, abs=within)
        assert got["norms"] == pytest.approx(wanted["norms"], rel=within if precision == "fp32" else 0.05)
        assert got["metrics"].keys() == wanted["metrics"].keys()
        if precision == "fp32":
            assert got["metrics"] == pytest.approx(wanted["metrics"], rel=1e-4, abs=1e-4)
    # Each step takes the same samples, none of them twice, over the replicas of the model.
    replicas = {got["dp_rank"]: got["taken"] for got in results}
    assert len(replicas) == layout.data_parallel
    assert [sum(parts, Counter()) for parts in zip(*replicas.values(), strict=True)] == wanted["taken"]
    assert sum(step.total() for step in wanted["taken"]) == STEPS * BATCH
    assert wanted["losses"][-1] < wanted["losses"][0]
    if layout.data_parallel > 1:
        assert any(got["empty"] for got in results)
    if layout.sequence_parallel:
        assert any(got["tails"] for got in results)
