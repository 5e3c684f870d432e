# SPDX-License-Identifier: Apache-2.0
"""Readers of raw files: each yields a file's rows as (number from 1, JSON text), one row at a time.

The number is the line in JSON lines and CSV, the row in Parquet and Arrow, the element in a JSON array.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from steerlm.errors import InputError, RecordError
from steerlm.files import open_text
from steerlm.records import read_lines

OnBadLine = Callable[[RecordError, str], None]
Rows = Iterator[tuple[int, str]]
CHUNK = 1 << 20
ARROW_BATCH = 256
_SPACE = re.compile(r"[ \t\r\n]*")
_QUOTED = re.compile(r'"[^"]*"')


def read_json(path: Path, on_error: OnBadLine | None = None) -> Rows:
    """Yield the elements of a JSON array, or the lines of a file that does not begin with `[`."""
    yield from _array_elements(path) if is_json_array(path) else read_lines(path, on_error)


def is_json_array(path: Path) -> bool:
    """Whether the first character of a text file is `[`, apart from white space."""
    with open_text(path) as file:
        return _read_chunk(path, file).lstrip("\ufeff \t\r\n").startswith("[")


def _array_elements(path: Path) -> Rows:
    decoder = json.JSONDecoder()
    with open_text(path) as file:
        text, number, at_end = _read_chunk(path, file), 0, False
        position = _after_space(text.removeprefix("\ufeff"), 0) + text.startswith("\ufeff") + 1
        while True:
            position = _after_space(text, position)
            if text.startswith("]", position):
                return
            value, end, failure = None, len(text), "the array has no closing bracket"
            try:
                value, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                failure = error.msg
            except RecursionError:
                raise RecordError(path, number + 1, f"element {number + 1} of the array is nested too deeply") from None
            separator = _after_space(text, end)
            if text[separator : separator + 1] not in (",", "]") and not at_end:  # the next chunk may complete it
                more = _read_chunk(path, file)
                text, position, at_end = text[position:] + more, 0, not more
                continue
            if separator == len(text):
                raise RecordError(path, number + 1, f"element {number + 1} of the array: {failure}")
            number += 1
            yield number, json.dumps(value, ensure_ascii=False)
            if text[separator] == "]":
                return
            if text[separator] != ",":
                raise RecordError(path, number, f"expected a comma or ] after element {number} of the array")
            position = separator + 1


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _read_chunk(path: Path, file: Any) -> str:
    try:
        return str(file.read(CHUNK))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason})") from None


def read_csv(path: Path, on_error: OnBadLine | None = None) -> Rows:
    """Yield the rows of a CSV file with a header, as JSON objects of strings. Quoted cells may have several lines.

    Cells are separated by what separates the columns' names: commas, tabs, or semicolons as spreadsheets write them in
    some languages. Blanks around a name do not count. Columns without a name and rows without any text, which
    spreadsheets leave at the edges of a table, are left out.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True, delimiter=_delimiter(path, file))
        line = 1
        try:
            header = [name.strip() for name in next(rows, [])]
            names = [name for name in header if name]
            if not names:
                raise InputError(f"{path}: empty; the first line of a CSV file names the columns")
            if len(set(names)) < len(names):
                raise InputError(f"{path}:1: two columns have the same name ({', '.join(names)})")
            line = rows.line_num + 1
            for row in rows:
                if not any(cell.strip() for cell in row):
                    pass
                elif len(row) == len(header):
                    cells = {name: cell for name, cell in zip(header, row, strict=True) if name}
                    yield line, json.dumps(cells, ensure_ascii=False)
                else:
                    reason = f"{len(row)} cells, the header has {len(header)}; quote cells that contain a separator"
                    error = RecordError(path, line, reason)
                    if on_error is None:
                        raise error
                    on_error(error, ",".join(row))
                line = rows.line_num + 1
        except csv.Error as error:
            raise RecordError(path, line, f"not CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise RecordError(path, line, f"not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _delimiter(path: Path, file: TextIO) -> str:
    try:
        names = file.readline()
    except UnicodeDecodeError as error:
        raise RecordError(path, 1, f"not UTF-8 ({error.reason}); save the file as UTF-8") from None
    file.seek(0)
    return max(",\t;", key=_QUOTED.sub("", names).count)


def read_parquet(path: Path, on_error: OnBadLine | None = None) -> Rows:
    """Yield the rows of a Parquet file."""
    import_pyarrow(path)
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ARROW_BATCH)

    return _arrow_rows(path, batches(), "parquet")


def read_arrow(path: Path, on_error: OnBadLine | None = None) -> Rows:
    """Yield the rows of an Arrow file, in the stream format that `datasets` writes or in the file format."""
    import_pyarrow(path)
    import pyarrow

    def batches() -> Iterator[Any]:
        with pyarrow.memory_map(str(path)) as file:
            try:
                stored: Any = pyarrow.ipc.open_stream(file)
            except pyarrow.ArrowInvalid:
                reader = pyarrow.ipc.open_file(file)
                stored = (reader.get_batch(index) for index in range(reader.num_record_batches))
            for batch in stored:
                for start in range(0, batch.num_rows, ARROW_BATCH):
                    yield batch.slice(start, ARROW_BATCH)

    return _arrow_rows(path, batches(), "Arrow")


def import_pyarrow(path: Path) -> None:
    """Raise `InputError` with the remedy if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(
            f"{path}: reading {path.suffix.removeprefix('.')} needs pyarrow: pip install 'steerlm[data]'"
        ) from None


def _arrow_rows(path: Path, batches: Iterator[Any], name: str) -> Rows:
    import pyarrow

    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, json.dumps(row, ensure_ascii=False, default=str)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable {name} file (after row {number}): {error}") from None


READERS: dict[str, Callable[[Path, OnBadLine | None], Rows]] = {
    ".jsonl": read_lines,
    ".jsonl.gz": read_lines,
    ".parquet": read_parquet,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".arrow": read_arrow,
}
"""Ending of a file's name -> its reader."""
TABLE_FORMATS = (".parquet", ".csv", ".tsv", ".arrow")
"""Formats that are not JSON."""
