# SPDX-License-Identifier: Apache-2.0
"""One question to a model folder in this process, streamed: what `steerlm ask --model` does without a server."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steerlm.inference.engine.engine import Engine
from steerlm.inference.engine.sampling import Sampling
from steerlm.inference.loading import load
from steerlm.serving.chat_prompt import Message, build_prompt, stops
from steerlm.serving.config import EngineSettings


async def ask(
    folder: Path,
    messages: list[Message],
    attributes: Mapping[str, Any],
    write: Callable[[str], None],
    *,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
) -> dict[str, int]:
    """Hand the answer to `write` piece by piece; returns the dials that were used. `max_tokens` None: to the window.

    Raises `ApiError` for a dial the model does not have, `InputError` for a prompt that does not fit.
    """
    loaded = load(folder, head=False)
    prompt = build_prompt(messages, attributes, loaded.info.attributes)
    engine = Engine(loaded.model, loaded.tokenizer, loaded.window, EngineSettings(max_requests=1))
    ids = engine.encode(prompt.text)
    limit = max_tokens or max(1, engine.window - len(ids))
    sampling = Sampling(max_tokens=limit, temperature=temperature, top_p=top_p, seed=seed, stop=stops())
    engine.start()
    try:
        async for piece in engine.stream(ids, sampling):
            write(piece.text)
    finally:
        engine.stop()
    return prompt.attributes
