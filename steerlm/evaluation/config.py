# SPDX-License-Identifier: Apache-2.0
"""Settings of the evaluation: how many questions, how the dials are drawn. Torch-free."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from steerlm.settings import Settings


class EvaluationSettings(Settings):
    """`questions`: held-out questions asked with dials drawn independently and uniformly. `curve_questions`: questions
    asked per level of each dial's curve, the other dials at their defaults. `temperature` 0 is greedy.

    `over_long`: a text longer than a model's window is an error, or (`keep_end`) is judged by its end, and a question
    that leaves no room for an answer of `max_tokens` is not asked, but counted.
    """

    questions: PositiveInt = 256
    curve_questions: PositiveInt = 16
    examples: PositiveInt = 3
    max_tokens: PositiveInt = 128
    temperature: NonNegativeFloat = 0.0
    over_long: Literal["error", "keep_end"] = "error"
    seed: int = 1
