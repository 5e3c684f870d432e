# SPDX-License-Identifier: Apache-2.0
"""Each objective learns in the training loop."""

import json
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.training.config import RewardSettings, SFTSettings, TrainSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.layout import LayoutSettings
from steerlm.training.loop import train
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.sft import SFTObjective
from steerlm.training.sink import JsonlSink, Sinks
from steerlm.training.state import TrainResult
from tests.reference_engine import ReferenceEngine
from tests.training.tiny import CONFIG, SETTINGS, WORDS, TinyTraining


def run_objective(tiny: TinyTraining, objective: Any, settings: TrainSettings, outputs: int | None) -> TrainResult:
    """Train and validate on the same lines."""
    engine = ReferenceEngine(settings.optimizer, config=CONFIG, outputs=outputs)
    data = TokenDataset.build([tiny.folder / "lines.jsonl"], objective, tiny.folder / "cache")
    with Sinks([JsonlSink(tiny.folder / "run" / "metrics.jsonl")]) as sink:
        return train(
            engine, objective, data, data, settings, LayoutSettings(), tiny.folder / "run", sink, lambda: False
        )


def test_a_reward_model_learns_to_rate(tiny: TinyTraining) -> None:
    schema = AttributeSchema(names=("wet", "never", "cold"), high=1)
    lines = [
        {"text": f"{a} {b}<extra_id_2>", "label": [float(a == "rain"), -100.0, float(b == "ice")]}
        for a in WORDS[:4]
        for b in WORDS[:4]
    ]
    (tiny.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = RewardSettings.model_validate({**SETTINGS, "max_steps": 40, "global_batch": 8})
    result = run_objective(tiny, RewardObjective(settings, tiny.tokenizer, schema), settings, 3)
    for name in ("wet", "cold"):
        assert result.metrics[f"mse/{name}"] < 0.8 * result.metrics[f"mean_predictor_mse/{name}"]
        assert result.metrics[f"pearson/{name}"] > 0.5
    assert not [name for name in result.metrics if "never" in name]
    assert result.counts["train"]["labels/wet"] == 16 and "labels/never" not in result.counts["train"]


def test_conditioned_fine_tuning_learns_the_answers(tiny: TinyTraining) -> None:
    lines = [
        {
            "conversations": [
                {"value": word, "from": "User", "label": None},
                {"value": f"It is {word}.", "from": "Assistant", "label": f"quality:{at % 5}"},
            ],
            "system": "",
            "mask": "User",
            "type": "VALUE_TO_TEXT",
        }
        for at, word in enumerate(WORDS)
    ]
    (tiny.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = SFTSettings.model_validate({**SETTINGS, "window": 128})
    result = run_objective(tiny, SFTObjective(settings, tiny.tokenizer, AttributeSchema()), settings, None)
    losses = tiny.lines()
    assert losses[12] < 0.7 * losses[1]
    assert result.metrics["learned_tokens"] == sum(len(f"It is {w}.\n<extra_id_1>") for w in WORDS)
