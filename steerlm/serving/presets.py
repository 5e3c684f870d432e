# SPDX-License-Identifier: Apache-2.0
"""Presets: named attributes, for clients that can choose a model but send no fields of ours.

A request for the model `policy:brief` gets the attributes of the preset `brief`; attributes that it sends itself win.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, RootModel

from steerlm.attributes import AttributeSchema
from steerlm.configuration import load_settings
from steerlm.errors import ConfigError, LabelError
from steerlm.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*$")
SEPARATOR = ":"


class Preset(Settings):
    """Attributes under a name.

    Attributes:
        attributes: Values by attribute; the others have the model's defaults.
        description: For people.
    """

    attributes: dict[str, int] = Field(default_factory=dict)
    description: str = ""


class PresetFile(RootModel[dict[str, Preset]]):
    """The file: presets by name."""


def load_presets(path: Path, schema: AttributeSchema | None) -> dict[str, Preset]:
    """Read a file of presets.

    Args:
        path: The YAML file.
        schema: The model's attributes.

    Raises:
        ConfigError: The file cannot be read, or a preset has a name or attributes that cannot be; names file and key.
    """
    if schema is None:
        raise ConfigError(f"{path}: this model has no attributes, which presets set; serve it without --presets")
    presets = load_settings(path, PresetFile).root
    if not presets:
        raise ConfigError(f"{path}: no preset; a name with its attributes was expected")
    for name, preset in presets.items():
        if not NAME.match(name):
            raise ConfigError(f"{path}: {name!r}: a name has letters, digits, dots, dashes and underscores")
        if not preset.attributes:
            raise ConfigError(f"{path}: {name}: no attributes; a preset sets at least one")
        try:
            schema.complete(preset.attributes)
        except LabelError as error:
            raise ConfigError(f"{path}: {name}.attributes: {error}") from None
    return presets


def preset_id(model: str, preset: str) -> str:
    """Return the model id of a preset.

    >>> preset_id("policy", "brief")
    'policy:brief'
    """
    return f"{model}{SEPARATOR}{preset}"


def model_ids(model: str, presets: Mapping[str, Preset]) -> dict[str, Preset | None]:
    """Return the ids that requests may name, the model's own first, with their presets."""
    return {model: None, **{preset_id(model, name): preset for name, preset in presets.items()}}
