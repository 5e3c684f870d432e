# SPDX-License-Identifier: Apache-2.0
"""Settings of the demo's synthetic world: its size and the behavior of its raters."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from steerlm.settings import Settings


class RaterSettings(Settings):
    """Simulated raters. Several rate each answer; the label is their mean, rounded to an integer 0..4."""

    raters: PositiveInt = 3
    noise: NonNegativeFloat = 0.8
    """Standard deviation of a rater's error on one attribute."""
    leniency: NonNegativeFloat = 0.3
    """Standard deviation of a rater's common offset to all attributes of an answer."""
    partial_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the rated answers that have only OASST's four attributes or only HelpSteer's five."""


class ToySettings(Settings):
    """Contents of the generated world: numbers of conversations, documents and questions; lengths in tokens."""

    seed: int = 1234
    conversations: PositiveInt = 12_000
    validation_conversations: PositiveInt = 400
    rated_share: float = Field(default=0.4, gt=0, le=1)
    two_exchange_share: float = Field(default=0.05, ge=0, le=1)
    plain_documents: PositiveInt = 10_000
    plain_validation_documents: PositiveInt = 200
    questions: PositiveInt = 320
    """Number of held-out questions, for the evaluation of the trained model."""
    vocab_size: PositiveInt = 640
    window: PositiveInt = 256
    """Maximum tokens of a conversation rendered with all nine labels."""
    prompt_budget: PositiveInt = 100
    """Maximum tokens of a single-turn prompt (system prompt, question, nine labels)."""
    raters: RaterSettings = RaterSettings()
