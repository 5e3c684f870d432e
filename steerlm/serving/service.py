# SPDX-License-Identifier: Apache-2.0
"""What an app serves, as the app and its metrics know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from steerlm.attributes import AttributeSchema
from steerlm.serving.presets import Preset


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What a service is doing now.

    Attributes:
        running: Requests being computed.
        waiting: Requests that wait for a place in the batch.
        texts: Texts of a scorer that are not scored yet; None if it does not score.
    """

    running: int
    waiting: int
    texts: int | None = None


class Service(Protocol):
    """What an app serves: a scorer or a generation engine, with everything its routes need."""

    @property
    def name(self) -> str:
        """Name of the served model, which clients send as `model`."""

    @property
    def kind(self) -> str:
        """Kind of model: "reward", "policy" or "base"."""

    @property
    def schema(self) -> AttributeSchema | None:
        """Attributes that the model rates or follows; None for a base model."""

    @property
    def window(self) -> int:
        """Context window in tokens: of a text to score, or of prompt and answer together."""

    @property
    def identity(self) -> str | None:
        """Digest that identifies the model, see `model_identity`; None if unknown."""

    @property
    def healthy(self) -> bool:
        """Whether the thread that computes is alive and makes progress."""

    @property
    def available(self) -> bool:
        """Whether requests can be answered now. An upstream may be away while this server is healthy."""

    @property
    def presets(self) -> Mapping[str, Preset]:
        """Attributes by name, which requests may choose by the model's id."""

    async def load(self) -> ServiceLoad | None:
        """Return what the service is doing now; None if an upstream does not say."""

    async def start(self) -> None:
        """Start and test the service.

        Raises:
            ModelError: The self-test failed.
        """

    async def stop(self) -> None:
        """Stop the computing thread; also called after a failed start."""
