# SPDX-License-Identifier: Apache-2.0
"""The generation engine: requests that arrive at any time share the forward passes of one model.

Scheduling, paged cache, prefix sharing and the batch itself are transformers' continuous batching. What its version
5.23 lacks per request (seed, greedy beside sampled, minimum length, penalty, stop strings) is added at its one seam,
the list of logits processors: `TokenChooser` takes the place of that list, chooses every row's token itself and hands
back one-hot scores, so that the library's argmax picks it. A request ends by the library's own `cancel_request`, which
takes effect before the next step is scheduled.

Its SDPA attention lets all requests attend to each other under a mask; `attention.py` replaces that. One left-padded
batch through `generate` is still faster on a CPU (0.9 M parameters, 64 requests of 100 + 64 tokens: 7,000 tokens/s;
masked continuous batching 2,000, one by one 540), but all its prompts must be there at once. A step loop of our
own would have to do chunked prefill, eviction and shared prefixes itself; a server on GPUs that needs more is vLLM,
which reads the same folder.

Leaves out HTTP and prompts: it takes token ids and gives text pieces.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.engine import paged_attention as attention
from steerlm.inference.engine.detokenizer import Detokenizer, Vocabulary
from steerlm.inference.engine.request import Completion, Job, Piece, deliver
from steerlm.inference.engine.sampling import Sampling, TokenLog, choose, token_logs
from steerlm.prompt import MARKS
from steerlm.serving.config import EngineSettings

logger = logging.getLogger(__name__)


class TokenChooser(ContinuousBatchingLogitsProcessorList):
    """Stands where transformers' continuous batching keeps its logits processors; chooses the tokens."""

    def __init__(self, engine: "Engine") -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._engine = engine
        self._rows: list[Job | None] = []

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        # Logits come only for requests whose prompt is read to its end, in this order.
        self._rows = [self._engine.jobs.get(r.state.request_id) for r in requests_in_batch if r.has_new_token]
        return arg_storage

    def __call__(self, input_ids: Any, scores: torch.Tensor, logits_processor_args: Any) -> torch.Tensor:
        live = [(row, job) for row, job in enumerate(self._rows) if job is not None and not job.done]
        picked = torch.zeros(scores.shape[0], dtype=torch.int64)
        if live:
            rows = scores[[row for row, _ in live]]
            logs = self._logs(rows, [job for _, job in live])
            tokens = choose(
                rows, [j.choice for _, j in live], end=self._engine.end_ids, vocabulary=self._engine.vocabulary_size
            )
            told = logs(tokens)
            news: list[tuple[Job, Piece | SteerLMError]] = []
            for (row, job), token in zip(live, tokens, strict=True):
                picked[row] = token
                pieces = job.advance(token, self._engine.end_ids, told.get(job.key))
                news.extend((job, piece) for piece in pieces)
                if job.done:
                    self._engine.close(job)
            deliver(news)
        self._engine.stepped()
        return torch.zeros_like(scores).scatter_(1, picked.to(scores.device)[:, None], 1.0)

    def _logs(self, rows: torch.Tensor, jobs: list[Job]) -> Callable[[list[int]], dict[str, TokenLog]]:
        """Read the distributions of those who asked, before the choice changes them; call with the chosen tokens."""
        wanted = [(i, job, job.choice.sampling.logprobs) for i, job in enumerate(jobs)]
        asked = [(i, job, count) for i, job, count in wanted if count is not None]
        if not asked:
            return lambda tokens: {}
        logs = rows[[i for i, _, _ in asked], : self._engine.vocabulary_size].float().log_softmax(-1)

        def told(tokens: list[int]) -> dict[str, TokenLog]:
            found = token_logs(logs, [tokens[i] for i, _, _ in asked], [count for _, _, count in asked])
            return {job.key: log for (_, job, _), log in zip(asked, found, strict=True)}

        return told


