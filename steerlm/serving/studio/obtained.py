# SPDX-License-Identifier: Apache-2.0
"""A reward server that the studio asks what an answer obtained; it need not be up when this server starts."""

import threading
from collections.abc import Sequence

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, SteerLMError
from steerlm.inference.http_scorer import HttpScorer
from steerlm.serving.errors import ApiError

PATIENCE = 5.0
"""Seconds that a person at the page waits for a reward server that does not answer."""


class ObtainedScores:
    """Scores of a reward server at a URL, from any thread."""

    def __init__(self, url: str) -> None:
        self._url, self._mutex = url, threading.Lock()
        self._scorer: HttpScorer | None = None

    def score(self, texts: Sequence[str]) -> tuple[AttributeSchema, list[list[float]]]:
        """Return the reward model's schema and raw scores [texts, attributes]; of a long text the end is scored.

        Raises:
            ApiError: Status 503 if the server does not answer, or serves no reward model.
        """
        try:
            with self._mutex:
                scorer = self._scorer = self._scorer or HttpScorer(urls=[self._url], timeout=60.0, patience=PATIENCE)
            return scorer.schema, scorer.score(texts, over_long="keep_end").tolist()
        except InputError as error:
            raise ApiError(f"the reward server refuses: {error}", status=503) from None
        except SteerLMError as error:
            raise ApiError(f"the reward server does not answer: {error}", status=503) from None
