# SPDX-License-Identifier: Apache-2.0
"""Attribute scores of texts: the `Scorer` interface, and the scorer that runs the reward model in this process.

A text is scored at its last token (the read-out mark of `prompt.render_readout`). It is tokenized as a whole and
without added tokens, as in training. `HttpScorer` scores with a server.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, ModelError, SteerLMError
from steerlm.inference.batching import by_length
from steerlm.inference.config import OverLong, Precision
from steerlm.inference.http_scorer import HttpScorer
from steerlm.inference.identity import model_identity

__all__ = ["HttpScorer", "Scorer", "TokenScorer", "TransformersScorer"]

CPU_TOKENS, ACCELERATOR_TOKENS = 2048, 16384

Scores = npt.NDArray[np.float32]
log = logging.getLogger(__name__)


class Scorer(Protocol):
    """A reward model. `window`: tokens of a text at most. `identity`: see `model_identity`."""

    @property
    def schema(self) -> AttributeSchema:
        """Attributes of the score vector, in its order."""

    @property
    def window(self) -> int:
        """Maximum number of tokens in a text."""

    @property
    def identity(self) -> str:
        """Digest that is equal for the same reward model, see `model_identity`."""

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """Return raw scores [texts, attributes] fp32 in schema order; a skipped text has a row of NaN.

        Raises:
            InputError: A text is longer than the window and `over_long` is `error`.
            SteerLMError: A score is not finite.
        """
        ...


class TokenScorer:
    """Base class of scorers in this process: tokenizes texts and applies `over_long`."""

    schema: AttributeSchema
    window: int
    identity: str
    tokenizer: Any

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """See `Scorer.score`."""
        scores = np.full((len(texts), len(self.schema.names)), np.nan, dtype=np.float32)
        if not texts:
            return scores
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        for index, tokens in enumerate(ids):
            if not tokens:
                raise InputError(f"text {index} is empty: there is no token to read a score from")
            if len(tokens) > self.window and over_long == "error":
                raise InputError(
                    f"text {index} has {len(tokens)} tokens, the model's window is {self.window}; "
                    "set over_long to keep_end or skip"
                )
        kept = [i for i, tokens in enumerate(ids) if over_long == "keep_end" or len(tokens) <= self.window]
        scores[kept] = self.score_tokens([ids[i][-self.window :] for i in kept])
        return scores

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """Return raw scores [rows, attributes] fp32 of tokenized texts, each of 1 to `window` ids.

        Raises:
            SteerLMError: A score is not finite.
        """
        raise NotImplementedError


class TransformersScorer(TokenScorer):
    """A reward model folder run by transformers in this process.

    Batches have texts of similar length, padded on the right and read out by explicit lengths. Attention is causal, so
    tokens after the read-out position cannot change it: no mask and no special padding token are needed.

    Args:
        folder: The reward model.
        batch_tokens: Tokens of a batch with padding; None: `CPU_TOKENS` or `ACCELERATOR_TOKENS`.
        dtype: Precision of the weights.
    """

    def __init__(self, folder: str | Path, *, batch_tokens: int | None = None, dtype: Precision = "auto") -> None:
        from steerlm.inference.loading import load

        loaded = load(folder, head=True, dtype=dtype)
        schema = loaded.info.attributes
        outputs = loaded.model.score.out_features
        if schema is None or outputs != len(schema.names):
            raise ModelError(f"{folder}: the head has {outputs} outputs, its schema is {schema and schema.names}")
        self._loaded, self.schema, self.window = loaded, schema, loaded.window
        self.tokenizer = loaded.tokenizer
        self.batch_tokens = batch_tokens or (CPU_TOKENS if loaded.device.type == "cpu" else ACCELERATOR_TOKENS)
        weights = (loaded.model.score.weight, loaded.model.base_model.norm.weight)
        head_and_norm = [weight.detach().float().cpu().numpy() for weight in weights]
        self.identity = model_identity(loaded.folder, str(loaded.model.dtype), head_and_norm)
        log.info("reward model %s on %s, %s", folder, loaded.device, loaded.model.dtype)

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty((len(rows), len(self.schema.names)), dtype=np.float32)
        for batch in by_length([len(row) for row in rows], self.batch_tokens):
            scores[batch] = self._forward([rows[b] for b in batch])
        if not np.isfinite(scores).all():
            raise SteerLMError(f"{self._loaded.folder}: the model returns scores that are not finite numbers")
        return scores

    def _forward(self, rows: Sequence[list[int]]) -> Scores:
        """Return the head's values [rows, attributes] at the last token of each row."""
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        model, device = self._loaded.model, self._loaded.device
        with torch.inference_mode():
            states = model.base_model(input_ids=padded.to(device), use_cache=False).last_hidden_state
            last = states[torch.arange(len(rows), device=device), (lengths - 1).to(device)]
            out: Scores = (last.float() @ model.score.weight.float().T).cpu().numpy()
        return out
