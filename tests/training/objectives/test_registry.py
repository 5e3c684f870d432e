# SPDX-License-Identifier: Apache-2.0
"""The table of objectives: complete, importable without torch, and the only thing a new objective is added to."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from transformers import LlamaConfig

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError
from steerlm.prompt import Tokens
from steerlm.records import Line
from steerlm.training.config import TrainSettings
from steerlm.training.data import Sample, Unit
from steerlm.training.dataset import TokenDataset
from steerlm.training.layout import LayoutSettings
from steerlm.training.loop import train
from steerlm.training.objectives.likelihood import Likelihood
from steerlm.training.objectives.registry import OBJECTIVES, ObjectiveEntry, objective_entry
from steerlm.training.objectives.tokens import Draft, TextRecords
from steerlm.training.sink import Metrics
from tests.reference_engine import ReferenceEngine
from tests.tiny_models import SHAPE


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_entry_describes_the_objective_it_creates(name: str, tokenizer: Any) -> None:
    entry, schema = objective_entry(name), AttributeSchema(names=("wet", "cold"))
    objective = entry.create(entry.settings(max_steps=1), tokenizer, schema)
    assert objective.record is entry.record
    assert objective.fingerprint()["objective"] == name
    assert (entry.outputs(schema) == 2) == (objective.output == "values")
    assert entry.uses_attributes == ("attributes" in objective.fingerprint())
    assert entry.section.startswith(entry.layout)


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown objective 'stf'; did you mean 'sft'"):
        objective_entry("stf")


def test_the_table_imports_neither_torch_nor_an_objective() -> None:
    code = (
        "import sys\n"
        "from steerlm.training.objectives.registry import OBJECTIVES\n"
        "heavy = {'torch', 'numpy', 'transformers'} | {f'steerlm.training.objectives.{name}' for name in OBJECTIVES}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Greeting(Line):
    name: str


class GreetingSettings(TrainSettings):
    greeting: str = "Hello"


class GreetingObjective(Likelihood, TextRecords):
    """Learns a greeting of each name."""

    record = Greeting
    output: Literal["logprobs"] = "logprobs"

    def __init__(self, settings: GreetingSettings, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.settings = settings

    def fingerprint(self) -> dict[str, Any]:
        return {"objective": "greeting", "greeting": self.settings.greeting, "tokenizer": self.encoder.digest()}

    def draft(self, record: Greeting) -> Draft:
        def units(tokens: Tokens) -> list[Unit]:
            weights = np.ones(len(tokens.ids), np.float32)
            weights[0] = 0
            return [Unit((Sample(np.array(tokens.ids, np.int32), weights, count=len(tokens.ids) - 1),))]

        return Draft(f"{self.settings.greeting}, {record.name}!", units)


class Losses:
    """A sink that keeps the losses of the steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def log(self, metrics: Metrics, step: int) -> None:
        self.values += [metrics["train/loss"]] if "train/loss" in metrics else []

    def close(self) -> None: ...


def test_a_new_objective_is_one_entry(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ObjectiveEntry(
        settings=GreetingSettings,
        model_kind="base",
        record=Greeting,
        create=lambda settings, tokenizer, schema: GreetingObjective(settings, tokenizer),
        section="greeting",
    )
    monkeypatch.setitem(OBJECTIVES, "greeting", entry)
    registered = objective_entry("greeting")
    settings = registered.settings.model_validate(
        {"max_steps": 12, "global_batch": 2, "window": 64, "optimizer": {"lr": 1e-2, "min_lr": 1e-3}}
    )
    objective = registered.create(settings, tokenizer, AttributeSchema())
    path = tmp_path / "names.jsonl"
    path.write_text("".join(Greeting(name=name).to_json() + "\n" for name in ("Ada", "Grace", "Edsger")))
    data = TokenDataset.build([path], objective, tmp_path / "cache")
    config = LlamaConfig(**SHAPE | {"vocab_size": 257, "max_position_embeddings": 64})
    engine = ReferenceEngine(settings.optimizer, config=config)
    losses = Losses()
    train(engine, objective, data, None, settings, LayoutSettings(), tmp_path / "run", losses, lambda: False)
    assert len(losses.values) == 12 and losses.values[-1] < 0.7 * losses.values[0]
