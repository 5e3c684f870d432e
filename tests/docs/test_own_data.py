# SPDX-License-Identifier: Apache-2.0
"""docs/own-data.md: every command runs on the page's own files and prints what the page shows."""

import json
from pathlib import Path

import pytest
import yaml

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.prepare import prepare_data
from steerlm.errors import InputError
from steerlm.prompt import SYSTEM_PROMPT
from steerlm.records import Conversation, RegressionSample, read_records
from steerlm.training.config import SFTSettings
from steerlm.training.objectives.sft import SFTObjective
from tests.byte_tokenizer import byte_tokenizer
from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks, working_in
from tests.tiny_models import tiny_base
from tests.training.units import record_units

pytestmark = pytest.mark.timeout(600)
DOCUMENT = ROOT / "docs" / "own-data.md"
SCHEMA = AttributeSchema(names=("helpfulness", "correctness", "verbosity"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the document was run, from its first command to its last."""
    folder = tmp_path_factory.mktemp("own")
    short = "--profile laptop --set profile.tracking.enabled=false --set reward.global_batch=2 --set reward.max_steps=2"
    shell = Shell(
        words={"hf://HuggingFaceTB/SmolLM2-360M": str(tiny_base(folder / "tiny"))},
        added={
            "steerlm train reward": f"{short} --set reward.precision=fp32",
            "steerlm run own.yaml": "--profile laptop --set profile.tracking.enabled=false --stage prepare_data",
        },
    )
    with working_in(folder):
        shell.run(DOCUMENT)
    return folder


def test_ratings_become_records_and_samples(folder: Path) -> None:
    records = [talk for _, talk in read_records(folder / "own" / "val.jsonl", Conversation)]
    assert [talk.conversations[1].label for talk in records] == [
        "helpfulness:4,correctness:4,verbosity:0.8889",
        "helpfulness:2.6667,verbosity:0",
        "helpfulness:4,correctness:3.5556,verbosity:3.1111",
    ]
    samples = [sample for _, sample in read_records(folder / "samples" / "train.jsonl", RegressionSample)]
    shown = json.loads(next(b.text for b in blocks(DOCUMENT) if b.language == "json" and not b.name))
    assert samples[-1].label == shown["label"]
    assert samples[-1].text.endswith(shown["text"].removeprefix("... "))


def test_scored_messages_become_records_by_command_and_in_a_recipe(folder: Path) -> None:
    settings = PrepareSettings.model_validate(yaml.safe_load((folder / "scored.yaml").read_text()))
    with working_in(folder):
        prepare_data(settings, folder / "prepared", schema=SCHEMA)
    text = (folder / "scored" / "train.jsonl").read_text()
    assert text == (folder / "prepared" / "conversations" / "train.jsonl").read_text()
    records = [talk for _, talk in read_records(folder / "scored" / "train.jsonl", Conversation)]
    assert [(talk.system, talk.conversations[1].label) for talk in records] == [
        ("You help customers.", "helpfulness:2.6667"),
        (SYSTEM_PROMPT, "helpfulness:4,verbosity:0"),
    ]


def test_every_answer_has_a_label_of_all_three_and_keeps_the_human_one(folder: Path) -> None:
    lines = (folder / "labeled" / "train.jsonl").read_text().splitlines()
    answers = [turn for line in lines for turn in json.loads(line)["conversations"] if turn["from"] == "Assistant"]
    assert [turn["label"].count(":") for turn in answers] == [3, 3, 3]
    assert [turn.get("gt_label") for turn in answers] == [
        "helpfulness:4,correctness:4,verbosity:1",
        None,
        "helpfulness:2",
    ]


def test_training_says_what_the_table_promises(folder: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = text[text.index("| line | training") :].split("\n\n")[0].splitlines()[2:]
    told = [row.strip("| ").split(" | ")[1].strip("` ") for row in rows]
    objective = SFTObjective(SFTSettings(max_steps=1), byte_tokenizer(), SCHEMA)
    talks = [talk for _, talk in read_records(folder / "odd.jsonl", Conversation)]
    assert len(told) == len(talks) == 2
    for talk, message in zip(talks, told, strict=True):
        with pytest.raises(InputError) as error:
            record_units(objective, talk)
        assert str(error.value) == message
    with pytest.raises(InputError, match="must be an integer"):
        SCHEMA.check({"helpfulness": 3.5})
