# SPDX-License-Identifier: Apache-2.0
"""`OBJECTIVES`, the one list of training objectives: what recipes, jobs, workers and commands derive theirs from.

A new objective is a file beside this one and an entry here. Imports neither torch nor the objectives themselves, which
are imported when one is created: recipes and launchers read this table without them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, nearest
from steerlm.records import Conversation, Line, PlainText, RegressionSample
from steerlm.training.config import RewardSettings, SFTSettings, TextSettings, TrainSettings

if TYPE_CHECKING:
    from steerlm.models.folder import Kind
    from steerlm.training.engine import Objective

S = TypeVar("S", bound=TrainSettings)


@dataclass(frozen=True, slots=True)
class ObjectiveEntry(Generic[S]):
    """One objective.

    Attributes:
        settings: Class of its recipe section.
        model_kind: Kind of the model it trains.
        record: Class of one line of its data.
        create: Creates it from settings, a transformers tokenizer (None to only compute losses) and attribute schema.
        section: Dotted key of its settings in a recipe. Its layout in a profile is named like the key's first part.
        uses_attributes: Whether its data has labels, so that a job needs the attribute schema.
        records: What the lines of its data are called, in the plural.
    """

    settings: type[S]
    model_kind: "Kind"
    record: type[Line]
    create: Callable[[S, Any, AttributeSchema], "Objective"]
    section: str
    uses_attributes: bool = True
    records: str = "records"

    @property
    def layout(self) -> str:
        """Name of its layout in a profile."""
        return self.section.partition(".")[0]

    def outputs(self, schema: AttributeSchema) -> int | None:
        """Return the number of values of its model's reward head; None for a vocabulary head."""
        return len(schema.names) if self.model_kind == "reward" else None


def _text(settings: TextSettings, tokenizer: Any, schema: AttributeSchema) -> "Objective":
    from steerlm.training.objectives.text import TextObjective

    return TextObjective(settings, tokenizer)


def _reward(settings: RewardSettings, tokenizer: Any, schema: AttributeSchema) -> "Objective":
    from steerlm.training.objectives.reward import RewardObjective

    return RewardObjective(settings, tokenizer, schema)


def _sft(settings: SFTSettings, tokenizer: Any, schema: AttributeSchema) -> "Objective":
    from steerlm.training.objectives.sft import SFTObjective

    return SFTObjective(settings, tokenizer, schema)


OBJECTIVES: dict[str, ObjectiveEntry[Any]] = {
    "text": ObjectiveEntry(
        settings=TextSettings,
        model_kind="base",
        record=PlainText,
        create=_text,
        records="texts",
        section="base.train",
        uses_attributes=False,
    ),
    "reward": ObjectiveEntry(
        settings=RewardSettings,
        model_kind="reward",
        record=RegressionSample,
        create=_reward,
        records="samples",
        section="reward",
    ),
    "sft": ObjectiveEntry(
        settings=SFTSettings,
        model_kind="policy",
        record=Conversation,
        create=_sft,
        records="conversations",
        section="sft",
    ),
}
"""By name, in the order in which a recipe trains."""


def objective_entry(name: str) -> ObjectiveEntry[Any]:
    """Return the entry of `name`. Raises `ConfigError` that names the nearest known one."""
    try:
        return OBJECTIVES[name]
    except KeyError:
        raise ConfigError(f"unknown objective {name!r}{nearest(name, OBJECTIVES)}") from None
