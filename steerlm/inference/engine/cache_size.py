# SPDX-License-Identifier: Apache-2.0
"""Size of the key/value cache. The library's default takes most of the memory and is slow on a CPU."""

import math
from typing import Any

from steerlm.errors import ModelError
from steerlm.inference.engine.config import EngineSettings


def cache_size(model: Any, settings: EngineSettings, window: int) -> tuple[int, int]:
    """Return (pages, tokens per step) for a model.

    Raises:
        ModelError: `cache_tokens` is smaller than one window.
    """
    config = model.config
    heads, layers = config.num_key_value_heads, config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * layers * heads * head_size * model.dtype.itemsize
    tokens = settings.cache_tokens
    if tokens is None:
        tokens = max(window, min(settings.max_requests * window, settings.cache_bytes // token_bytes))
    elif tokens < window:
        raise ModelError(f"a cache of {tokens} tokens cannot hold one window of {window}; raise cache_tokens")
    # One page more: the last one of a request is rarely full.
    pages = math.ceil(tokens / settings.page_tokens) + 1
    return pages, max(settings.step_tokens, min(settings.max_requests, window))
