# SPDX-License-Identifier: Apache-2.0
"""docs/models.md: the code that loads models runs in plain transformers, on a policy and a reward model."""

from steerlm.attributes import AttributeSchema
from steerlm.models.folder import ModelInfo
from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks
from tests.models.conftest import Make, make_folder, tokenizer_folder  # noqa: F401 (fixtures)

DOCUMENT = ROOT / "docs" / "models.md"


def test_the_code_that_loads_models_runs(make_folder: Make) -> None:  # noqa: F811
    schema = AttributeSchema()
    policy_folder = make_folder(ModelInfo("policy", attributes=schema), "policy")
    reward_folder = make_folder(ModelInfo("reward", attributes=schema), "reward")
    shell = Shell(words={"runs/demo/policy": str(policy_folder), "runs/demo/reward": str(reward_folder)})
    policy, reward = (block.text for block in blocks(DOCUMENT) if block.language == "python")
    assert "<extra_id_1>" not in shell.python(policy)
    scores = dict(line.split() for line in shell.python(reward).splitlines())
    assert list(scores) == list(schema.names) and any(float(score) for score in scores.values())
