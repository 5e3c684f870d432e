# SPDX-License-Identifier: Apache-2.0
"""A sentence about each attribute, which the studio shows beside its dial.

SteerLM's nine are described here, after the guidelines of the OASST and HelpSteer ratings. Others, and other words, are
in a file: a mapping of names to sentences. Descriptions belong to the page, not to the model: they change no digest.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from steerlm.attributes import AttributeSchema
from steerlm.configuration import load_settings
from steerlm.errors import ConfigError, nearest

DESCRIPTIONS = {
    "quality": "How good the answer is all in all.",
    "toxicity": "How rude, hurtful or harmful the answer is.",
    "humor": "How funny the answer is meant to be.",
    "creativity": "How original the answer is, rather than the usual one.",
    "helpfulness": "How well the answer does what was asked.",
    "correctness": "How complete the answer's facts are, and free of mistakes.",
    "coherence": "How clear and consistent the answer is.",
    "complexity": "How much knowledge of the field the answer takes to write.",
    "verbosity": "How long and detailed the answer is.",
}


class _Descriptions(BaseModel):
    """The file; every key is an attribute."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]


def read_descriptions(path: Path | None, schema: AttributeSchema | None) -> dict[str, str]:
    """Return the sentences about the attributes of a model.

    Raises:
        ConfigError: The file cannot be read, or describes an attribute that the model does not have.
    """
    names = schema.names if schema else ()
    own = load_settings(path, _Descriptions).__pydantic_extra__ if path else {}
    for name in own:
        if name not in names:
            raise ConfigError(f"{path}: {name!r} is not an attribute of the model{nearest(name, names)}")
    return {name: text for name, text in (DESCRIPTIONS | own).items() if name in names}
