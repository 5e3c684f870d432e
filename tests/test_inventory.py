# SPDX-License-Identifier: Apache-2.0
"""`steerlm store` on a local store: listing, verifying and removing artifacts."""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steerlm import locks
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
    """Two generations of data and models, the newest model made from the oldest data, and an unfinished model."""
    store = Store(tmp_path / "store")
    old, new = make(store, "data", "d1", "old", 1), make(store, "data", "d2", "new", 2)
    make(store, "model", "m1", "one", 3, new)
    make(store, "model", "m2", "two", 4, old)
    store.begin("model", "m3", "data", {})
    return store


def test_entries_are_sorted_by_stage_and_newest_first(store: Store) -> None:
    entries = list_entries(store)
    assert [(e.name, e.state) for e in entries] == [
        ("data/d2", "complete"),
        ("data/d1", "complete"),
        ("model/m2", "complete"),
        ("model/m1", "complete"),
        ("model/m3", "unfinished"),
    ]
    assert all(verify_entry(store, e) == [] for e in entries if e.state == "complete")
    assert entries[0].size > 100 and entries[0].kind == "data"


def test_a_policy_and_its_baseline_have_their_own_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_labels_are_read_from_a_remote_store(s3: FakeS3, tmp_path: Path) -> None:
    store = Store("s3://bucket/store", cache=tmp_path / "here")
    store.begin("train_sft", "a", "policy", {"label": "train_baseline"})
    (store.folder("train_sft", "a") / "policy" / "config.json").write_text("{}")
    store.finish("train_sft", "a", "policy", None, {})
    (entry,) = list_entries(Store("s3://bucket/store", cache=tmp_path / "there"))
    assert (entry.state, entry.label) == ("complete", "train_baseline")


def test_inputs_of_kept_artifacts_are_kept(store: Store) -> None:
    entries = list_entries(store)
    assert [e.name for e in removable_entries(entries)] == ["model/m3"]
    assert [e.name for e in removable_entries(entries, keep=1)] == ["model/m3", "model/m1"], (
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
    output = capsys.readouterr()
    assert "data/d1/data/f.txt: sha256" in output.out and "model/m1/data/f.txt: is missing" in output.out
    assert "2 files are damaged" in output.err
    assert call(["store", "gc", uri, "--keep", "1"]) == 0
    assert store.folder("model", "m3").exists(), "without --delete nothing is deleted"
    assert call(["store", "gc", uri, "--keep", "1", "--delete"]) == 0
    assert sorted(e.name for e in list_entries(store)) == ["data/d1", "data/d2", "model/m2"]


def names(store: Store) -> list[str]:
    return sorted(entry.name for entry in list_entries(store))


def test_rm_shows_what_it_would_remove_and_removes_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    uri, before = str(store.root), names(store)
    assert call(["store", "rm", uri, "model/m1", "m3"]) == 0
    assert capsys.readouterr().out.count("would be deleted") == 2
    assert names(store) == before
    assert call(["store", "rm", uri, "model/m1", "m3", "--delete"]) == 0
    assert names(store) == ["data/d1", "data/d2", "model/m2"]
    assert call(["store", "rm", uri, "model", "m2", "--delete"]) == 0, "a stage, and a key of it named again"
    assert names(store) == ["data/d1", "data/d2"]


def test_rm_refuses_what_others_were_made_from(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, "report", "r1", "of m2", 7, store.open("model", "m2"))
    uri, before = str(store.root), names(store)
    assert call(["store", "rm", uri, "data/d1", "--delete"]) == 2
    assert capsys.readouterr().err == (
        "error: model/m2, report/r1: made from what is to be removed, and would be made again after it; name them "
        "too, or add --dependents\n"
    )
    assert names(store) == before
    assert call(["store", "rm", uri, "data/d1", "--dependents", "--delete"]) == 0
    assert names(store) == ["data/d2", "model/m1", "model/m3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rm", "model/m9"], "model/m9: no such key or stage in the store; did you mean 'model/m3'?"),
        (["rm", "../elsewhere"], "../elsewhere: no such key or stage in the store"),
        (["rm"], "Missing argument 'NAME'"),
        (["list", "--stage", "train_rewart"], "--stage train_rewart: no such stage; did you mean 'train_reward'?"),
        (["list", "--stage", "x"], "--stage x: no such stage; known: annotate, data, evaluate, "),
    ],
)
def test_names_that_mean_nothing_are_refused(
    words: list[str], message: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words
    assert call(["store", command, str(store.root), *rest]) == 2
    assert message in capsys.readouterr().err


def test_a_known_stage_without_artifacts_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["store", "list", str(store.root), "--stage", "train_reward"]) == 0
    shown = capsys.readouterr()
    assert not shown.out and shown.err == f"{store.root}: no artifacts of train_reward\n"


def test_run_folders_are_cleared_but_not_that_of_a_live_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    runs = store.root / "runs"
    for day in (3, 1, 2, 4):
        (runs / f"2026010{day}-000000-demo-ab" / "engine").mkdir(parents=True)
        (runs / f"2026010{day}-000000-demo-ab" / ".lock").touch()
    uri, oldest = str(store.root), runs / "20260101-000000-demo-ab"
    assert call(["store", "gc", uri, "--delete"]) == 0
    assert len(list(runs.iterdir())) == 4, "without --runs they stay"
    assert call(["store", "gc", uri, "--runs", "2"]) == 0
    assert capsys.readouterr().out.count("would be deleted") == 2 and len(list(runs.iterdir())) == 4
    with locks.hold(oldest / ".lock"):
        assert call(["store", "gc", uri, "--runs", "2", "--delete"]) == 0
        assert "20260101-000000-demo-ab  in use, kept" in capsys.readouterr().out
    assert sorted(path.name[7] for path in runs.iterdir()) == ["1", "3", "4"]
    assert call(["store", "gc", uri, "--runs", "0", "--delete"]) == 0
    assert list(runs.iterdir()) == []


def test_a_locked_key_is_not_removed(store: Store) -> None:
    (unfinished,) = (e for e in list_entries(store) if e.key == "m3")
    with store.lock("model", "m3", lambda who: None):
        assert not remove_entry(store, unfinished) and not remove_entry(store, unfinished, delete=False)
    assert remove_entry(store, unfinished, delete=False) and store.folder("model", "m3").exists()
    assert remove_entry(store, unfinished)
    assert not store.folder("model", "m3").exists()


def test_a_missing_store_and_a_broken_manifest_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["store", "list", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder; a store was expected" in capsys.readouterr().err
    (tmp_path / "stage" / "key").mkdir(parents=True)
    (tmp_path / "stage" / "key" / "COMPLETE").touch()
    (tmp_path / "stage" / "key" / "manifest.json").write_text("{")
    assert call(["store", "verify", str(tmp_path)]) == 1
    assert "stage/key: manifest.json cannot be read" in capsys.readouterr().out


def test_a_key_is_locked_until_its_folder_is_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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
