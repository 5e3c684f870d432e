# SPDX-License-Identifier: Apache-2.0
"""Plain language modeling: every token of a document after its first is learned. No template, no labels."""

from typing import Any

import numpy as np

from steerlm.errors import InputError
from steerlm.prompt import Tokens
from steerlm.records import PlainText
from steerlm.training.config import TextSettings
from steerlm.training.data import Sample, Unit
from steerlm.training.objectives.likelihood import Likelihood
from steerlm.training.objectives.tokens import Draft, TextRecords


class TextObjective(Likelihood, TextRecords):
    """A document is the tokens of its text, and EOS if the tokenizer has one; no BOS, as everywhere in this library.

    A document longer than the window is cut into windows that overlap by one token, so that every token but the
    document's first is learned exactly once. Each window is a unit of its own.
    """

    record = PlainText

    def __init__(self, settings: TextSettings, tokenizer: Any) -> None:
        if settings.window < 2:
            raise InputError(f"window {settings.window} is too short to learn anything; give at least 2 tokens")
        super().__init__(tokenizer)
        self.settings = settings

    def fingerprint(self) -> dict[str, Any]:
        """Return window and tokenizer digest: what the units depend on."""
        return {"objective": "text", "window": self.settings.window, "tokenizer": self.encoder.digest()}

    def draft(self, record: PlainText) -> Draft:
        """Return the document's text as it is; no document is refused."""
        return Draft(record.text, self._units)

    def _units(self, tokens: Tokens) -> list[Unit]:
        ids = np.array(tokens.ids, np.int32)
        if self.encoder.eos is not None:
            ids = np.append(ids, np.int32(self.encoder.eos))
        if len(ids) < 2:
            self.counts["dropped_no_learned_token"] += 1
            return []
        stride = self.settings.window - 1
        units = [Unit((_sample(ids[at : at + self.settings.window]),)) for at in range(0, len(ids) - 1, stride)]
        self.counts["cut_into_windows"] += len(units) > 1
        return units


def _sample(ids: Any) -> Sample:
    weights = np.ones(len(ids), np.float32)
    weights[0] = 0
    return Sample(ids, weights, count=len(ids) - 1)
