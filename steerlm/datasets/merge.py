# SPDX-License-Identifier: Apache-2.0
"""Merges line files into one without changing their lines, as upstream's tutorial does with `cat` and `awk`."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from steerlm.datasets.outputs import OnError, Summary, single_output
from steerlm.datasets.progress import with_progress
from steerlm.errors import InputError, RecordError
from steerlm.records import read_lines

KINDS = ("conversations", "text")


def merge(
    inputs: Sequence[Path], output_file: Path, *, repeat: int = 1, epochs: int = 1, on_error: OnError = "fail"
) -> Summary:
    """Write the lines of `inputs` in order: each `repeat` times in a row, and the whole `epochs` times in sequence.

    Lines are copied unchanged. A line that is not a JSON object, or not of the first line's kind (conversations or
    texts), raises `RecordError`, or with `on_error` "skip" is counted and written beside the output.
    """
    if not inputs or repeat < 1 or epochs < 1:
        raise InputError("merge needs at least one input, repeat >= 1 and epochs >= 1")
    kind: str | None = None
    with single_output(output_file, on_error) as out:
        for epoch, path in itertools.product(range(epochs), inputs):
            reject = out.reject if epoch == 0 else _already_counted
            for number, line in with_progress(read_lines(path, reject), path.name, "lines"):
                try:
                    line_kind = _kind(line, path, number)
                    if kind is not None and line_kind != kind:
                        raise RecordError(path, number, f"has the key {line_kind!r}, the lines before have {kind!r}")
                except RecordError as error:
                    reject(error, line)
                    continue
                kind = line_kind
                out.summary.kept += epoch == 0
                text = line if line.endswith("\n") else line + "\n"
                for _ in range(repeat):
                    out.write(output_file.name, text)
        out.require_some(", ".join(map(str, inputs)))
    return out.summary


def _kind(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(path, number, f"not JSON: {error}") from None
    keys = [key for key in KINDS if isinstance(value, dict) and key in value]
    if not keys:
        raise RecordError(path, number, "expected a JSON object with the key `conversations` or `text`")
    return keys[0]


def _already_counted(error: RecordError, text: str) -> None:
    """Ignore a bad line that the first pass has counted."""
