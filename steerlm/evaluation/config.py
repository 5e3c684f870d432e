"""Settings of the evaluation: how many questions, how the dials are drawn. Torch-free."""

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt


class EvaluationSettings(BaseModel):
    """`questions`: held-out questions asked with dials drawn independently and uniformly. `curve_questions`: questions
    asked per level of each dial's curve, the other dials at their defaults. `temperature` 0 is greedy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    questions: PositiveInt = 256
    curve_questions: PositiveInt = 16
    examples: PositiveInt = 3
    max_tokens: PositiveInt = 128
    temperature: NonNegativeFloat = 0.0
    seed: int = 1
