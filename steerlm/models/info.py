# SPDX-License-Identifier: Apache-2.0
"""The description of a model in its folder's `steerlm.json`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from steerlm.attributes import AttributeSchema
from steerlm.prompt import PROMPT_VERSION

Kind = Literal["base", "reward", "policy"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The content of `steerlm.json`.

    `window`: the longest text trained on, in tokens. `base`: the model that training started from.
    """

    kind: Kind
    attributes: AttributeSchema | None = None
    prompt_version: int = PROMPT_VERSION
    window: int | None = None
    base: str | None = None
    license: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
