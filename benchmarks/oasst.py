# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks on real conversations share: data, tokenizer, and the sizes of a model of 6 M parameters."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.datasets.prepare import prepare_source
from steerlm.datasets.sources.oasst import OasstSource
from steerlm.records import Conversation, read_records

WINDOW = 2048
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": WINDOW,
}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that takes the data and the tokenizer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="OASST1's messages, a .jsonl file")
    parser.add_argument("tokenizer", type=Path, help="a tokenizer folder, or a bare tokenizer.model")
    return parser


def conversations(data: Path, splits: Sequence[str]) -> list[Conversation]:
    with tempfile.TemporaryDirectory() as folder:
        prepare_source(OasstSource(source=str(data)), Path(folder), schema=AttributeSchema())
        return [talk for name in splits for _, talk in read_records(Path(folder) / f"{name}.jsonl", Conversation)]
