# SPDX-License-Identifier: Apache-2.0
"""The generation engine: requests that arrive at any time share the forward passes of one model.

Scheduling, paged cache, prefix sharing and batching are transformers' continuous batching. Two parts of it are
replaced: token selection (`token_selector.py`) and attention without flash attention (`paged_attention.py`). A request
ends by the library's own `cancel_request`, which takes effect before the next step is scheduled.

On a CPU one left-padded batch is faster (0.9 M parameters, 64 requests of 100 + 64 tokens: 7,000 tokens/s against 2,000
with the library's masked attention and 540 one by one), but needs all prompts at once: offline generation does that
(`inference/generator.py`). A server on GPUs that needs more throughput is vLLM, which reads the same folder.
"""

import functools
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import torch
from transformers import AttentionInterface, GenerationConfig

from steerlm.errors import SteerLMError
from steerlm.inference.engine import paged_attention
from steerlm.inference.engine.cache_size import cache_size
from steerlm.inference.engine.config import EngineSettings
from steerlm.inference.engine.continuation import Continuation, end_of_text_ids, token_limit
from steerlm.inference.engine.continuous_batching import ContinuousBatchingConfig
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.encode import encode_prompt
from steerlm.inference.engine.json_schema import JsonSchemas
from steerlm.inference.engine.request import STOPPED, Completion, GenerationChunk, GenerationRequest, deliver
from steerlm.inference.engine.sampling import token_logprobs
from steerlm.inference.engine.sampling_params import SamplingParams
from steerlm.inference.engine.sampling_state import SamplingState, TokenLogprobs
from steerlm.inference.engine.token_selector import TokenSelector
from steerlm.prompt import MARKS

logger = logging.getLogger(__name__)


