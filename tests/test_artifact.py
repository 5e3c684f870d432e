# SPDX-License-Identifier: Apache-2.0
"""The store: keys to artifacts, digests, unfinished and damaged artifacts; local and on a fake S3."""

import hashlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steerlm import claim, visibility
from steerlm.artifact import Artifact, Content, Store
from steerlm.attributes import AttributeSchema
from steerlm.checksums import FileDigest
from steerlm.errors import StorageError
from steerlm.storage import S3Prefix
from tests.fake_s3 import FakeS3


def make(store: Store, key: str = "k1", text: str = "hello", **provenance: object) -> Artifact:
    store.begin("stage", key, "data", {"config": {"x": 1}})
    files = store.folder("stage", key) / "data"
    (files / "sub").mkdir(exist_ok=True)
    (files / "sub" / "a.txt").write_text(text)
    (files / "tokenizer.json").write_text("{}")
    (store.folder("stage", key) / "logs" / "stage.log").write_text("said\n")
    return store.finish("stage", key, "data", AttributeSchema(), provenance)


def test_a_finished_artifact_is_found_with_its_manifest(tmp_path: Path) -> None:
    made = make(Store(tmp_path), seconds=3.5)
    artifact = Store(tmp_path).find("stage", "k1")
    assert artifact == made
    assert (artifact.path / "sub" / "a.txt").read_text() == "hello"
    assert artifact.manifest.provenance["seconds"] == 3.5
    assert artifact.attributes == AttributeSchema()
    assert sorted(artifact.manifest.content.files) == ["sub/a.txt", "tokenizer.json"]
    assert not (artifact.folder / "work").exists()


def test_digest_covers_content_not_provenance(tmp_path: Path) -> None:
    one = make(Store(tmp_path / "1"), seconds=1)
    same = make(Store(tmp_path / "2"), seconds=2)
    other = make(Store(tmp_path / "3"), text="other")
    assert one.digest == same.digest != other.digest
    content = one.manifest.content
    for change in (
        {"kind": "model"},
        {"prompt_version": 2},
        {"tokenizer": None},
        {"attributes": content.attributes.restricted(["quality"]) if content.attributes else None},
    ):
        assert content.model_copy(update=change).digest() != one.digest


def test_digest_survives_the_manifest(tmp_path: Path) -> None:
    made = make(Store(tmp_path))
    read = Content.model_validate_json(made.manifest.content.model_dump_json())
    assert read.digest() == made.digest


def test_an_unfinished_artifact_is_not_found_and_keeps_its_first_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.begin("stage", "k1", "data", {"config": {"x": 1}}) is None
    assert store.find("stage", "k1") is None
    earlier = store.begin("stage", "k1", "data", {"config": {"x": 1}})
    assert earlier is not None
    assert earlier["config"] == {"x": 1}
    with pytest.raises(StorageError, match="made no file"):
        store.finish("stage", "k1", "data", None, {})
    with pytest.raises(StorageError, match="no finished artifact"):
        store.open("stage", "k1")


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    artifact = make(Store(tmp_path))
    target = artifact.path / "sub" / "a.txt"
    if damage == "change":
        time.sleep(0.01)
        target.write_text("hellO")
    elif damage == "remove":
        target.unlink()
    else:
        manifest = artifact.folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"data"', '"date"'))
    match = {"change": r"a\.txt has changed", "remove": r"a\.txt is missing", "manifest": "does not match its content"}
    with pytest.raises(StorageError, match=match[damage] + ".* delete .* to make it again"):
        Store(tmp_path).find("stage", "k1")


def test_a_left_over_partial_file_is_no_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin("stage", "k1", "data", {})
    (store.folder("stage", "k1") / "data" / ".train.jsonl.77.partial").write_text("torn")
    assert sorted(make(store).manifest.content.files) == ["sub/a.txt", "tokenizer.json"]


def test_records_are_newest_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("a", "b"):
        store.begin("stage", key, "data", {"config": key})
        time.sleep(0.02)
    assert [r["config"] for r in store.records("stage")] == ["b", "a"]
    assert store.records("other") == []


