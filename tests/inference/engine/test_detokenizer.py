# SPDX-License-Identifier: Apache-2.0
"""Incremental text: what is emitted is final, and its sum is the text of all ids decoded at once."""

import random
from pathlib import Path

import pytest

from steerlm.inference.engine.detokenizer import Detokenizer, Vocabulary
from steerlm.models.folder import load_tokenizer


def pushed(vocabulary: Vocabulary, prompt: list[int], ids: list[int]) -> str:
    detokenizer = Detokenizer(vocabulary, prompt)
    return "".join(detokenizer.push(i) for i in ids) + detokenizer.flush()


@pytest.mark.parametrize("kind", ["bytes-in-bpe", "byte-fallback"])
def test_parts_add_up_to_the_decoded_text(kind: str, tokenizer_folder: Path, request: pytest.FixtureRequest) -> None:
    if kind == "byte-fallback":
        tokenizer = load_tokenizer(request.getfixturevalue("shared_data") / "stories260K")
    else:
        tokenizer = load_tokenizer(tokenizer_folder)
    vocabulary = Vocabulary(tokenizer)
    rng = random.Random(5)
    first = len(tokenizer.all_special_ids)
    for text in ("It's 5 é 漢字 🙂 words", "a\n\n  b", "<extra_id_1>"):
        for prompt in ("User\nhello\n", "quality:4,humor:0\n"):
            head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
            assert ids[: len(head)] == head
            assert prompt + pushed(vocabulary, head, ids[len(head) :]) == prompt + text
    for _ in range(300):
        prompt_ids = [rng.randrange(first + 256, len(tokenizer)) for _ in range(rng.randrange(1, 4))]
        ids = [rng.randrange(first, len(tokenizer)) for _ in range(20)]
        whole = vocabulary.decode(prompt_ids + ids)
        assert vocabulary.decode(prompt_ids) + pushed(vocabulary, prompt_ids, ids) == whole


def test_special_tokens_have_no_text_but_visible_ones_do(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    ids = [tokenizer.bos_token_id, *tokenizer("dog", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert pushed(Vocabulary(tokenizer), [], ids) == "dog"
    assert pushed(Vocabulary(tokenizer, ["</s>"]), [], ids) == "dog</s>"
