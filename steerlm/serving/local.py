# SPDX-License-Identifier: Apache-2.0
"""A chat with a model folder in this process, streamed: `steerlm ask` and `steerlm chat` with `--model`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.inference.engine.config import EngineSettings
from steerlm.inference.engine.engine import GenerationEngine
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.loading import load
from steerlm.prompt import TURN_STOP_STRINGS
from steerlm.serving.chat_prompt import build_prompt
from steerlm.serving.messages import ChatMessage


class FolderChat:
    """A chat with the model of a folder, which is loaded once."""

    checks_attributes = True

    def __init__(self, folder: Path) -> None:
        """Load the model.

        Raises:
            ModelError: It cannot be loaded.
        """
        self._loaded = load(folder, head=False)
        self.schema = self._loaded.info.attributes

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        attributes: Mapping[str, int],
        sampling: Mapping[str, Any],
        write: Callable[[str], None],
    ) -> dict[str, int]:
        """See `Chat.answer`."""
        chat = [ChatMessage.model_validate(message) for message in messages]
        prompt = build_prompt(chat, attributes, self.schema)
        loaded = self._loaded
        engine = GenerationEngine(loaded.model, loaded.tokenizer, loaded.window, EngineSettings(max_requests=1))
        chunks = engine.stream(engine.encode(prompt.text), SamplingParams(stop=TURN_STOP_STRINGS, **sampling))

        async def write_all() -> None:
            engine.start()
            try:
                async for chunk in chunks:
                    write(chunk.text)
            finally:
                engine.stop()

        asyncio.run(write_all())
        return prompt.attributes
