# SPDX-License-Identifier: Apache-2.0
"""The table of sources. Recipes, `steerlm data`'s commands, hints and the documentation's table derive from it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from steerlm.datasets.raw_files import ALL_FORMATS, file_format
from steerlm.datasets.row_readers import TABLE_FORMATS, is_json_array
from steerlm.datasets.sources.base import SourceSettings, SourceType
from steerlm.datasets.sources.conversations import CONVERSATIONS
from steerlm.datasets.sources.helpsteer import HELPSTEER_SOURCE
from steerlm.datasets.sources.helpsteer2 import HELPSTEER2_SOURCE
from steerlm.datasets.sources.messages import CONVERT, MESSAGES
from steerlm.datasets.sources.oasst import OASST_SOURCE
from steerlm.errors import InputError

SOURCES: dict[str, SourceType[Any]] = {
    source.kind: source for source in (OASST_SOURCE, HELPSTEER_SOURCE, HELPSTEER2_SOURCE, CONVERSATIONS, MESSAGES)
}
"""Kind -> source; of the raw forms, the first that matches a row counts."""


def settings_union(*others: type) -> Any:
    """Return the type of any source's settings, or those of `others`, distinguished by the key `kind`."""
    settings = (*(source.settings for source in SOURCES.values()), *others)
    return Annotated[Union[settings], Field(discriminator="kind")]  # noqa: UP007 (the members are known at run time)


if TYPE_CHECKING:
    Source = SourceSettings
else:
    Source = settings_union()


def check_is_lines(path: Path) -> None:
    """Raise `InputError` with the command that converts the file, if it is not one of JSON lines."""
    ending = file_format(path, ALL_FORMATS)
    if path.is_dir() and (files := sorted(path.glob("*.jsonl*"))):
        raise InputError(f"{path}: is a folder; name one of its files, such as {files[0]}")
    if path.is_dir() or ending in TABLE_FORMATS or (ending == ".json" and path.is_file() and is_json_array(path)):
        raise InputError(
            f"{path}: expected JSON lines; steerlm data {CONVERT.format(file=path)} converts chat rows of other formats"
        )


def conversion_hint(line: str, file: str) -> str | None:
    """Return the form of a raw line and the command that converts its file, or None if no source reads it.

    Example: `looks like HelpSteer: steerlm data helpsteer ... converts it`.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    for source in SOURCES.values():
        for form in source.forms:
            if form.matches(row):
                return f"looks like {form.name}: steerlm data {form.command.format(file=file)} converts it"
    return None
