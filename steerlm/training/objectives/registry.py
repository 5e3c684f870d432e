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

    `settings`: of its recipe section. `model_kind`: of the model it trains. `record`: one line of its data.
    `create`: the objective for settings, tokenizer and schema; the tokenizer is a transformers one, or None for an
    objective that only computes losses. `section`: where a recipe holds its settings, as a dotted key; the profile's
    layout has the name of the key's first part. `uses_attributes`: whether its data has labels, so that a job needs
    the attribute schema.
    """

    settings: type[S]
    model_kind: "Kind"
    record: type[Line]
    create: Callable[[S, Any, AttributeSchema], "Objective"]
    section: str
    uses_attributes: bool = True

    @property
    def layout(self) -> str:
        """The name of its layout in a profile."""
        return self.section.partition(".")[0]

    def outputs(self, schema: AttributeSchema) -> int | None:
        """Values of the reward head of its model; None for a model with a vocabulary head."""
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
        section="base.train",
        uses_attributes=False,
    ),
    "reward": ObjectiveEntry(
        settings=RewardSettings,
        model_kind="reward",
        record=RegressionSample,
        create=_reward,
        section="reward",
    ),
    "sft": ObjectiveEntry(
        settings=SFTSettings,
        model_kind="policy",
        record=Conversation,
        create=_sft,
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
