# SPDX-License-Identifier: Apache-2.0
"""The reward model on megatron's layers scores as transformers does, in every layout, packed and without padding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from steerlm.errors import ConfigError, InputError, ModelError
from steerlm.inference.scorer import Scores, TransformersScorer
from steerlm.megatron.scoring import MegatronScorer
from steerlm.models.families import FAMILIES
from steerlm.prompt import LABEL_MARK
from steerlm.training.layout import LayoutSettings
from tests.inference.conftest import WINDOW, answer, make_reward
from tests.inference.conftest import tokenizer as tokenizer
from tests.megatron.forked import one, ranks
from tests.tiny_models import tiny_base

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp1": {},
    "tp2": {"devices": 2, "tensor": 2},
    "tp2 sp dp2": {"devices": 4, "tensor": 2, "sequence_parallel": True},
    "pp2": {"devices": 2, "pipeline": 2},
    "tp2 sp pp2": {"devices": 4, "tensor": 2, "pipeline": 2, "sequence_parallel": True},
}
TEXTS = [answer(n) + LABEL_MARK for n in range(24)]
TEXTS[5] = " ".join(answer(n) for n in range(12)) + LABEL_MARK  # beyond the window


def _reference(folder: Path) -> tuple[Scores, str, int]:
    scorer = TransformersScorer(folder)
    return scorer.score(TEXTS, "keep_end"), scorer.identity, scorer.window


def _scores(folder: Path, layout: dict[str, Any]) -> dict[str, Any]:
    scorer = MegatronScorer(folder, LayoutSettings(**layout), batch_tokens=200)
    with pytest.raises(InputError, match=rf"text 5 has \d+ tokens, the model's window is {WINDOW}"):
        scorer.score(TEXTS)
    return {
        "kept": scorer.score(TEXTS, "keep_end"),
        "again": scorer.score(TEXTS, "keep_end"),
        "skipped": np.flatnonzero(np.isnan(scorer.score(TEXTS, "skip")).any(axis=1)).tolist(),
        "none": scorer.score([]).shape,
        "of": (scorer.identity, scorer.window, scorer.replicas),
        "replica": scorer.replica,
        "writes": scorer.writes,
        "first": scorer.from_first(scorer._layout.rank),
    }


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return make_reward(tmp_path_factory.mktemp("reward"), tokenizer, scale=2)


@pytest.fixture(scope="module")
def reference(reward_folder: Path) -> tuple[Scores, str, int]:
    scores, *rest = one(_reference, reward_folder)
    assert scores.std(axis=0).min() > 0.1, "the texts have scores of their own"
    return scores, *rest


@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_of_a_layout(name: str, reward_folder: Path, reference: tuple[Scores, str, int]) -> None:
    wanted, identity, window = reference
    layout = LayoutSettings(**LAYOUTS[name])
    results = ranks(layout.processes, _scores, reward_folder, LAYOUTS[name])
    for got in results:
        # Relative where a score is large: fp32 is spaced by 5e-7 at 7, and CPUs sum in different orders.
        assert (np.abs(got["kept"] - wanted) / np.maximum(1, np.abs(wanted))).max() <= 2e-6
        assert got["kept"].dtype == np.float32 and (got["kept"] == results[0]["kept"]).all()
        assert (got["again"] == got["kept"]).all()
        assert got["skipped"] == [5] and got["none"] == (0, 9) and got["first"] == 0
        assert got["of"] == (identity, window, layout.data_parallel)
    writers = [got["replica"] for got in results if got["writes"]]
    assert sorted(writers) == list(range(layout.data_parallel)), "one process of each replica writes"


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_a_family(family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = make_reward(tmp_path, tokenizer, scale=2, family=family)
    wanted, *_ = one(_reference, folder)
    for got in ranks(2, _scores, folder, LAYOUTS["tp2"]):
        assert np.abs(got["kept"] - wanted).max() <= 5e-6  # of scores up to 5


def _refused(folder: Path, layout: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MegatronScorer(folder, LayoutSettings(**layout))


def test_what_cannot_be_is_refused(reward_folder: Path, tmp_path: Path) -> None:
    wrong = "does not divide by layout.tensor 3"
    one(_refused, reward_folder, {"devices": 3, "tensor": 3}, ConfigError, wrong)
    one(_refused, tiny_base(tmp_path), {}, ModelError, "a base model; a reward model was expected")


def _spoilt(folder: Path) -> None:
    import torch

    from steerlm.errors import SteerLMError

    scorer = MegatronScorer(folder, LayoutSettings())
    with torch.no_grad():
        scorer._model.output_layer.weight[0, 0] = torch.nan
    with pytest.raises(SteerLMError, match="scores that are not finite"):
        scorer.score(TEXTS[:2])


def test_scores_that_are_no_numbers_are_refused(reward_folder: Path) -> None:
    one(_spoilt, reward_folder)
