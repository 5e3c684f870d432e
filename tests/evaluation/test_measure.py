# SPDX-License-Identifier: Apache-2.0
"""Texts and questions longer than a model's window: an error, or judged by their end and counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.measure import measure
from steerlm.models.folder import ModelInfo
from steerlm.records import Conversation, Turn
from tests.inference.conftest import WINDOW, answer, config, save
from tests.inference.conftest import tokenizer as tokenizer

SCHEMA = AttributeSchema(names=("wit", "calm"), low=0, high=4)
SHORT = [f"q{n}?" for n in range(12)]
LONG = ["why " * 200, "how " * 200]


@pytest.fixture
def folders(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Untrained, with room for the prompt."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"num_labels": 2, "id2label": dict(enumerate(SCHEMA.names)), "problem_type": "regression"}
    shape = config(tokenizer)
    shape.max_position_embeddings = 2 * WINDOW
    scores = config(tokenizer, **names)
    scores.max_position_embeddings = 2 * WINDOW
    models = {"policy": LlamaForCausalLM(shape), "reward": LlamaForSequenceClassification(scores)}
    for weight in models["policy"].model.layers.parameters():
        weight.data.mul_(10) if weight.dim() > 1 else None  # so that answers depend on all of the prompt
    info = {kind: ModelInfo(kind, attributes=SCHEMA, window=2 * WINDOW) for kind in models}  # type: ignore[arg-type]
    return {kind: save(tmp_path / kind, model, tokenizer, info[kind]) for kind, model in models.items()}


def held_out() -> list[Conversation]:
    pairs = [("short?", answer(1)), ("long?", " ".join(answer(n) for n in range(40)))]
    return [
        Conversation(
            conversations=[
                Turn(value=question, speaker="User"),
                Turn(value=text, speaker="Assistant", label=f"wit:{number},calm:2"),
            ],
            mask="User",
        )
        for number, (question, text) in enumerate(pairs)
    ]


def test_over_long_questions_and_answers_are_an_error(folders: dict[str, Path]) -> None:
    settings = EvaluationSettings(questions=8, curve_questions=1, max_tokens=8)
    with pytest.raises(InputError, match=rf"text 1 has \d+ tokens, the model's window is {2 * WINDOW}"):
        measure(settings=settings, questions=SHORT, reward=folders["reward"], held_out=held_out())
    with pytest.raises(InputError, match=r"prompt \d+ has \d+ tokens; the model's window is"):
        measure(
            settings=settings.model_copy(update={"questions": 14}),
            questions=SHORT + LONG,
            policy=folders["policy"],
            reward=folders["reward"],
            held_out=held_out()[:1],
        )


def test_or_answers_are_judged_by_their_end_and_questions_counted(folders: dict[str, Path]) -> None:
    settings = EvaluationSettings(questions=12, curve_questions=1, max_tokens=8, over_long="keep_end")
    given: dict[str, Any] = {"questions": LONG + SHORT, "held_out": held_out(), **folders}
    result = measure(settings=settings, **given)
    assert result["quality"]["wit"]["n"] == 2
    assert (result["steering"]["questions"], result["steering"]["too_long"]) == (12, 2)
    with pytest.raises(InputError, match="12 questions to evaluate on, 14 are needed"):
        measure(settings=settings.model_copy(update={"questions": 14}), **given)
