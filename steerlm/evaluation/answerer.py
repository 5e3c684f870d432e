# SPDX-License-Identifier: Apache-2.0
"""Answerers write the answers that an evaluation judges. This one runs the model in this process.

`job_answerer.py` runs copies of the model in a job, `served_answerer.py` sends the questions to a server.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError
from steerlm.evaluation.cases import SteeringCase
from steerlm.evaluation.config import EvaluationSettings
from steerlm.prompt import USER, render_prompt
from steerlm.records import Turn

if TYPE_CHECKING:
    from steerlm.inference.config import SamplingSettings


class Answerer(Protocol):
    """A model that answers questions with requested attribute values."""

    @property
    def schema(self) -> AttributeSchema | None:
        """The model's attributes; None for a model that was trained without labels and is prompted without any."""
        ...

    def __call__(self, cases: Sequence[SteeringCase]) -> list[str]:
        """Return the answers, in order. A repeated case is sampled anew."""
        ...

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """Return the questions that leave room in the model's window for an answer of `max_tokens`."""
        ...


class InProcessAnswerer:
    """Answers with a model in this process; without attributes if not `conditioned`."""

    def __init__(
        self,
        folder: Path,
        settings: EvaluationSettings,
        *,
        conditioned: bool = True,
        report_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        from steerlm.inference.generator import TransformersGenerator

        self.schema = folder_schema(folder) if conditioned else None
        self._generator, self._settings, self._report_progress = (
            TransformersGenerator(folder),
            settings,
            report_progress,
        )

    def __call__(self, cases: Sequence[SteeringCase]) -> list[str]:
        """See `Answerer`."""
        prompts = [case_prompt(case.question, case.requested, self.schema) for case in cases]
        finished = 0

        def show(more: int) -> None:
            nonlocal finished
            finished += more
            self._report_progress(f"answer {finished}/{len(prompts)}")

        sampling, seed = answer_sampling(self._settings), self._settings.seed
        generations = self._generator.generate(prompts, 1, sampling, seed, show)
        return [generation.text.strip() for (generation,) in generations]

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        return questions_that_fit(questions, self.schema, self._settings, self._generator.room)


def folder_schema(folder: Path) -> AttributeSchema:
    """Return the attributes that a model folder was trained with; raises `InputError` if it has none."""
    from steerlm.models.folder import read_info

    schema = read_info(folder).attributes
    if schema is None:
        raise InputError(
            f"{folder}: this model has no attributes (no steerlm.json names any); a reward model or policy was expected"
        )
    return schema


def case_prompt(question: str, requested: Mapping[str, int], schema: AttributeSchema | None) -> str:
    """Return the prompt of a question with the requested attribute values; without any if `schema` is None."""
    return render_prompt([Turn(value=question, speaker=USER)], schema.format(requested) if schema else "")


def answer_sampling(settings: EvaluationSettings) -> "SamplingSettings":
    """Return how the answers of an evaluation are sampled."""
    from steerlm.inference.config import SamplingSettings

    return SamplingSettings(temperature=settings.temperature, max_tokens=settings.max_tokens)


def questions_that_fit(
    questions: Sequence[str],
    schema: AttributeSchema | None,
    settings: EvaluationSettings,
    room: Callable[[Sequence[str]], Sequence[int]],
) -> list[str]:
    """Return the questions whose prompt leaves `settings.max_tokens` tokens. `room`: tokens that each prompt leaves."""
    defaults = schema.complete({}) if schema else {}
    left = room([case_prompt(question, defaults, schema) for question in questions])
    return [question for question, tokens in zip(questions, left, strict=True) if tokens >= settings.max_tokens]


def folder_room(folder: Path, prompts: Sequence[str]) -> list[int]:
    """Return the tokens of a model's window that each prompt leaves, without loading the weights."""
    from steerlm.models.folder import load_tokenizer, read_info
    from steerlm.models.shape import ModelShape

    longest = ModelShape.from_folder(folder).max_position_embeddings
    window = min(read_info(folder).window or longest, longest)
    encoded = load_tokenizer(folder)(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [window - len(ids) for ids in encoded]
