# SPDX-License-Identifier: Apache-2.0
"""What a recipe may say about data, and the attribute file."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import (
    PrepareSettings,
    build,
    read_schema,
)
from steerlm.datasets.sources.helpsteer2 import HelpSteer2Source
from steerlm.datasets.sources.oasst import OasstSource
from steerlm.errors import ConfigError, InputError


def test_a_recipes_sources_are_told_apart_by_kind() -> None:
    settings = PrepareSettings.model_validate(
        {"sources": [{"kind": "oasst", "repeat": 4}, {"kind": "helpsteer2", "source": "s3://b/x", "preference": True}]}
    )
    assert settings.sources[0] == OasstSource(source="OpenAssistant/oasst1", repeat=4)
    assert settings.sources[1] == HelpSteer2Source(source="s3://b/x", preference=True)
    assert PrepareSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    "value",
    [
        {"sources": []},
        {"sources": [{"kind": "conversations"}]},
        {"sources": [{"kind": "other"}]},
        {"sources": [{"kind": "oasst", "preference": True}]},
        {"sources": [{"kind": "oasst", "repeat": 0}]},
        {"sources": [{"kind": "oasst", "fold": 1}]},
        {"sources": [{"kind": "oasst", "folds": 5, "fold": 5}]},
        {"sources": [{"kind": "oasst"}], "on_error": "ignore"},
    ],
)
def test_what_a_recipe_may_not_say(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PrepareSettings.model_validate(value)


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(InputError, match=r"^fold 3 does not exist: folds = None"):
        build(OasstSource, fold=3)
    with pytest.raises(InputError, match=r"^source: .*1 or more characters"):
        build(OasstSource, source="")


def test_the_attribute_file(tmp_path: Path) -> None:
    schema = AttributeSchema(names=("warmth", "length"), low=1, high=9, defaults={"warmth": 5})
    (tmp_path / "a.json").write_text(json.dumps(schema.model_dump()))
    (tmp_path / "a.yaml").write_text("names: [warmth, length]\nlow: 1\nhigh: 9\ndefaults: {warmth: 5}\n")
    assert read_schema(tmp_path / "a.json") == read_schema(tmp_path / "a.yaml") == schema
    assert read_schema(None) == AttributeSchema()


def test_a_recipes_attributes_are_taken_from_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: own\nprofile: laptop\nattributes:\n  names: [warm]\n  high: 9\nsft: {}\n")
    assert read_schema(tmp_path / "r.yaml") == AttributeSchema(names=("warm",), high=9)
    (tmp_path / "nine.yaml").write_text("name: own\nprepare_data: {sources: []}\n")
    assert read_schema(tmp_path / "nine.yaml") == AttributeSchema()
    (tmp_path / "bad.yaml").write_text("name: own\nattributes:\n  nams: [warm]\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:3: unknown key 'attributes\.nams'; did you mean .*names"):
        read_schema(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("names: [a, a]", "must be given and unique"),
        ("names: [a]\nhih: 3", "unknown key 'hih'; did you mean 'high'"),
        ("- a", "a mapping"),
        ("names: [", "not valid YAML"),
    ],
)
def test_a_wrong_attribute_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml:.*({reason})"):
        read_schema(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read_schema(tmp_path / "b.yaml")