class GenerationEngine:
    """A causal language model behind continuous batching: token ids in, text out.

    Use: `start`, then `stream` or `complete` on an event loop, then `stop`.

    Attributes:
        window: Tokens of prompt and continuation at most.
        end_ids: The model's end-of-text ids.
        vocabulary: Decodes token ids.
        vocabulary_size: Number of token ids that are a token; the embedding may be padded beyond it.
        requests: The requests in flight by id.
    """

    def __init__(self, model: Any, tokenizer: Any, window: int, settings: EngineSettings) -> None:
        """Wrap a transformers causal language model with SDPA or flash attention, and its fast tokenizer."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.window = min(window, model.config.max_position_embeddings)
        self.end_ids = end_of_text_ids(model)
        self.vocabulary = Vocabulary(tokenizer, visible=MARKS)
        self.vocabulary_size = min(len(tokenizer), model.config.vocab_size)
        self.requests: dict[str, GenerationRequest] = {}
        self._counter = itertools.count()
        self._last_step = time.monotonic()
        self._manager: Any = None
        self._attention = ""

    def start(self) -> None:
        """Allocate the cache and start the engine's thread."""
        pages, step_tokens = cache_size(self.model, self.settings, self.window)
        continuous = ContinuousBatchingConfig(
            page_size=self.settings.page_tokens,
            num_blocks=pages,
            max_batch_tokens=step_tokens,
            max_requests_per_batch=min(self.settings.max_requests, step_tokens),
            # Token selection is Python and needs the result of each step before the next.
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,  # it would look for kernels on the hub
        )
        # Token selection handles the end of text: -1 is never a token.
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self._manager = self.model.init_continuous_batching(greedy, continuous)
        self._manager.logit_processor = TokenSelector(self)
        self._attention = self.model.config._attn_implementation
        if "flash" not in self._attention:
            AttentionInterface.register(paged_attention.NAME, paged_attention.paged_attention)
            self.model.set_attn_implementation(paged_attention.NAME)
        self._manager.start()
        threading.Thread(target=self._watch, name="engine-watcher", daemon=True).start()
        logger.info("cache of %d tokens, steps of %d", pages * self.settings.page_tokens, step_tokens)

    def stop(self, timeout: float = 10.0) -> None:
        """End the engine's thread; requests in flight fail."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, timeout=timeout, hard_stop=True)
            self.model.set_attn_implementation(self._attention)
            self._fail_all("the server stopped before the answer was complete")

    @property
    def running(self) -> bool:
        """Whether the engine's thread is alive."""
        return self._manager is not None and self._manager.is_running()

    @property
    def healthy(self) -> bool:
        """Whether the engine runs and, if requests wait, finished a step recently."""
        stalled = time.monotonic() - self._last_step >= self.settings.stall_seconds
        return self.running and not (self.requests and stalled)

    def queue_sizes(self) -> tuple[int, int]:
        """Return how many requests are in the batch, and how many wait for a place in it."""
        processor = self._manager.batch_processor if self._manager is not None else None
        total = len(self.requests)
        running = min(total, len(processor.scheduler.active_requests)) if processor else 0
        return running, total - running

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt; see `encode_prompt`."""
        return encode_prompt(self.tokenizer, prompt)

    @functools.cached_property
    def json_schemas(self) -> JsonSchemas:
        """Compiles schemas that answers must conform to; made at its first use."""
        return JsonSchemas(self.tokenizer, self.end_ids)

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
        return self._chunks(prompt, params, token_limit(prompt, params.max_tokens, self.window), whole)

    async def complete(self, prompt: list[int], params: SamplingParams) -> Completion:
        """Return the whole continuation; see `stream`."""
        return Completion.from_chunks([chunk async for chunk in self.stream(prompt, params, whole=True)])

    async def _chunks(
        self, prompt: list[int], params: SamplingParams, max_tokens: int, whole: bool
    ) -> AsyncGenerator[GenerationChunk, None]:
        if not self.running:
            raise SteerLMError(STOPPED)
        if not self.requests:
            self._last_step = time.monotonic()
        continuation = Continuation(SamplingState(params, prompt), self.vocabulary, self.end_ids, max_tokens)
        request = GenerationRequest(f"request-{next(self._counter)}", continuation, stream=not whole)
        self.requests[request.id] = request
        try:
            # Token selection ends a request; the library's own limit must not come first.
            added = self._manager.add_request(prompt, request_id=request.id, max_new_tokens=max_tokens + 1)
            if added is None:
                raise SteerLMError(STOPPED)
            while True:
                chunk = await request.chunks.get()
                if isinstance(chunk, SteerLMError):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            if not request.closed:
                self.close(request)

    @torch.no_grad()
    def distributions(self, ids: list[int]) -> torch.Tensor:
        """Return [len(ids) - 1, vocabulary] fp32 log-probabilities after each token, from one forward pass."""
        tokens = torch.tensor([ids], device=self.model.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1, : self.vocabulary_size]
        return logits.float().log_softmax(-1)

    def prompt_logprobs(self, ids: list[int], top: int = 0) -> list[TokenLogprobs]:
        """Return the log-probabilities of every token after the first, with the `top` most likely ones."""
        return token_logprobs(self.distributions(ids), ids[1:], [top] * (len(ids) - 1))

    def step_finished(self) -> None:
        """Record that a step finished."""
        self._last_step = time.monotonic()

    def close(self, request: GenerationRequest) -> None:
        """Remove a request; its row of the batch is free at the next step."""
        request.closed = True
        self.requests.pop(request.id, None)
        if self._manager is not None:
            self._manager.cancel_request(request.id)
            # After an eviction the library admits new requests when one finishes, but not when one is canceled.
            if (processor := self._manager.batch_processor) is not None:
                processor.scheduler.block_new_requests = False

    def _watch(self) -> None:
        # Requests end by cancellation, which puts nothing into the manager's queue: what arrives there are failures.
        while (manager := self._manager) is not None:
            result = manager.get_result(timeout=0.2)
            if result is not None and result.error and (request := self.requests.pop(result.request_id, None)):
                self._fail(request, f"generation failed: {result.error}")
            if not manager.is_running():
                self._fail_all("the generation engine died; see the server's log")
                return

    def _fail_all(self, message: str) -> None:
        for request_id in list(self.requests):
            if request := self.requests.pop(request_id, None):
                self._fail(request, message)

    @staticmethod
    def _fail(request: GenerationRequest, message: str) -> None:
        request.closed = True
        deliver([(request, SteerLMError(message))])
