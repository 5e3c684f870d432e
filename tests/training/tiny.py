# SPDX-License-Identifier: Apache-2.0
"""A training that takes seconds: tiny texts, a tiny model, the reference engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from steerlm.training.config import TextSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Objective
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.training.loop import train
from steerlm.training.objectives.text import TextObjective
from steerlm.training.sink import JsonlSink, Sinks
from steerlm.training.state import TrainResult
from tests.reference_engine import ReferenceEngine
from tests.tiny_models import SHAPE

CONFIG = LlamaConfig(**SHAPE | {"vocab_size": 257, "max_position_embeddings": 256})
OPTIMIZER = {"lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 2}
SETTINGS = {"max_steps": 12, "global_batch": 4, "window": 64, "optimizer": OPTIMIZER}
WORDS = ("ice", "snow", "rain", "fog", "hail", "wind", "sun")


class TinyTraining:
    """A folder with tiny data, in which the loop can run several times."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        texts = [f"{a} and {b} make {c}." for a in WORDS for b in WORDS[:3] for c in WORDS[:1]]
        for name, part in (("train", texts[:18]), ("validation", texts[18:])):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in part))

    def data(self, name: str, objective: Objective) -> TokenDataset:
        return TokenDataset.build([self.folder / f"{name}.jsonl"], objective, self.folder / "cache")

    def run(
        self,
        name: str = "run",
        *,
        stop: Callable[[], bool] = lambda: False,
        engine: ReferenceEngine | None = None,
        layout: LayoutSettings | None = None,
        weights: int = 0,
        faults: FaultSettings | None = None,
        **values: Any,
    ) -> TrainResult:
        settings = TextSettings.model_validate({**SETTINGS, **values})
        objective = TextObjective(settings, self.tokenizer)
        self.engine = engine or ReferenceEngine(settings.optimizer, config=CONFIG, seed=weights)
        data, validation = self.data("train", objective), self.data("validation", objective)
        folder = self.folder / name
        with Sinks([JsonlSink(folder / "metrics.jsonl")]) as sink:
            return train(
                self.engine,
                objective,
                data,
                validation,
                settings,
                layout or LayoutSettings(),
                folder,
                sink,
                stop,
                faults,
            )

    def lines(self, name: str = "run", key: str = "train/loss") -> dict[int, float]:
        """Metric `key` by step; no step may occur twice."""
        lines = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        values = [(line["step"], line[key]) for line in lines if key in line]
        assert len(values) == len(dict(values))
        return dict(values)

    def checkpoints(self, name: str = "run") -> list[int]:
        folder = self.folder / name / "checkpoints"
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def stop_after(calls: int) -> Callable[[], bool]:
    """A stop callback that returns True after `calls` calls."""
    left = iter([False] * calls)
    return lambda: next(left, True)