class Engine:
    """A causal language model behind continuous batching. Use: `start`, `stream`/`complete` on an event loop, `stop`.

    `window` is the longest prompt plus continuation, in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, window: int, settings: EngineSettings) -> None:
        """`model`: a transformers causal language model with SDPA or flash attention; `tokenizer`: its fast one."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.window = min(window, model.config.max_position_embeddings)
        self.end_ids = _end_ids(model)
        self.vocabulary_size = min(len(tokenizer), model.config.vocab_size)
        self.jobs: dict[str, Job] = {}
        self._vocabulary = Vocabulary(self.tokenizer, MARKS)
        self._counter = itertools.count()
        self._last_step = time.monotonic()
        self._manager: Any = None
        self._attention = ""
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Make the cache and start the engine's thread."""
        pages, step_tokens = cache_size(self.model, self.settings, self.window)
        continuous = ContinuousBatchingConfig(
            page_size=self.settings.page_tokens,
            num_blocks=pages,
            max_batch_tokens=step_tokens,
            max_requests_per_batch=min(self.settings.max_requests, step_tokens),
            # The chooser is Python and must see each step's result before the next.
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,  # it would look for kernels on the hub
        )
        # End-of-text is the chooser's business too: -1 is never a token.
        plain = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self._manager = self.model.init_continuous_batching(plain, continuous)
        self._manager.logit_processor = TokenChooser(self)
        self._attention = self.model.config._attn_implementation
        if "flash" not in self._attention:
            AttentionInterface.register(attention.NAME, attention.paged_attention)
            self.model.set_attn_implementation(attention.NAME)
        self._manager.start()
        self._watcher = threading.Thread(target=self._watch, name="engine-watcher", daemon=True)
        self._watcher.start()
        logger.info("cache of %d tokens, steps of %d", pages * self.settings.page_tokens, step_tokens)

    def stop(self, timeout: float = 10.0) -> None:
        """End the engine's thread; what is still in flight fails."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, timeout=timeout, hard_stop=True)
            self.model.set_attn_implementation(self._attention)
            self._fail_all("the server stopped before the answer was complete")

    @property
    def healthy(self) -> bool:
        """The thread lives, and if anything waits, a step was finished lately."""
        if self._manager is None or not self._manager.is_running():
            return False
        return not self.jobs or time.monotonic() - self._last_step < self.settings.stall_seconds

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt as in training: tokenised whole, no special tokens added."""
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not valid Unicode at character {error.start}") from None
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def check_length(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Raise `InputError` if prompt and continuation cannot fit the window."""
        if not prompt:
            raise InputError("the prompt is empty; a model needs at least one token to continue")
        if len(prompt) + max_tokens > self.window:
            raise InputError(
                f"the prompt has {len(prompt)} tokens and {max_tokens} more are asked for; "
                f"the model's window is {self.window}"
            )

    async def stream(
        self, prompt: list[int], sampling: Sampling, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Continue `prompt`; leaving the loop early cancels the request. `whole`: all pieces come at the end.

        Raises `InputError` if it does not fit the window, `SteerLMError` if the engine fails.
        """
        self.check_length(prompt, sampling.max_tokens)
        if self._manager is None or not self._manager.is_running():
            raise SteerLMError("the generation engine is not running")
        if not self.jobs:
            self._last_step = time.monotonic()
        job = Job(f"job-{next(self._counter)}", prompt, sampling, self._vocabulary, whole)
        self.jobs[job.key] = job
        try:
            # The chooser ends a request; the library's own limit is out of the way.
            added = self._manager.add_request(prompt, request_id=job.key, max_new_tokens=sampling.max_tokens + 1)
            if added is None:
                raise SteerLMError("the generation engine is stopping")
            while True:
                piece = await job.pieces.get()
                if isinstance(piece, SteerLMError):
                    raise piece
                yield piece
                if piece.finish is not None:
                    return
        finally:
            if not job.done:
                self.close(job)

    async def complete(self, prompt: list[int], sampling: Sampling) -> Completion:
        """The whole continuation."""
        pieces = [piece async for piece in self.stream(prompt, sampling, whole=True)]
        last = pieces[-1]
        assert last.finish is not None
        tokens = [p.token for p in pieces if p.token is not None]
        logs = [p.log for p in pieces if p.log is not None]
        return Completion("".join(p.text for p in pieces), tokens, last.finish, last.stopped_by, logs)

    @torch.no_grad()
    def distributions(self, ids: list[int]) -> torch.Tensor:
        """[len(ids) - 1, vocabulary] fp32 log-probabilities of what follows each token, in one forward pass."""
        tokens = torch.tensor([ids], device=self.model.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1, : self.vocabulary_size]
        return logits.float().log_softmax(-1)

    def logs(self, ids: list[int], top: int = 0) -> list[TokenLog]:
        """Of every token after the first, with the `top` likeliest in its place."""
        return token_logs(self.distributions(ids), ids[1:], [top] * (len(ids) - 1))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none, the template's marks keep theirs."""
        return self._vocabulary.decode(ids)

    def token_text(self, token: int) -> tuple[str, list[int] | None]:
        """See `Vocabulary.token_text`."""
        return self._vocabulary.token_text(token)

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """The character each token begins at in the text of `ids`; special tokens have no width."""
        detokenizer, at = Detokenizer(self._vocabulary, []), 0
        starts = []
        for token in ids:
            starts.append(at)
            at += len(detokenizer.push(token))
        return starts

    def stepped(self) -> None:
        self._last_step = time.monotonic()

    def close(self, job: Job) -> None:
        """Forget a job and free its place in the batch before the next step."""
        job.done = True
        self.jobs.pop(job.key, None)
        if self._manager is not None:
            self._manager.cancel_request(job.key)
            # After an eviction the library lets new requests in when one finishes; it forgets to when one is cancelled.
            if (processor := self._manager.batch_processor) is not None:
                processor.scheduler.block_new_requests = False

    def _watch(self) -> None:
        # Finished requests are never routed to the manager's queue (they end by cancellation): what comes is failures.
        while (manager := self._manager) is not None:
            result = manager.get_result(timeout=0.2)
            if result is not None and result.error and (job := self.jobs.pop(result.request_id, None)):
                job.done = True
                deliver([(job, SteerLMError(f"generation failed: {result.error}"))])
            if not manager.is_running():
                self._fail_all("the generation engine died; see the server's log")
                return

    def _fail_all(self, message: str) -> None:
        for key in list(self.jobs):
            if job := self.jobs.pop(key, None):
                job.done = True
                deliver([(job, SteerLMError(message))])


def _end_ids(model: Any) -> tuple[int, ...]:
    """The end-of-text ids: those of generation_config.json, else of config.json."""
    for config in (model.generation_config, model.config):
        if config.eos_token_id is not None:
            ids = config.eos_token_id
            return (ids,) if isinstance(ids, int) else tuple(ids)
    return ()


def cache_size(model: Any, settings: EngineSettings, window: int) -> tuple[int, int]:
    """(pages, tokens per step) for `model`: its default would take most of the memory and be slow on a CPU."""
    config = model.config
    heads, layers = config.num_key_value_heads, config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * layers * heads * head_size * model.dtype.itemsize
    tokens = settings.cache_tokens
    if tokens is None:
        tokens = max(window, min(settings.max_requests * window, settings.cache_bytes // token_bytes))
    elif tokens < window:
        raise ModelError(f"a cache of {tokens} tokens cannot hold one window of {window}; raise cache_tokens")
    # One page more per request: the last is rarely full.
    pages = math.ceil(tokens / settings.page_tokens) + 1
    return pages, max(settings.step_tokens, min(settings.max_requests, window))
