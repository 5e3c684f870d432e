# SPDX-License-Identifier: Apache-2.0
"""A continuation: where it ends, whatever tokens a stop string splits into, and what its text is."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steerlm.inference.engine.continuation import Continuation, end_of_text_ids
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState
from steerlm.prompt import MARKS, TURN_STOP_STRINGS


def grow(
    tokenizer: Any,
    ids: Sequence[int],
    prompt: Sequence[int] = (),
    stop: tuple[str, ...] = TURN_STOP_STRINGS,
    end_ids: Sequence[int] = (),
    max_tokens: int | None = None,
) -> tuple[Continuation, str]:
    """Append ids until the continuation ends, at the latest after the last one."""
    state = SamplingState(SamplingParams(stop=stop), list(prompt))
    continuation = Continuation(state, Vocabulary(tokenizer, MARKS), end_ids, max_tokens or len(ids))
    text = ""
    for token in ids:
        text += continuation.append(token)
        if continuation.finish_reason is not None:
            return continuation, text
    raise AssertionError("the continuation did not end")


def test_a_mark_of_many_pieces_stops_at_its_last(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("seven owls\n<extra_id_1>User\nmore <extra_id_1>", add_special_tokens=False)["input_ids"]
    continuation, text = grow(tokenizer, ids, tokenizer("x\n")["input_ids"])
    assert continuation.finish_reason == "stop"
    assert tokenizer.decode(continuation.state.tokens).rstrip("\nUser").endswith("<extra_id_1>")
    assert text == "seven owls"
    plain = tokenizer("a > b <extra_id_2> c <extra_id_", add_special_tokens=False)["input_ids"]
    assert grow(tokenizer, plain)[0].finish_reason == "length"


def test_a_mark_that_is_one_special_token_stops_too(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    single = AutoTokenizer.from_pretrained(tmp_path)
    single.add_special_tokens(
        {"additional_special_tokens": [AddedToken(f"<extra_id_{n}>", special=True) for n in range(3)]}
    )
    ids = single("old tree\n<extra_id_1>", add_special_tokens=False)["input_ids"]
    assert ids[-1] == single.convert_tokens_to_ids("<extra_id_1>")
    continuation, text = grow(single, ids, max_tokens=99)
    assert (len(continuation.state.tokens), continuation.finish_reason) == (len(ids), "stop")
    assert text == "old tree"
    assert grow(single, [*ids[:1], single.pad_token_id, *ids[1:]])[1] == "old tree"


@pytest.mark.parametrize("first", [" the fox", "the fox", "\n\nfox", "é–漢 fox"])
def test_text_is_that_of_prompt_and_continuation_decoded_at_once(
    tokenizer: PreTrainedTokenizerFast, first: str
) -> None:
    prompt = tokenizer("Assistant\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer(first, add_special_tokens=False)["input_ids"]
    assert grow(tokenizer, ids, prompt)[1] == first


def test_a_leading_space_of_a_metaspace_tokenizer_is_kept(shared_data: Path) -> None:
    llama = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    prompt = llama("Once upon a time", add_special_tokens=False)["input_ids"]
    whole = llama("Once upon a time there was", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert llama.decode(whole[len(prompt) :]) == "there was"
    assert grow(llama, whole[len(prompt) :], prompt)[1] == " there was"


def test_without_stop_strings_nothing_stops(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("a<extra_id_1>", add_special_tokens=False)["input_ids"]
    continuation, text = grow(tokenizer, ids, stop=())
    assert continuation.finish_reason == "length" and continuation.stop_string is None
    assert text == "a<extra_id_1>"


def test_the_end_of_text_token_has_no_text_and_ends_it(tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.eos_token_id
    ids = tokenizer("seven owls\n", add_special_tokens=False)["input_ids"]
    continuation, text = grow(tokenizer, [*ids, end, *ids], end_ids=[end])
    assert (continuation.finish_reason, continuation.stop_string) == ("stop", None)
    # The newline is the template's: the start of the next turn's mark.
    assert (text, continuation.state.tokens) == ("seven owls", [*ids, end])


@pytest.mark.parametrize("ending", [["end"], []])
def test_no_answer_ends_in_a_part_of_the_turns_mark(tokenizer: PreTrainedTokenizerFast, ending: list[str]) -> None:
    """Wherever the length limit, a canceled request or an end-of-text token cuts it."""
    ids = tokenizer("seven owls\n<extra_id_1>", add_special_tokens=False)["input_ids"]
    whole = [tokenizer.decode(ids[:length]) for length in range(len(ids) + 1)]
    for length in range(1, len(ids)):
        end = [tokenizer.eos_token_id] if ending else []
        continuation, text = grow(tokenizer, [*ids[:length], *end], end_ids=end)
        assert continuation.finish_reason == ("stop" if ending else "length")
        assert text == whole[length][: len("seven owls")]
    assert sum("\n" in text for text in whole[:-1]) > 3, "the mark has several pieces"


def test_end_ids_are_those_of_the_generation_config_else_of_the_config() -> None:
    def model(generation: int | list[int] | None, config: int | list[int] | None) -> Any:
        return SimpleNamespace(
            generation_config=SimpleNamespace(eos_token_id=generation), config=SimpleNamespace(eos_token_id=config)
        )

    assert end_of_text_ids(model([2, 3], 1)) == (2, 3)
    assert end_of_text_ids(model(2, [1])) == (2,)
    assert end_of_text_ids(model(None, [1, 4])) == (1, 4)
    assert end_of_text_ids(model(None, None)) == ()
