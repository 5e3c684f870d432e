# SPDX-License-Identifier: Apache-2.0
"""Offline generation: prompts that are all known beforehand are continued in left-padded batches.

Prompts are sorted by length, decoded together, and finished rows leave the batch, so that one long answer does not keep
a hundred short ones computing (measured against `transformers.generate` in `benchmarks/generate.py`). Token selection,
text and stopping are the engine's (`steerlm.inference.engine`), which serves prompts that arrive at any time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from steerlm.errors import InputError
from steerlm.inference.batching import by_length
from steerlm.inference.config import Precision, SamplingSettings
from steerlm.inference.engine.continuation import Continuation, FinishReason, end_of_text_ids
from steerlm.inference.engine.detokenizer import Vocabulary
from steerlm.inference.engine.sampling import select_tokens
from steerlm.inference.engine.sampling_state import SamplingState
from steerlm.inference.loading import load
from steerlm.inference.uniforms import uniforms
from steerlm.prompt import MARKS


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation.

    Attributes:
        text: The text before the stop string.
        ids: The generated tokens, including those of a stop string but not the end-of-text token.
        finish_reason: `stop` (end of text or a stop string) or `length` (`max_tokens`, or the window is full).
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason


class Generator(Protocol):
    """A language model that continues prompts."""

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 1,
        sampling: SamplingSettings | None = None,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """Return `n` continuations of every prompt, in order.

        Args:
            prompts: The prompts.
            n: Continuations of each.
            sampling: Default: greedy.
            seed: Any integer; decides what is sampled.
            on_progress: Called with the number of continuations that have finished since the last call.

        Raises:
            InputError: A prompt is empty or fills the window.
        """
        ...


@dataclass(slots=True)
class _Row:
    """One continuation in a batch."""

    continuation: Continuation
    max_tokens: int
    text: str = ""

    @property
    def state(self) -> SamplingState:
        return self.continuation.state

    @property
    def finished(self) -> bool:
        return self.continuation.finish_reason is not None


class TransformersGenerator:
    """A model folder run in this process.

    Attributes:
        window: Tokens of prompt and continuation at most.
        batch_tokens: Rows * (longest prompt + `max_tokens`) of a batch at most.
    """

    def __init__(self, folder: str | Path, *, batch_tokens: int = 32768, dtype: Precision = "auto") -> None:
        """Load a folder.

        Raises:
            ModelError: It is not a language model's folder, or weights are missing.
        """
        self._loaded = load(folder, head=False, dtype=dtype)
        self.window = self._loaded.window
        self.batch_tokens = batch_tokens
        self._vocabulary = Vocabulary(self._loaded.tokenizer, visible=MARKS)
        self._end_ids = end_of_text_ids(self._loaded.model)

    def room(self, prompts: Sequence[str]) -> list[int]:
        """Return the tokens of the window that each prompt leaves for its continuation; below 1, it does not fit."""
        return [self.window - len(ids) for ids in self._encode(prompts)]

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 1,
        sampling: SamplingSettings | None = None,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """See `Generator.generate`. An answer does not depend on what else is in the batch."""
        params = (sampling or SamplingSettings()).params()
        assert params.max_tokens is not None
        encoded = self._encode(prompts)
        for index, ids in enumerate(encoded):
            if not 0 < len(ids) < self.window:
                raise InputError(f"prompt {index} has {len(ids)} tokens; the model's window is {self.window}")
        numbers = uniforms(prompts, n, 0 if params.greedy else params.max_tokens, seed)
        rows = []
        for p, ids in enumerate(encoded):
            max_tokens = min(params.max_tokens, self.window - len(ids))
            for k in range(n):
                state = SamplingState(params, ids, iter(numbers[p * n + k].tolist()).__next__)
                rows.append(_Row(Continuation(state, self._vocabulary, self._end_ids, max_tokens), max_tokens))
        for batch in by_length([len(row.state.prompt) + row.max_tokens for row in rows], self.batch_tokens):
            self._decode([rows[i] for i in batch], on_progress)
        generations = [self._generation(row) for row in rows]
        return [generations[p * n : (p + 1) * n] for p in range(len(prompts))]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        if not prompts:
            return []
        encoded: list[list[int]] = self._loaded.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        return encoded

    @torch.inference_mode()
    def _decode(self, rows: list[_Row], on_progress: Callable[[int], None] | None) -> None:
        """Extend the rows until all are finished, removing finished ones from the batch once they are many."""
        from transformers import DynamicCache

        model, device = self._loaded.model, self._loaded.device
        prompts = [row.state.prompt for row in rows]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        while True:
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            tokens = self._extend(rows, logits, on_progress)
            active = [i for i, row in enumerate(rows) if not row.finished]
            if not active:
                return
            ids, positions = torch.tensor(tokens, device=device)[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
            if len(active) <= 0.8 * len(rows):  # removing a fifth of the rows outweighs copying the cache
                keep = torch.tensor(active, device=device)
                cache.batch_select_indices(keep)
                ids, positions, mask = ids[keep], positions[keep], mask[keep]
                rows = [rows[i] for i in active]

    def _extend(
        self, rows: Sequence[_Row], logits: torch.Tensor, on_progress: Callable[[int], None] | None
    ) -> list[int]:
        """Select a token for every row that is not finished; the others get token 0."""
        active = [i for i, row in enumerate(rows) if not row.finished]
        selected = select_tokens(
            logits[active],
            [rows[i].state for i in active],
            end_ids=self._end_ids,
            vocabulary_size=len(self._loaded.tokenizer),
        )
        tokens = [0] * len(rows)
        for i, token in zip(active, selected, strict=True):
            tokens[i] = token
            rows[i].text += rows[i].continuation.append(token)
        finished = sum(rows[i].finished for i in active)
        if finished and on_progress:
            on_progress(finished)
        return tokens

    def _generation(self, row: _Row) -> Generation:
        ids, reason = row.state.tokens, row.continuation.finish_reason
        assert reason is not None
        return Generation(row.text, ids[:-1] if ids[-1] in self._end_ids else ids, reason)
