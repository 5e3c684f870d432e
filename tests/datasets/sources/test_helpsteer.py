# SPDX-License-Identifier: Apache-2.0
"""HelpSteer's rows: exact lines, splits by file, bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import HELPSTEER, AttributeSchema
from steerlm.datasets.sources.helpsteer import HelpSteerSource, prepare_helpsteer
from steerlm.errors import InputError, RecordError
from tests.datasets.raw import read_json, write_lines

SCHEMA = AttributeSchema()
ROW = {"prompt": "Où?", "response": "Là.", "verbosity": 1, "complexity": 2, "coherence": 3, "correctness": 4}
ROW = {**ROW, "helpfulness": 0}
LINE = (
    '{"conversations": [{"value": "Où?", "from": "User", "label": null}, {"value": "Là.", "from": "Assistant", '
    '"label": "helpfulness:0,correctness:4,coherence:3,complexity:2,verbosity:1"}], "system": "A chat between a '
    "curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
    'to the user\'s questions.", "mask": "User", "type": "VALUE_TO_TEXT"}\n'
)


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_rows_become_upstreams_lines(tmp_path: Path, ending: str) -> None:
    write = parquet if ending == "parquet" else write_lines
    write(tmp_path / "in" / f"train.{ending}", ROW, {**ROW, "helpfulness": 4})
    write(tmp_path / "in" / f"validation.{ending}", ROW)
    summary = prepare_helpsteer(HelpSteerSource(source=str(tmp_path / "in")), tmp_path / "out", schema=SCHEMA)
    train, val = ((tmp_path / "out" / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("train", "val"))
    assert train == LINE + LINE.replace("helpfulness:0", "helpfulness:4")
    assert val == LINE
    assert summary.written == {"train.jsonl": 2, "val.jsonl": 1}
    assert summary.notes == []


def test_values_are_written_as_they_are_and_only_attributes_of_the_schema(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train.jsonl", {**ROW, "helpfulness": 3.5, "verbosity": 2.0})
    schema = AttributeSchema(names=("verbosity", "helpfulness", "style"))
    summary = prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=schema)
    (talk,) = read_json(tmp_path / "out" / "train.jsonl")
    assert talk["conversations"][1]["label"] == "verbosity:2,helpfulness:3.5"
    assert summary.notes == ["val.jsonl is empty: the source has no rows of that split"]
    with pytest.raises(InputError, match="no attribute of the schema"):
        prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path, schema=AttributeSchema(names=("style",)))


def test_a_single_validation_file_is_validation(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "validation.jsonl", ROW)
    summary = prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    assert summary.written == {"train.jsonl": 0, "val.jsonl": 1}


def test_null_is_no_rating(tmp_path: Path) -> None:
    unrated = {**ROW, **dict.fromkeys(HELPSTEER)}
    source = write_lines(tmp_path / "train.jsonl", {**ROW, "helpfulness": None}, unrated)
    prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    answers = [talk["conversations"][1] for talk in read_json(tmp_path / "out" / "train.jsonl")]
    assert answers[0]["label"] == "correctness:4,coherence:3,complexity:2,verbosity:1"
    assert answers[1] == {"value": ROW["response"], "from": "Assistant"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"helpfulness": True}, "helpfulness must be a number"),
        ({"helpfulness": "4"}, "helpfulness must be a number"),
        ({"helpfulness": 5}, r"helpfulness is 5, outside 0\.\.4"),
        ({"prompt": 3}, "prompt: .*string"),
        ({"response": "<extra_id_2>quality:4"}, "turn 1 contains the label mark"),
    ],
)
def test_a_bad_row_is_named_and_leaves_nothing_or_is_skipped(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    bad = {**ROW, **change}
    source, out = write_lines(tmp_path / "train.jsonl", ROW, bad, ROW), tmp_path / "out"
    with pytest.raises(RecordError, match=rf"train\.jsonl:2: {reason}"):
        prepare_helpsteer(HelpSteerSource(source=str(source)), out, schema=SCHEMA)
    assert list(out.iterdir()) == []
    summary = prepare_helpsteer(HelpSteerSource(source=str(source)), out, schema=SCHEMA, on_error="skip")
    assert (summary.counts["rejected"], summary.written["train.jsonl"]) == (1, 2)
    (reject,) = read_json(out / "helpsteer.rejects.jsonl")
    assert (reject["line"], json.loads(reject["text"])) == (2, bad)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "train.jsonl", {k: v for k, v in ROW.items() if k != HELPSTEER[2]})
    with pytest.raises(RecordError, match="column coherence is missing"):
        prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=SCHEMA)


def test_a_bad_parquet_row_is_numbered_and_a_broken_file_named(tmp_path: Path) -> None:
    source = parquet(tmp_path / "train.parquet", *([ROW] * 300), {**ROW, "coherence": 9})
    with pytest.raises(RecordError, match=r"train\.parquet:301: coherence is 9"):
        prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    source.write_bytes(source.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a readable parquet file"):
        prepare_helpsteer(HelpSteerSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