def test_a_lock_holds_between_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    script = (
        "import sys, time; from steerlm.artifact import Store;"
        f"lock = Store({str(tmp_path)!r}).lock('stage', 'k', print); lock.__enter__(); print('held', flush=True);"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waited: list[str] = []
    threading.Timer(0.3, holder.kill).start()
    began = time.monotonic()
    with Store(tmp_path).lock("stage", "k", waited.append):
        assert time.monotonic() - began > 0.2
    holder.wait()
    assert waited == [f"process {holder.pid}"]


def test_an_s3_store_is_found_from_another_machine_and_read_only_when_needed(s3: FakeS3, tmp_path: Path) -> None:
    made = make(Store("s3://bucket/store", cache=tmp_path / "here"))
    assert made.uri == "s3://bucket/store/stage/k1"
    elsewhere = Store("s3://bucket/store", cache=tmp_path / "there")
    s3.fetched.clear()
    artifact = elsewhere.find("stage", "k1")
    assert artifact is not None
    assert artifact.digest == made.digest
    assert s3.fetched == ["bucket/store/stage/k1/manifest.json"]
    elsewhere.materialize(artifact)
    assert (artifact.path / "sub" / "a.txt").read_text() == "hello"
    assert (artifact.folder / "logs" / "stage.log").read_text() == "said\n"
    s3.fetched.clear()
    assert elsewhere.find("stage", "k1") == artifact
    assert s3.fetched == []


def test_an_upload_that_broke_is_not_complete(s3: FakeS3, tmp_path: Path) -> None:
    make(Store("s3://bucket/store", cache=tmp_path / "here"))
    del s3.objects["bucket/store/stage/k1/COMPLETE"]
    assert Store("s3://bucket/store", cache=tmp_path / "there").find("stage", "k1") is None


def replace(store: Store, text: str) -> Artifact:
    """Make the key `k1` again, as a stage does."""
    with store.lock("stage", "k1", lambda holder: None, replace=True):
        assert store.begin("stage", "k1", "data", {"config": {"x": 1}}, replace=True) is None
        (store.folder("stage", "k1", replace=True) / "data" / "a.txt").write_text(text)
        return store.finish("stage", "k1", "data", AttributeSchema(), {}, replace=True)


def test_a_replacement_takes_the_place_of_a_finished_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = make(store)
    new = replace(store, "new")
    assert store.find("stage", "k1") == new
    assert new.digest != old.digest
    assert new.path == old.path
    assert sorted(path.name for path in new.path.iterdir()) == ["a.txt"]
    assert sorted(path.name for path in tmp_path.joinpath("stage").iterdir()) == ["k1"]


def test_an_s3_store_has_the_files_of_the_replacement_only(s3: FakeS3, tmp_path: Path) -> None:
    here, there = (Store("s3://bucket/store", cache=tmp_path / name) for name in ("here", "there"))
    old = make(here)
    copy = there.find("stage", "k1")
    assert copy is not None
    there.materialize(copy)
    new = replace(here, "new")
    data = [name for name in s3.objects if "/data/" in name]
    assert data == ["bucket/store/stage/k1/data/a.txt"]
    # A machine with a copy of the old one takes the new one where a step names its digest.
    assert there.open("stage", "k1").digest == old.digest
    opened = there.materialize(there.open("stage", "k1", new.digest))
    assert opened.digest == new.digest
    assert (opened.path / "a.txt").read_text() == "new"
    assert sorted(path.name for path in opened.path.iterdir()) == ["a.txt"]


def test_a_broken_upload_of_a_replacement_resumes(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("s3://bucket/store", cache=tmp_path / "here")
    old = make(store)

    def fail(*_: object) -> None:
        raise StorageError("the server is down")

    with monkeypatch.context() as patch:
        patch.setattr("steerlm.storage.S3Prefix.upload_all", fail)
        with pytest.raises(StorageError, match="the server is down"):
            replace(store, "new")
    assert "bucket/store/stage/k1/COMPLETE" not in s3.objects
    assert store.find("stage", "k1") == old, "this machine keeps its copy"
    with store.lock("stage", "k1", lambda holder: None, replace=True):
        assert store.begin("stage", "k1", "data", {}, replace=True) is not None
        new = store.finish("stage", "k1", "data", AttributeSchema(), {}, replace=True)
    assert Store("s3://bucket/store", cache=tmp_path / "there").open("stage", "k1").digest == new.digest


def seal(store: Store, texts: dict[str, str], expected: dict[str, FileDigest] | None = None) -> Artifact:
    """Finish the key `k` with files of other machines."""
    store.begin("stage", "k", "data", {})
    for name, text in texts.items():
        (store.folder("stage", "k") / "data" / name).write_text(text)
    return store.finish("stage", "k", "data", None, {}, expected=expected)


def digest(text: str) -> FileDigest:
    return FileDigest(hashlib.sha256(text.encode()).hexdigest(), len(text))


def test_exactly_the_expected_files_are_sealed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = {"a": "written", "old": "of an attempt that was given up"}
    artifact = seal(Store(tmp_path), texts, {"a": digest("written")})
    assert list(artifact.manifest.content.files) == [path.name for path in artifact.path.iterdir()] == ["a"]
    assert "data/old: no process of the job says that it wrote this file" in caplog.text


def test_files_that_become_visible_late_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "POLL_SECONDS", 0.02)
    store = Store(tmp_path)
    data = store.folder("stage", "k") / "data"
    # NFS may show a name, a size and a content that it remembers, each for a while.
    contents = [("a", "written"), ("sub/b", "writ"), ("sub/b", "WRITTEN, TOO"), ("sub/b", "written, too")]

    def appear() -> None:
        for name, text in contents:
            time.sleep(0.1)
            (data / name).parent.mkdir(exist_ok=True)
            (data / name).write_text(text)

    other = threading.Thread(target=appear)
    store.begin("stage", "k", "data", {})
    other.start()
    artifact = seal(store, {}, {"a": digest("written"), "sub/b": digest("written, too")})
    other.join()
    assert artifact.manifest.content.files == {"a": digest("written"), "sub/b": digest("written, too")}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "written"}, r"data/b is missing"),
        ({"a": "written", "b": "half"}, r"data/b has 4 bytes, 5 were expected"),
        ({"a": "written", "b": "OTHER"}, r"data/b has the sha256 "),
    ],
)
def test_an_expected_file_that_never_comes_is_named(
    texts: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERLM_VISIBLE_SECONDS", "0.1")
    store = Store(tmp_path)
    with pytest.raises(StorageError, match=message):
        seal(store, texts, {"a": digest("written"), "b": digest("other")})
    assert store.find("stage", "k") is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of the claim that a test can wait for."""
    monkeypatch.setattr(claim, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.4)


def test_of_machines_that_make_one_key_one_wins_and_the_others_take_its_artifact(
    s3: FakeS3, quick: None, tmp_path: Path
) -> None:
    names = ["one", "two", "three"]
    with ThreadPoolExecutor(3) as pool:
        stores = [Store("s3://bucket/store", cache=tmp_path / name) for name in names]
        made = list(pool.map(lambda store, name: make(store, text=name), stores, names))
    reader = Store("s3://bucket/store", cache=tmp_path / "reader")
    artifact = reader.materialize(reader.open("stage", "k1"))
    text = (artifact.path / "sub" / "a.txt").read_text()
    assert {one.digest for one in made} == {artifact.digest}
    for store, one in zip(stores, made, strict=True):
        assert (store.materialize(one).path / "sub" / "a.txt").read_text() == text
    assert not [name for name in s3.objects if name.endswith("CLAIM")]


def test_the_upload_of_a_machine_that_died_is_taken_over(s3: FakeS3, quick: None, tmp_path: Path) -> None:
    s3.objects["bucket/store/stage/k1/CLAIM"] = (b"of a machine that is gone", {})
    s3.objects["bucket/store/stage/k1/data/sub/a.txt"] = (b"half", {})
    began = time.monotonic()
    artifact = make(Store("s3://bucket/store", cache=tmp_path / "here"))
    assert time.monotonic() - began > 0.4
    there = Store("s3://bucket/store", cache=tmp_path / "there")
    assert there.materialize(there.open("stage", "k1")).digest == artifact.digest


@pytest.mark.parametrize("again", [False, True])
def test_who_was_taken_for_dead_completes_nothing(
    again: bool, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is paused in its upload; another one takes over and completes the key."""
    here, there = (Store("s3://bucket/store", cache=tmp_path / name) for name in ("here", "there"))
    if again:
        make(here)
    upload = S3Prefix.upload_all

    def paused(place: S3Prefix, *files: Any) -> None:
        monkeypatch.setattr(S3Prefix, "upload_all", upload)
        upload(place, *files)
        del s3.objects["bucket/store/stage/k1/CLAIM"]
        make(there, text="of the other machine")

    monkeypatch.setattr(S3Prefix, "upload_all", paused)
    with pytest.raises(StorageError, match=r"another machine .* run again after it"):
        replace(here, "mine") if again else make(here)
    theirs = there.open("stage", "k1")
    assert make(here).digest == theirs.digest
    assert (here.materialize(here.open("stage", "k1", theirs.digest)).path / "sub" / "a.txt").read_text() == (
        "of the other machine"
    )
