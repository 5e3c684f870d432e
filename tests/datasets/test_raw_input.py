# SPDX-License-Identifier: Apache-2.0
"""Which files a source is read from: names, formats, folders, the hub's cache, an object store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerlm import storage
from steerlm.attributes import HELPSTEER
from steerlm.datasets.outputs import TRAIN, VAL
from steerlm.datasets.raw_files import BOTH, data_files, source_lines, split_files
from steerlm.datasets.raw_input import localize
from steerlm.datasets.sources.conversations import ConversationsSource
from steerlm.datasets.sources.helpsteer import HelpSteerSource
from steerlm.datasets.sources.helpsteer2 import HelpSteer2Source
from steerlm.datasets.sources.oasst import OasstSource
from steerlm.errors import InputError
from tests.datasets.raw import write_lines

ROW = {"prompt": "p", "response": "r", **dict.fromkeys(HELPSTEER, 1)}


def folder(root: Path, *names: str) -> Path:
    for name in names:
        write_lines(root / name, ROW)
    return root


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_data_files_by_name_one_format_each(tmp_path: Path) -> None:
    root = folder(tmp_path, "b.jsonl", "a.parquet", "b.parquet", "b.jsonl.gz", "c.jsonl.gz", "README.md", ".d.jsonl")
    assert names(data_files(root)) == ["a.parquet", "b.jsonl", "c.jsonl.gz"]
    assert names(data_files(root / "c.jsonl.gz")) == ["c.jsonl.gz"]
    with pytest.raises(InputError, match=r"README\.md: expected a file that ends in \.jsonl"):
        data_files(root / "README.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder has no file"):
        data_files(tmp_path / "empty")


def test_split_files(tmp_path: Path) -> None:
    parts = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet")
    root = folder(tmp_path / "hub" / "data", *parts, "test-00000-of-00001.parquet")
    assert {k: names(v) for k, v in split_files(root.parent).items()} == {TRAIN: list(parts[:2]), VAL: [parts[2]]}
    flat = folder(tmp_path / "flat", "train.jsonl", "val.jsonl", "plain_train.jsonl", "data/train.jsonl")
    assert split_files(flat) == {TRAIN: [flat / "train.jsonl"], VAL: [flat / "val.jsonl"]}
    assert split_files(flat / "plain_train.jsonl") == {TRAIN: [flat / "plain_train.jsonl"]}
    assert split_files(flat / "val.jsonl") == {VAL: [flat / "val.jsonl"]}
    with pytest.raises(InputError, match=r"no file is named train\* or val\*; found raw\.jsonl"):
        split_files(folder(tmp_path / "odd", "raw.jsonl"))


def test_source_files_of_each_kind(tmp_path: Path) -> None:
    root = folder(tmp_path, "train.jsonl", "val.jsonl", "preference/preference.jsonl", "x_all.trees.jsonl")
    for kind in (HelpSteerSource, HelpSteer2Source, ConversationsSource):
        assert kind(source=str(root)).files() == {TRAIN: [root / "train.jsonl"], VAL: [root / "val.jsonl"]}
    pairs = HelpSteer2Source(source=str(root), preference=True).files()
    assert pairs == {BOTH: [root / "preference" / "preference.jsonl"]}
    assert OasstSource(source=str(root)).files() == {BOTH: [root / "x_all.trees.jsonl"]}
    (root / "x_all.trees.jsonl").unlink()
    assert names(OasstSource(source=str(root)).files()[BOTH]) == ["train.jsonl", "val.jsonl"]


def test_a_local_source_is_itself_and_a_missing_one_named(tmp_path: Path) -> None:
    settings = HelpSteerSource(source=str(folder(tmp_path / "in", "train.jsonl")), repeat=3)
    assert localize(settings, tmp_path / "scratch") == settings
    for source in (str(tmp_path / "none"), "./no/where", "data/train.jsonl", "nowhere"):
        with pytest.raises(InputError, match="no such file or folder"):
            localize(HelpSteerSource(source=source), tmp_path)


def test_object_stores_are_fetched_into_the_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(uri: str, target: Path) -> Path:
        assert uri == "s3://bucket/helpsteer"
        return folder(target, "train.jsonl")

    monkeypatch.setattr(storage, "fetch", fetch)
    found = localize(HelpSteerSource(source="s3://bucket/helpsteer"), tmp_path)
    assert [f.is_relative_to(tmp_path) for f in found.files()[TRAIN]] == [True]


HUB = """
import sys
from pathlib import Path
from steerlm.cli.main import call
sys.exit(call(["data", "helpsteer", "-dir", sys.argv[1], *sys.argv[2:]]))
"""


def from_hub(home: Path, out: Path, *source: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", HUB, str(out), *source], env=env, capture_output=True, text=True, check=False
    )


def test_a_hub_dataset_is_read_from_the_hubs_cache(tmp_path: Path) -> None:
    repo = tmp_path / "home" / "hub" / "datasets--nvidia--HelpSteer"
    commit = "0123456789" * 4
    folder(repo / "snapshots" / commit, "train.jsonl.gz", "validation.jsonl.gz")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    done = from_hub(tmp_path / "home", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, "train.jsonl: 1 lines; val.jsonl: 1 lines; rows 2\n"), done.stderr
    assert from_hub(tmp_path / "home", tmp_path / "out", "--source", f"nvidia/HelpSteer@{commit}").returncode == 0
    absent = from_hub(tmp_path / "home", tmp_path / "none", "--source", "nvidia/Nothing")
    assert absent.returncode == 1
    assert "dataset nvidia/Nothing cannot be fetched from the hub" in absent.stderr
    assert "--source" in absent.stderr
    assert len(absent.stderr.strip().splitlines()) == 1
    assert list((tmp_path / "none").iterdir()) == []


def test_rows_of_parquet_are_lines_with_their_number(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"a": i, "b": None, "c": ["é", None], "d": {"x": 0.5}} for i in range(600)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = list(source_lines(tmp_path / "a.parquet"))
    assert [number for number, _ in lines] == list(range(1, 601))
    assert lines[599][1] == '{"a": 599, "b": null, "c": ["é", null], "d": {"x": 0.5}}'
