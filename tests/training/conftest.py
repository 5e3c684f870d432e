"""A tokenizer made on the fly: one token per byte, `</s>` to end a document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0} | {symbol: i for i, symbol in enumerate(alphabet, 1)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", clean_up_tokenization_spaces=False)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records or dictionaries as lines of a file and gives its path."""
    import json

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        lines = [json.dumps(r) if isinstance(r, dict) else r.to_json() for r in records]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write
