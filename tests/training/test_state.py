# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of another training is refused with the name of what differs, not with a digest."""

import json
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import TrainingError
from steerlm.training.config import RewardSettings
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.state import TrainState


def test_another_attribute_schema_is_named(tokenizer: Any) -> None:
    settings = RewardSettings(max_steps=1)
    made, now = (
        {**RewardObjective(settings, tokenizer, AttributeSchema(names=names)).fingerprint(), "data": names[0]}
        for names in (("wet", "cold"), ("wet", "warm"))
    )
    state = json.loads(json.dumps(TrainState(made, step=3).as_json()))
    assert TrainState.resumed(state, made, "here").step == 3
    with pytest.raises(TrainingError, match=r"here: was made with another attributes.names \(\['wet', 'cold'\], now"):
        TrainState.resumed(state, now, "here")
