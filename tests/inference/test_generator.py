# SPDX-License-Identifier: Apache-2.0
"""Generation: what plain transformers writes, whatever shares the batch; stopping, limits, seeds."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from steerlm.errors import InputError, ModelError
from steerlm.inference.config import SamplingSettings
from steerlm.inference.generator import TransformersGenerator
from steerlm.models.families import FAMILIES
from steerlm.models.folder import ModelInfo
from tests.inference.conftest import WINDOW, answer, config, save

GREEDY = SamplingSettings(max_tokens=32)
LEARNED = [f"question {n}?\n" for n in range(8)]
PROMPTS = LEARNED + [answer(n)[: 5 + 17 * n] for n in range(8)]


@pytest.fixture(scope="module")
def generator(policy_folder: Path) -> TransformersGenerator:
    return TransformersGenerator(policy_folder, batch_tokens=900)


def test_greedy_equals_transformers_generate_one_by_one(
    generator: TransformersGenerator, policy_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder).eval()
    made = generator.generate(PROMPTS, sampling=GREEDY.model_copy(update={"stop": ()}))
    for prompt, (generation,) in zip(PROMPTS, made, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            whole = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0]
        expected = whole[inputs["input_ids"].shape[1] :].tolist()
        assert generation.ids == [token for token in expected if token != tokenizer.eos_token_id]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_in_transformers(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config(tokenizer, family, initializer_range=0.3)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.1) if name.endswith(".bias") else None
    folder = save(tmp_path, model, tokenizer, ModelInfo("policy", window=WINDOW))
    sampling = SamplingSettings(max_tokens=12, stop=())
    for prompt, (generation,) in zip(
        PROMPTS, TransformersGenerator(folder).generate(PROMPTS, sampling=sampling), strict=True
    ):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            whole = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        expected = whole[inputs["input_ids"].shape[1] :].tolist()
        assert generation.ids == [token for token in expected if token != tokenizer.eos_token_id]


def test_an_answer_learned_by_heart_ends_before_its_stop_mark(generator: TransformersGenerator) -> None:
    for n, (generation,) in enumerate(generator.generate(LEARNED, sampling=GREEDY)):
        assert generation.text == answer(n)[:60]
        assert generation.finish_reason == "stop"
    (long,) = generator.generate([LEARNED[3]], sampling=SamplingSettings(max_tokens=3))[0]
    assert long.finish_reason == "length"
    assert len(long.ids) == 3
    assert answer(3).startswith(long.text)


def test_alone_equals_batched_greedy_and_sampled(generator: TransformersGenerator) -> None:
    warm = SamplingSettings(max_tokens=30, temperature=0.9, top_k=20, top_p=0.95)
    for sampling in (GREEDY, warm):
        together = generator.generate(PROMPTS, n=2, sampling=sampling, seed=4)
        for prompt, made in zip(PROMPTS[::5], together[::5], strict=True):
            assert generator.generate([prompt], n=2, sampling=sampling, seed=4) == [made]


def test_seeds_and_samples_differ(generator: TransformersGenerator) -> None:
    warm = SamplingSettings(max_tokens=30, temperature=1.5)
    one = generator.generate(PROMPTS[8:11], n=3, sampling=warm, seed=1)
    assert one == generator.generate(PROMPTS[8:11], n=3, sampling=warm, seed=1)
    assert one != generator.generate(PROMPTS[8:11], n=3, sampling=warm, seed=2)
    assert all(len({g.text for g in row}) == 3 for row in one)
    twice = generator.generate([PROMPTS[8]] * 2, sampling=warm)
    assert twice[0] != twice[1]
    greedy = generator.generate(PROMPTS[:2], n=2, sampling=GREEDY)
    assert all(a == b for a, b in greedy)


def test_the_window_bounds_prompt_and_answer(generator: TransformersGenerator) -> None:
    prompt = answer(29) * 9
    ids = generator._loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    near = generator._loaded.tokenizer.decode(ids[: WINDOW - 5])
    (generation,) = generator.generate([near], sampling=GREEDY.model_copy(update={"stop": ()}))[0]
    assert generation.finish_reason == "length"
    assert len(generation.ids) <= 5
    with pytest.raises(InputError, match=rf"prompt 1 has {len(ids)} tokens; the model's window is {WINDOW}"):
        generator.generate(["a", prompt], sampling=GREEDY)


def test_progress_adds_up(generator: TransformersGenerator) -> None:
    told: list[int] = []
    generator.generate(PROMPTS, n=2, sampling=GREEDY, on_progress=told.append)
    assert sum(told) == 2 * len(PROMPTS)
    assert len(told) > 3
    assert generator.generate([], sampling=GREEDY) == []


def test_a_reward_folder_does_not_generate(reward_folder: Path) -> None:
    with pytest.raises(ModelError, match="a language model was expected"):
        TransformersGenerator(reward_folder)
