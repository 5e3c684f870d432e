# SPDX-License-Identifier: Apache-2.0
"""A chat with a model folder in this process, streamed: `steerlm ask --model` without a server."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.inference.engine.config import EngineSettings
from steerlm.inference.engine.engine import GenerationEngine
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.loading import load
from steerlm.serving.chat_prompt import ChatMessage, build_prompt


async def stream_answer(
    folder: Path,
    messages: Sequence[ChatMessage],
    attributes: Mapping[str, Any],
    params: SamplingParams,
    write: Callable[[str], None],
) -> dict[str, int]:
    """Write the answer to `messages` as it is generated; return the attributes it was generated with.

    Raises:
        ApiError: A message or an attribute is invalid.
        InputError: The prompt does not fit the window.
    """
    loaded = load(folder, head=False)
    prompt = build_prompt(messages, attributes, loaded.info.attributes)
    engine = GenerationEngine(loaded.model, loaded.tokenizer, loaded.window, EngineSettings(max_requests=1))
    chunks = engine.stream(engine.encode(prompt.text), params)
    engine.start()
    try:
        async for chunk in chunks:
            write(chunk.text)
    finally:
        engine.stop()
    return prompt.attributes
