"""What the objectives share about tokenizers: which one it is, and token ids without any special token."""

import hashlib
import json
from typing import Any

import numpy as np

from steerlm.training.rows import Ints


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of everything a fast tokenizer's ids depend on; its passing padding and truncation state is left out."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.pop("padding", None)
    content.pop("truncation", None)
    text = json.dumps([content, tokenizer.eos_token_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain_ids(tokenizer: Any, text: str) -> Ints:
    """Token ids [n] int32 of `text`, tokenised whole, without BOS or EOS (behaviour spec 2.4 and 4.1)."""
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
