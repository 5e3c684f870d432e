# SPDX-License-Identifier: Apache-2.0
"""Conversations that have the format already: validated, and their lines copied unchanged."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from steerlm.attributes import AttributeSchema
from steerlm.datasets.outputs import OnError, Summary, make_folder, split_output
from steerlm.datasets.raw_files import source_rows
from steerlm.datasets.raw_input import localize
from steerlm.datasets.regression import labeled_turns
from steerlm.datasets.sources.base import SourceSettings, SourceType
from steerlm.errors import LabelError, RecordError
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
                    for number, text, conversation in source_rows(path, Conversation, out.reject):
                        try:
                            labeled_turns(conversation)
                        except LabelError as error:
                            out.reject(RecordError(path, number, str(error)), text)
                            continue
                        out.write(split, text.rstrip("\n") + "\n")
    return out.summary


CONVERSATIONS = SourceType(
    ConversationsSource,
    prepare_conversations,
    summary="conversations in the format of this library",
)
