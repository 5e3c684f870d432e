# SPDX-License-Identifier: Apache-2.0
"""The in-process scorer gives what plain transformers gives, whatever shares the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from steerlm.errors import InputError, ModelError
from steerlm.inference.scorer import TransformersScorer
from steerlm.models.families import FAMILIES
from steerlm.prompt import render_readout
from tests.inference.conftest import WINDOW, answer, conversation, make_reward


@pytest.fixture(scope="module")
def scorer(reward_folder: Path) -> TransformersScorer:
    return TransformersScorer(reward_folder, batch_tokens=600)


def one_by_one(folder: Path, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(t, return_tensors="pt", add_special_tokens=False)).logits[0] for t in texts]
    return torch.stack(rows).numpy()


def test_scores_equal_transformers_one_by_one(
    scorer: TransformersScorer, reward_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [answer(n) + "<extra_id_2>" for n in range(40)]
    scores = scorer.score(texts)
    assert scores.dtype == np.float32
    assert scores.shape == (40, 9)
    np.testing.assert_allclose(scores, one_by_one(reward_folder, tokenizer, texts), atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_reward_models_of_every_family_score_as_in_transformers(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = make_reward(tmp_path, tokenizer, family=family, scale=2)
    texts = [answer(n) + "<extra_id_2>" for n in range(12)]
    scores = TransformersScorer(folder, batch_tokens=300).score(texts)
    assert scores.std(axis=0).min() > 0.1
    np.testing.assert_allclose(scores, one_by_one(folder, tokenizer, texts), atol=2e-5)


def test_a_text_of_padding_tokens_is_read_out_at_its_end(
    scorer: TransformersScorer, reward_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    # transformers looks for the last token that is not padding; explicit lengths need no such guess.
    texts = ["the fox</s></s>", answer(9)]
    np.testing.assert_allclose(scorer.score(texts)[0], one_by_one(reward_folder, tokenizer, texts[:1])[0], atol=2e-5)
    alone = scorer.score(["a dog<pad>"])[0]
    assert np.abs(alone - scorer.score(["a dog"])[0]).max() > 1e-3
    np.testing.assert_allclose(scorer.score(["a dog<pad>", answer(9)])[0], alone, atol=2e-5)


def test_over_long_texts_follow_the_policy(scorer: TransformersScorer, tokenizer: PreTrainedTokenizerFast) -> None:
    long = render_readout(conversation(2, turns=4), 7)
    ids = tokenizer(long, add_special_tokens=False)["input_ids"]
    assert len(ids) > WINDOW == scorer.window
    with pytest.raises(InputError, match=rf"text 1 has {len(ids)} tokens, the model's window is {WINDOW}"):
        scorer.score(["a dog", long])
    skipped = scorer.score(["a dog", long], "skip")
    assert np.isnan(skipped[1]).all()
    assert np.isfinite(skipped[0]).all()
    end = tokenizer.decode(ids[-WINDOW:])
    np.testing.assert_allclose(scorer.score([long], "keep_end"), scorer.score([end]), atol=2e-5)


def test_an_empty_text_has_nothing_to_read(scorer: TransformersScorer) -> None:
    assert scorer.score([]).shape == (0, 9)
    with pytest.raises(InputError, match="text 1 is empty"):
        scorer.score(["a", ""])


def test_identity_tells_models_apart(
    scorer: TransformersScorer, reward_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert TransformersScorer(reward_folder).identity == scorer.identity
    assert TransformersScorer(make_reward(tmp_path, tokenizer, seed=5)).identity != scorer.identity


def test_other_folders_are_refused(policy_folder: Path, reward_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a reward model was expected"):
        TransformersScorer(policy_folder)
    from safetensors.torch import load_file, save_file

    for path in reward_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing, of another shape, or have no place .*: score\.weight"):
        TransformersScorer(tmp_path)
