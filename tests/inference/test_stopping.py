# SPDX-License-Identifier: Apache-2.0
"""Stop strings over token boundaries, and the text of a continuation."""

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steerlm.inference.config import Sampling
from steerlm.inference.stopping import Continuations

STOP = Sampling().stop


def first_stop(continuations: Continuations, ids: list[int]) -> int | None:
    return next((n for n in range(1, len(ids) + 1) if continuations.stopped(ids[:n])), None)


def test_a_mark_of_many_pieces_stops_at_its_last(tokenizer: PreTrainedTokenizerFast) -> None:
    continuations = Continuations(tokenizer, STOP)
    ids = tokenizer("seven owls\n<extra_id_1>User\nmore <extra_id_1>", add_special_tokens=False)["input_ids"]
    at = first_stop(continuations, ids)
    assert at is not None
    assert tokenizer.decode(ids[:at]).rstrip("\nUser").endswith("<extra_id_1>")
    assert continuations.text(tokenizer("x\n")["input_ids"], ids[:at]) == "seven owls"
    plain = tokenizer("a > b <extra_id_2> c <extra_id_", add_special_tokens=False)["input_ids"]
    assert first_stop(continuations, plain) is None


def test_a_mark_that_is_one_special_token_stops_too(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    single = AutoTokenizer.from_pretrained(tmp_path)
    single.add_special_tokens(
        {"additional_special_tokens": [AddedToken(f"<extra_id_{n}>", special=True) for n in range(3)]}
    )
    continuations = Continuations(single, STOP)
    ids = single("old tree\n<extra_id_1>", add_special_tokens=False)["input_ids"]
    assert ids[-1] == single.convert_tokens_to_ids("<extra_id_1>")
    assert first_stop(continuations, ids) == len(ids)
    assert continuations.text([], ids) == "old tree"
    assert continuations.text([], [*ids[:1], single.pad_token_id, *ids[1:]]) == "old tree"


@pytest.mark.parametrize("first", [" the fox", "the fox", "\n\nfox", "é–漢 fox"])
def test_text_is_what_the_whole_text_shows(tokenizer: PreTrainedTokenizerFast, first: str) -> None:
    prompt = tokenizer("Assistant\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer(first, add_special_tokens=False)["input_ids"]
    assert Continuations(tokenizer, STOP).text(prompt, ids) == first


def test_a_leading_space_of_a_metaspace_tokenizer_is_kept(shared_data: Path) -> None:
    llama = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    prompt = llama("Once upon a time", add_special_tokens=False)["input_ids"]
    whole = llama("Once upon a time there was", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert llama.decode(whole[len(prompt) :]) == "there was"
    assert Continuations(llama, STOP).text(prompt, whole[len(prompt) :]) == " there was"


def test_without_stop_strings_nothing_stops(tokenizer: PreTrainedTokenizerFast) -> None:
    continuations = Continuations(tokenizer, ())
    ids = tokenizer("a<extra_id_1>", add_special_tokens=False)["input_ids"]
    assert first_stop(continuations, ids) is None
    assert continuations.text([], ids) == "a<extra_id_1>"
