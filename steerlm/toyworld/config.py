# SPDX-License-Identifier: Apache-2.0
"""How large the demo's world is and how its raters behave. Torch-free; knows nothing of the language itself."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from steerlm.settings import Settings


class RaterSettings(Settings):
    """Several people rate each answer; the rating that is kept is their mean, rounded to a whole number of 0..4."""

    raters: PositiveInt = 3
    noise: NonNegativeFloat = 0.8
    """Standard deviation of one rater's error on one attribute."""
    leniency: NonNegativeFloat = 0.3
    """Standard deviation of one rater's shift of all attributes of an answer."""
    partial_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the rated answers judged on one questionnaire only: OASST's four attributes or HelpSteer's five."""


class ToySettings(Settings):
    """What `make` writes. Counts are of conversations, documents and questions; lengths of tokens."""

    seed: int = 1234
    conversations: PositiveInt = 12_000
    validation_conversations: PositiveInt = 400
    rated_share: float = Field(default=0.4, gt=0, le=1)
    two_exchange_share: float = Field(default=0.05, ge=0, le=1)
    plain_documents: PositiveInt = 10_000
    plain_validation_documents: PositiveInt = 200
    questions: PositiveInt = 320
    """Held-out questions, to be asked of the trained model."""
    vocab_size: PositiveInt = 640
    window: PositiveInt = 256
    """No conversation, rendered with its nine labels, is longer."""
    prompt_budget: PositiveInt = 100
    """No single-turn prompt (system, question, nine labels) is longer."""
    raters: RaterSettings = RaterSettings()
