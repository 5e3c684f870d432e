# SPDX-License-Identifier: Apache-2.0
"""Settings of the evaluation: how many questions, how they are answered. Torch-free."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from steerlm.settings import Settings


class EvaluationSettings(Settings):
    """How steerability and quality are measured.

    Attributes:
        questions: Held-out questions, each with attribute values drawn independently and uniformly.
        curve_questions: Questions for each level of an attribute's curve, the other attributes at their defaults.
        examples: Baseline answers to show.
        max_tokens: Tokens of an answer at most.
        temperature: 0 is greedy.
        over_long: `error`: a text longer than a model's window is an error. `keep_end`: it is judged by its end, and
            questions that leave no room for an answer of `max_tokens` are skipped and counted.
        seed: Of the drawn questions, attribute values and samples.
    """

    questions: PositiveInt = 256
    curve_questions: PositiveInt = 16
    examples: PositiveInt = 3
    max_tokens: PositiveInt = 128
    temperature: NonNegativeFloat = 0.0
    over_long: Literal["error", "keep_end"] = "error"
    seed: int = 1
