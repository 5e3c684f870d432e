# SPDX-License-Identifier: Apache-2.0
"""What computes behind the routes: the interfaces that the engine in this process and an upstream both have.

The routes know only these. `in_process.py` runs the model with transformers, `upstream/` asks an OpenAI-compatible
server such as vLLM.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.json_schema import JsonSchemas
from steerlm.inference.engine.request import Completion, GenerationChunk
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import TokenLogprobs
from steerlm.serving.service import ServiceLoad

Scores = npt.NDArray[np.float32]


class ServedEngine(Protocol):
    """What both kinds of engine have."""

    @property
    def window(self) -> int:
        """Context window in tokens; known after `launch`."""

    @property
    def healthy(self) -> bool:
        """Whether this process does its part: a restart would not help."""

    @property
    def available(self) -> bool:
        """Whether requests can be answered now. An upstream may be away while this process is healthy."""

    async def load(self) -> ServiceLoad | None:
        """Return what the engine is doing now; None if an upstream does not say."""

    async def launch(self) -> None:
        """Start.

        Raises:
            ModelError: What is served is not what the model folder describes.
            SteerLMError: The upstream does not answer.
        """

    async def shutdown(self) -> None:
        """Stop; also called after a failed start."""


class AnswerEngine(ServedEngine, Protocol):
    """A causal language model: token ids in, text out."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as transformers has it."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Decodes token ids."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that are a token."""

    @property
    def end_ids(self) -> Sequence[int]:
        """The model's end-of-text ids."""

    @property
    def json_schemas(self) -> JsonSchemas:
        """Compiles schemas that answers must conform to."""

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt as in training.

        Raises:
            InputError: The text is not valid Unicode.
        """

    def stream(
        self, prompt: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Check a request and return its chunks; closing the generator cancels the request.

        Args:
            prompt: Token ids.
            params: See `SamplingParams`.
            whole: All chunks arrive at the end, which costs less than one at a time.

        Raises:
            InputError: Prompt and continuation do not fit the window. Raised by the call, before the first chunk.
            SteerLMError: The engine failed.
        """

    async def complete(self, prompt: list[int], params: SamplingParams) -> Completion:
        """Return the whole continuation; see `stream`."""

    async def logprobs(self, ids: list[int], top: int = 0) -> list[TokenLogprobs]:
        """Return the log-probabilities of every token after the first, with the `top` most likely ones."""

    async def full_logprobs(self, ids: list[int]) -> list[list[float]]:
        """Return [len(ids) - 1, vocabulary] log-probabilities after each token.

        Raises:
            InputError: This engine cannot.
        """


class ScoreEngine(ServedEngine, Protocol):
    """A reward model: rows of token ids in, raw scores out."""

    @property
    def schema(self) -> AttributeSchema:
        """Attributes of the score vector, in its order."""

    @property
    def identity(self) -> str | None:
        """Digest that identifies the model, see `model_identity`; None if unknown."""

    async def score(self, texts: Sequence[list[int]], *, alone: bool = False) -> Scores:
        """Return [n, attributes] fp32 scores.

        Args:
            texts: n texts of 1 to `window` token ids.
            alone: Share no forward pass with other requests, as far as the engine can tell.

        Raises:
            SteerLMError: The engine failed.
        """
