# SPDX-License-Identifier: Apache-2.0
"""A prompt's token ids, the same whoever runs the model."""

from typing import Any

from steerlm.errors import InputError


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of a prompt as in training: tokenized whole, without special tokens added.

    Raises:
        InputError: The text is not valid Unicode.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not valid Unicode at character {error.start}") from None
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids
