# SPDX-License-Identifier: Apache-2.0
"""Texts in, attribute scores out: the `Scorer` every consumer of a reward model sees, and the one in this process.

A text is scored at its last token (the read-out mark of `prompt.render_readout`), tokenised whole and without added
tokens, exactly as it was trained. `HttpScorer` asks a server instead. Knows nothing of conversations or labels.
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
    """A reward model. `window`: its longest text in tokens. `identity`: equal for the same model, else different."""

    @property
    def schema(self) -> AttributeSchema: ...
    @property
    def window(self) -> int: ...
    @property
    def identity(self) -> str: ...

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """Raw scores [texts, attributes] fp32, in schema order; a row of NaN for a text that `skip` left out.

        Raises `InputError` naming a text longer than the window under `error`, `SteerLMError` for a score that is not
        finite.
        """
        ...


class TokenScorer:
    """The part that scorers of this process share: from texts to token ids, and what is done with over-long ones."""

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
                    "choose the policy keep_end or skip for over-long texts"
                )
        kept = [i for i, tokens in enumerate(ids) if over_long == "keep_end" or len(tokens) <= self.window]
        scores[kept] = self.score_tokens([ids[i][-self.window :] for i in kept])
        return scores

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """Raw scores [rows, attributes] fp32 of texts that are tokens already: each 1 to `window` ids, read out at the
        last. Raises `SteerLMError` for a score that is not finite."""
        raise NotImplementedError


class TransformersScorer(TokenScorer):
    """A reward model folder run in this process, in fp32 on a CPU, by default in the folder's precision elsewhere.

    Batches hold texts of like length, padded on the right and read out by explicit lengths. Attention is causal, so
    what stands behind the read-out position cannot change it: no mask is needed, and no token is special as padding.
    `batch_tokens`: see `AnnotateSettings`.
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
        self.identity = model_identity(loaded.folder, loaded.model.dtype, weights)
        log.info("reward model %s on %s, %s", folder, loaded.device, loaded.model.dtype)

    def score_tokens(self, rows: Sequence[list[int]]) -> Scores:
        """See `TokenScorer.score_tokens`."""
        scores = np.empty((len(rows), len(self.schema.names)), dtype=np.float32)
        for batch in by_length([len(row) for row in rows], self.batch_tokens):
            scores[batch] = self._forward([rows[b] for b in batch])
        if not np.isfinite(scores).all():
            raise SteerLMError(f"{self._loaded.folder}: the model gives scores that are not finite numbers")
        return scores

    def _forward(self, rows: Sequence[list[int]]) -> Scores:
        """Head values [rows, attributes] at the last token of each row."""
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        model, device = self._loaded.model, self._loaded.device
        with torch.inference_mode():
            states = model.base_model(input_ids=padded.to(device), use_cache=False).last_hidden_state
            last = states[torch.arange(len(rows), device=device), (lengths - 1).to(device)]
            out: Scores = (last.float() @ model.score.weight.float().T).cpu().numpy()
        return out
