# SPDX-License-Identifier: Apache-2.0
"""Conversations that have the format already: validated, and their lines copied unchanged."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from steerlm.attributes import AttributeSchema
from steerlm.datasets.outputs import OnError, Summary, make_folder, split_output
from steerlm.datasets.raw_files import source_rows
from steerlm.datasets.sources.base import SourceSettings, SourceType
from steerlm.datasets.sources.raw_input import localize
from steerlm.records import Conversation


class ConversationsSource(SourceSettings):
    """Conversations already in the format: a folder of files named `train*` and `val*`, or one file (training)."""

    kind: Literal["conversations"] = "conversations"


def prepare_conversations(
    settings: ConversationsSource, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Validate conversations and copy their lines unchanged into `train.jsonl` and `val.jsonl` of `folder`."""
    make_folder(folder)
    with TemporaryDirectory(prefix=".conversations-", dir=folder) as scratch:
        splits = localize(settings, Path(scratch)).files()
        with split_output(folder, settings.kind, on_error) as out:
            for split, files in splits.items():
                for path in files:
                    for _, text, _ in source_rows(path, Conversation, out.reject):
                        out.summary.kept += 1
                        out.write(split, text.rstrip("\n") + "\n")
            out.require_some(settings.source)
    return out.summary


CONVERSATIONS = SourceType(
    ConversationsSource,
    prepare_conversations,
    summary="conversations in the format of this library",
)
