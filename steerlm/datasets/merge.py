# SPDX-License-Identifier: Apache-2.0
"""Several line files into one, whole lines untouched; what the tutorial does with `cat` and `awk`."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from steerlm.datasets.config import OnError
from steerlm.datasets.outputs import Summary, single_output
from steerlm.errors import InputError, RecordError
from steerlm.records import read_lines

KINDS = ("conversations", "text")


def merge(
    inputs: Sequence[Path], output_file: Path, *, repeat: int = 1, epochs: int = 1, on_error: OnError = "fail"
) -> Summary:
    """Write the lines of `inputs` in order: each `repeat` times in a row, and the whole `epochs` times in sequence.

    Lines are copied as they are. A line that is no JSON object, or of another kind than the first (conversations,
    texts), is bad: it raises `RecordError`, or with `on_error` "skip" is counted and written beside the output.
    """
    if not inputs or repeat < 1 or epochs < 1:
        raise InputError("merge needs at least one input, repeat >= 1 and epochs >= 1")
    kind: str | None = None
    with single_output(output_file, on_error) as out:
        for epoch, path in itertools.product(range(epochs), inputs):
            reject = out.reject if epoch == 0 else _already_counted
            for number, line in tqdm(read_lines(path, reject), desc=path.name, unit=" lines", disable=None):
                try:
                    found = _kind(line, path, number)
                    if kind is not None and found != kind:
                        raise RecordError(path, number, f"has the key {found!r}, the lines before have {kind!r}")
                except RecordError as error:
                    reject(error, line)
                    continue
                kind = found
                text = line if line.endswith("\n") else line + "\n"
                for _ in range(repeat):
                    out.write(output_file.name, text)
    return out.summary


def _kind(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(path, number, f"not JSON: {error}") from None
    found = [key for key in KINDS if isinstance(value, dict) and key in value]
    if not found:
        raise RecordError(path, number, "expected a JSON object with the key `conversations` or `text`")
    return found[0]


def _already_counted(error: RecordError, text: str) -> None:
    """A later pass meets the bad lines of the first again."""
