# SPDX-License-Identifier: Apache-2.0
"""Prompts in, continuations out: the `Generator` that evaluation and bootstrapping see, and the one in this process.

For offline work: many prompts known beforehand. They are sorted by length, padded on the left, decoded together, and a
row that is finished leaves the batch, so that one long answer does not keep a hundred short ones computing (measured
against `transformers.generate` in `benchmarks/generate.py`). A server, where prompts come at any time, is another room.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from steerlm.errors import InputError
from steerlm.inference.batching import by_length
from steerlm.inference.config import Precision, Sampling
from steerlm.inference.loading import load
from steerlm.inference.sampling import draw, uniforms
from steerlm.inference.stopping import Continuations


@dataclass(frozen=True, slots=True)
class Generation:
    """`text` ends before the stop string; `ids` are the tokens as generated, a stop string's included, end-of-text not.

    `finish_reason`: `stop` (end-of-text or a stop string) or `length` (`max_tokens`, or the window is full).
    """

    text: str
    ids: list[int]
    finish_reason: Literal["stop", "length"]


class Generator(Protocol):
    """A language model that continues prompts."""

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 1,
        sampling: Sampling | None = None,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """`n` continuations of every prompt, in order. `seed` (>= 0) fixes what is sampled.

        `on_progress` is told how many more continuations are finished. Raises `InputError` for a prompt that fills the
        window.
        """
        ...


@dataclass(slots=True)
class _Row:
    """One continuation in the making."""

    prompt: list[int]
    limit: int
    uniform: npt.NDArray[np.float64]
    ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


class TransformersGenerator:
    """A model folder run in this process. `batch_tokens` bounds rows x (longest prompt + `max_tokens`) of a batch."""

    def __init__(self, folder: str | Path, *, batch_tokens: int = 32768, dtype: Precision = "auto") -> None:
        self._loaded = load(folder, head=False, dtype=dtype)
        self.window = self._loaded.window
        self.batch_tokens = batch_tokens
        ends = self._loaded.model.generation_config.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    def room(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of the window that each prompt leaves for its continuation; below 1: it does not fit."""
        encoded = self._loaded.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
        return [self.window - len(ids) for ids in encoded]

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 1,
        sampling: Sampling | None = None,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """See `Generator.generate`. Greedy answers do not depend on what else is in the batch, nor do sampled ones."""
        sampling = sampling or Sampling()
        if not prompts:
            return []
        tokenizer = self._loaded.tokenizer
        encoded: list[list[int]] = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        for index, ids in enumerate(encoded):
            if not 0 < len(ids) < self.window:
                raise InputError(f"prompt {index} has {len(ids)} tokens; the model's window is {self.window}")
        numbers = uniforms(prompts, n, sampling.max_tokens if sampling.temperature > 0 else 0, seed)
        rows = [
            _Row(ids, min(sampling.max_tokens, self.window - len(ids)), numbers[p * n + k])
            for p, ids in enumerate(encoded)
            for k in range(n)
        ]
        continuations = Continuations(tokenizer, sampling.stop)
        for batch in by_length([len(row.prompt) + row.limit for row in rows], self.batch_tokens):
            self._decode([rows[i] for i in batch], sampling, continuations, on_progress)
        done = [Generation(continuations.text(r.prompt, r.ids), r.ids, r.finish or "length") for r in rows]
        return [done[p * n : (p + 1) * n] for p in range(len(prompts))]

    @torch.inference_mode()
    def _decode(
        self,
        rows: list[_Row],
        sampling: Sampling,
        continuations: Continuations,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Grow the rows until all are finished, dropping finished ones from the batch as they become many."""
        from transformers import DynamicCache

        model, device = self._loaded.model, self._loaded.device
        width = max(len(row.prompt) for row in rows)
        ids = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows], device=device)
        real = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in rows], device=device)
        positions = (real.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        while True:
            logits = model(
                input_ids=ids,
                attention_mask=real,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = self._choose(logits, rows, sampling)
            finished = sum(self._take(row, token, continuations) for row, token in zip(rows, chosen, strict=True))
            if finished and on_progress:
                on_progress(finished)
            active = [i for i, row in enumerate(rows) if row.finish is None]
            if not active:
                return
            ids, positions = torch.tensor(chosen, device=device)[:, None], positions[:, -1:] + 1
            real = torch.cat([real, real.new_ones(len(rows), 1)], dim=-1)
            if len(active) <= 0.8 * len(rows):  # copying the cache pays when a fifth of it is let go
                keep = torch.tensor(active, device=device)
                cache.batch_select_indices(keep)
                ids, positions, real = ids[keep], positions[keep], real[keep]
                rows = [rows[i] for i in active]

    def _choose(self, logits: torch.Tensor, rows: list[_Row], sampling: Sampling) -> list[int]:
        """The next id of every row; ids that the tokenizer does not have (a padded embedding) are never chosen."""
        logits = logits[:, : len(self._loaded.tokenizer)]
        if sampling.temperature == 0:
            greedy: list[int] = logits.argmax(-1).tolist()
            return greedy
        at = [min(len(row.ids), row.limit - 1) for row in rows]
        uniform = torch.tensor([row.uniform[i] for row, i in zip(rows, at, strict=True)], device=logits.device)
        sampled: list[int] = draw(
            logits, uniform, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
        ).tolist()
        return sampled

    def _take(self, row: _Row, token: int, continuations: Continuations) -> bool:
        """Add the token to a row that still grows; whether this finished it."""
        if row.finish is not None:
            return False
        if token in self._ends:
            row.finish = "stop"
            return True
        row.ids.append(token)
        if continuations.stopped(row.ids):
            row.finish = "stop"
        elif len(row.ids) == row.limit:
            row.finish = "length"
        return row.finish is not None
