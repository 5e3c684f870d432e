# SPDX-License-Identifier: Apache-2.0
"""Which raw dataset a line is of, by its keys: a hint for someone who gave it where conversations are expected."""

import json

RAW = (
    ({"prompt", "response_1", "response_2", "preference_strength"}, "HelpSteer2's pairs", "helpsteer2 --preference"),
    ({"prompt", "response", "helpfulness"}, "HelpSteer", "helpsteer"),
    ({"prompt", "message_tree_id"}, "OpenAssistant's trees", "oasst"),
    ({"text", "role", "message_id"}, "OpenAssistant's messages", "oasst"),
)
"""Keys that tell a dataset, its name, and the command that converts it."""


def raw_dataset(line: str, file: str) -> str | None:
    """`looks like HelpSteer: steerlm data helpsteer ...` for a line of a raw dataset, None for any other."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    for keys, name, command in RAW:
        if keys <= value.keys():
            return f"looks like {name}: steerlm data {command} --source {file} --output_directory FOLDER converts it"
    return None
