# SPDX-License-Identifier: Apache-2.0
"""`steerlm store` on a local store: what is listed, what damage is told, what may go and what is needed."""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Artifact, Store
from steerlm.cli.main import call
from steerlm.inventory import list_entries, removable_entries, remove_entry, verify_entry
from tests.fake_s3 import FakeS3


def make(store: Store, stage: str, key: str, text: str, finished: int, *inputs: Artifact) -> Artifact:
    """A finished key; `finished` orders the keys of a stage."""
    store.begin(stage, key, "data", {})
    (store.folder(stage, key) / "data" / "f.txt").write_text(text)
    used = {f"i{n}": {"digest": one.digest} for n, one in enumerate(inputs)}
    return store.finish(stage, key, "data", None, {"finished": f"2026-01-{finished:02}", "inputs": used})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two generations of data and models, of which the newest model was made from the oldest data; and one begun."""
    store = Store(tmp_path / "store")
    old, new = make(store, "data", "d1", "old", 1), make(store, "data", "d2", "new", 2)
    make(store, "model", "m1", "one", 3, new)
    make(store, "model", "m2", "two", 4, old)
    store.begin("model", "m3", "data", {})
    return store


def test_what_is_there_the_newest_first(store: Store) -> None:
    found = list_entries(store)
    assert [(e.name, e.state) for e in found] == [
        ("data/d2", "complete"),
        ("data/d1", "complete"),
        ("model/m2", "complete"),
        ("model/m1", "complete"),
        ("model/m3", "unfinished"),
    ]
    assert all(verify_entry(store, e) == [] for e in found if e.state == "complete")
    assert found[0].size > 100 and found[0].kind == "data"


def test_a_policy_and_its_baseline_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    for key, label in (("a", "train_sft"), ("b", "train_baseline"), ("c", None)):
        store.begin("train_sft", key, "policy", {"label": label} if label else {})
        (store.folder("train_sft", key) / "policy" / "config.json").write_text(key)
        if label:
            store.finish("train_sft", key, "policy", None, {})
    assert {entry.key: entry.label for entry in list_entries(store)} == {
        "a": "train_sft",
        "b": "train_baseline",
        "c": "",
    }
    assert call(["store", "list", str(store.root)]) == 0
    ends = {line.split()[1]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert (ends["a"], ends["b"]) == ("train_sft", "train_baseline")


def test_labels_are_read_of_a_remote_store_too(s3: FakeS3, tmp_path: Path) -> None:
    store = Store("s3://bucket/store", cache=tmp_path / "here")
    store.begin("train_sft", "a", "policy", {"label": "train_baseline"})
    (store.folder("train_sft", "a") / "policy" / "config.json").write_text("{}")
    store.finish("train_sft", "a", "policy", None, {})
    (found,) = list_entries(Store("s3://bucket/store", cache=tmp_path / "there"))
    assert (found.state, found.label) == ("complete", "train_baseline")


def test_what_something_kept_was_made_from_stays(store: Store) -> None:
    found = list_entries(store)
    assert [e.name for e in removable_entries(found)] == ["model/m3"]
    assert [e.name for e in removable_entries(found, keep=1)] == ["model/m3", "model/m1"], (
        "d1 made m2, d2 is the newest"
    )
    make(store, "data", "d3", "newest", 9)
    assert [e.name for e in removable_entries(list_entries(store), keep=1)] == ["model/m3", "data/d2", "model/m1"]


def test_the_commands(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(store.root)
    assert call(["store", "list", uri, "--stage", "model", "--json"]) == 0
    assert [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()] == ["m2", "m1", "m3"]
    assert call(["store", "verify", uri]) == 0
    (store.folder("data", "d1") / "data" / "f.txt").write_text("odl")
    (store.folder("model", "m1") / "data" / "f.txt").unlink()
    assert call(["store", "verify", uri]) == 1
    told = capsys.readouterr()
    assert "data/d1/data/f.txt: sha256" in told.out and "model/m1/data/f.txt: is missing" in told.out
    assert "2 files are damaged" in told.err
    assert call(["store", "gc", uri, "--keep", "1"]) == 0
    assert store.folder("model", "m3").exists(), "without --delete nothing goes"
    assert call(["store", "gc", uri, "--keep", "1", "--delete"]) == 0
    assert sorted(e.name for e in list_entries(store)) == ["data/d1", "data/d2", "model/m2"]


def test_a_key_that_is_worked_on_is_left_alone(store: Store) -> None:
    (begun,) = (e for e in list_entries(store) if e.key == "m3")
    with store.lock("model", "m3", lambda who: None):
        assert not remove_entry(store, begun) and not remove_entry(store, begun, delete=False)
    assert remove_entry(store, begun, delete=False) and store.folder("model", "m3").exists()
    assert remove_entry(store, begun)
    assert not store.folder("model", "m3").exists()


def test_what_is_no_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["store", "list", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder; a store was expected" in capsys.readouterr().err
    (tmp_path / "stage" / "key").mkdir(parents=True)
    (tmp_path / "stage" / "key" / "COMPLETE").touch()
    (tmp_path / "stage" / "key" / "manifest.json").write_text("{")
    assert call(["store", "verify", str(tmp_path)]) == 1
    assert "stage/key: manifest.json cannot be read" in capsys.readouterr().out


def test_a_key_is_held_until_all_of_it_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rmtree = store.folder("model", "m3"), shutil.rmtree
    (folder / ".lock").touch()
    seen: list[Path] = []

    def watched(path: Path, **options: Any) -> None:
        with open(path / ".lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(path)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert remove_entry(store, next(entry for entry in list_entries(store) if entry.key == "m3"))
    assert seen == [folder] and not folder.exists()
