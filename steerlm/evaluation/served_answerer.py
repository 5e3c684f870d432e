# SPDX-License-Identifier: Apache-2.0
"""Answers from a model behind an OpenAI-compatible URL."""

from collections.abc import Sequence
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.answerer import answer_sampling, folder_room, folder_schema, questions_that_fit
from steerlm.evaluation.cases import SteeringCase
from steerlm.evaluation.config import EvaluationSettings


class ServedAnswerer:
    """Answers from a server. `folder`: of the policy that it serves; None: the server publishes its attributes.

    Raises:
        InputError: The server's attributes are not the folder's, or they are unknown and no folder is given.
    """

    def __init__(self, url: str, settings: EvaluationSettings, folder: Path | None = None) -> None:
        from steerlm.inference.http_chat import HttpChat

        self._chat, self._settings, self._folder = HttpChat(url), settings, folder
        served, own = self._chat.schema(), folder_schema(folder) if folder else None
        if served and own and served != own:
            raise InputError(f"{url} serves a policy of other attributes than {folder}: {', '.join(served.active)}")
        schema = own or served
        if schema is None:
            raise InputError(
                f"{url} does not publish the model's attributes (no /v1/model); give the model's folder too (--model)"
            )
        self.schema: AttributeSchema = schema

    def __call__(self, cases: Sequence[SteeringCase]) -> list[str]:
        """See `Answerer`."""
        questions, requested = [case.question for case in cases], [case.requested for case in cases]
        answers = self._chat.complete(questions, requested, answer_sampling(self._settings), self._settings.seed)
        return [answer.strip() for answer in answers]

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        folder = self._folder
        if folder is None:
            raise InputError(
                f"the tokenizer of the policy decides which questions fit the window of {self._chat.url}: give the "
                "model's folder too (--model), or leave over_long at error"
            )
        return questions_that_fit(questions, self.schema, self._settings, lambda prompts: folder_room(folder, prompts))
