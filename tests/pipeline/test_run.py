# SPDX-License-Identifier: Apache-2.0
"""A stage runs once per key: hits, resumes, replacements, locks, reasons, logs; also between processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerlm.artifact import Artifact, Store
from steerlm.errors import StorageError, TrainingError
from tests.conftest import ROOT
from tests.stages.fakes import AFTER, call


def test_a_finished_key_is_returned_at_once(tmp_path: Path) -> None:
    first = call(tmp_path / "store")
    assert (first.status, first.reason) == ("run", "never run before")
    second = call(tmp_path / "store")
    assert second.status == "hit"
    assert second.reason.startswith("made 20")
    assert second.artifact == first.artifact
    assert (first.artifact.folder / "logs" / "calls").read_text() == "x"


def test_a_hit_in_another_process(tmp_path: Path) -> None:
    first = call(tmp_path / "store")
    script = (
        "from tests.stages.fakes import call; from pathlib import Path; import sys, json;"
        f"done = call(Path({str(tmp_path / 'store')!r}));"
        "print(json.dumps([done.status, done.artifact.key, done.artifact.digest, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["hit", first.artifact.key, first.artifact.digest, False]


def test_an_unfinished_key_resumes(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "break-at-1").touch()
    with pytest.raises(TrainingError, match="broken on request"):
        call(store)
    (store / "break-at-1").unlink()
    resumed = call(store)
    assert resumed.status == "resumed"
    assert resumed.reason.startswith("started 20")
    events = [json.loads(line) for line in (tmp_path / "run_log.jsonl").read_text().splitlines()]
    assert [e["text"] for e in events if e["event"] == "progress"] == ["step 1/3", "step 2/3", "step 2/3", "step 3/3"]
    assert [e["state"] for e in events if e["event"] == "end"] == ["FAILED", "FINISHED"]
    log = (resumed.artifact.folder / "logs" / "stage.log").read_text()
    assert "ERROR steerlm.pipeline.run: broken on request" in log
    assert "resumed: started" in log


def test_two_callers_make_one_artifact(tmp_path: Path) -> None:
    script = (
        "from tests.stages.fakes import call; from pathlib import Path;"
        f"done = call(Path({str(tmp_path / 'store')!r}), pause=0.3); print(done.status, done.reason.split(';')[0])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = sorted(process.communicate()[0].strip() for process in both)
    assert outputs == ["hit another process has just made it", "run never run before"]
    (calls,) = (tmp_path / "store" / "fake").glob("*/logs/calls")
    assert calls.read_text() == "x"


def test_a_killed_stage_is_resumed_by_another_process(tmp_path: Path) -> None:
    script = (
        "from tests.stages.fakes import call; from pathlib import Path;"
        f"call(Path({str(tmp_path / 'store')!r}), text='k', pause=1.0)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    end = time.monotonic() + 30
    while not list((tmp_path / "store").glob("fake/*/work/part-0")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.wait()
    # Another key of the same stage does not interfere.
    assert (
        call(tmp_path / "store", text="other").reason == "text changed from k to other; pause changed from 1.0 to 0.0"
    )
    resumed = call(tmp_path / "store", text="k", pause=1.0)
    assert resumed.status == "resumed"
    assert (resumed.artifact.folder / "logs" / "calls").read_text() == "xx"
    events = [json.loads(line) for line in (tmp_path / "run_log.jsonl").read_text().splitlines()]
    progress = [e["text"] for e in events if e["event"] == "progress" and e["pid"] == os.getpid()]
    assert "step 1/3" not in progress[3:], "the finished part is not repeated"


def test_a_step_is_compared_with_its_own_earlier_runs_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    call(store, label="policy", text="a")
    assert call(store, label="baseline", text="b").reason == "never run before"
    assert call(store, label="baseline", text="c").reason == "text changed from b to c"


def test_inputs_decide_the_key_by_their_digest(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one, two = call(store, text="1").artifact, call(store, text="2").artifact
    first = call(store, AFTER, {"data": one})
    assert (first.artifact.path / "out.txt").read_text() == "hello1"
    assert call(store, AFTER, {"data": one}).status == "hit"
    changed = call(store, AFTER, {"data": two})
    assert (changed.status, changed.reason) == ("run", "its input data changed")
    provenance = changed.artifact.manifest.provenance
    assert provenance["inputs"]["data"] == {"uri": two.uri, "key": two.key, "digest": two.digest}
    assert provenance["metrics"] == {"parts": 3, "note": "no number"}
    assert provenance["key"]["stage"] == "after"


def test_a_damaged_artifact_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    damaged = call(tmp_path / "store").artifact
    (damaged.path / "out.txt").write_text("damaged")
    with pytest.raises(StorageError, match=r"out\.txt has changed since it was made; delete .* to make it again"):
        call(tmp_path / "store")
    with pytest.raises(StorageError, match="has changed"):
        Store(tmp_path / "store").open("fake", damaged.key)


def test_a_hit_made_by_other_code_names_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(**files: str) -> None:
        digests = {f"{name}.py": digest for name, digest in files.items()}
        monkeypatch.setattr("steerlm.pipeline.run.code_digests", lambda *_: digests)

    store = tmp_path / "store"
    code(loss="1", rows="1", gone="1")
    first = call(store)
    assert first.artifact.manifest.provenance["code"] == {"loss.py": "1", "rows.py": "1", "gone.py": "1"}
    assert call(store).reason.startswith("made 20")
    code(loss="2", rows="1", gone="1")
    other = call(store)
    assert (other.status, other.artifact) == ("hit", first.artifact)
    assert other.reason.startswith("made by other code: loss.py (20")
    code(loss="2", rows="2", new="1", more="1")
    assert call(store).reason.startswith("made by other code: gone.py, loss.py, more.py and 2 more (20")


def inode(artifact: Artifact) -> int:
    return (artifact.path / "out.txt").stat().st_ino


def test_again_replaces_a_finished_artifact(tmp_path: Path) -> None:
    store = tmp_path / "store"
    old = call(store).artifact
    first = inode(old)
    new = call(store, again=True)
    assert (new.status, new.reason) == ("run", "requested by --again")
    assert (new.artifact.key, new.artifact.digest, new.artifact.path) == (old.key, old.digest, old.path)
    assert inode(new.artifact) != first
    assert (new.artifact.folder / "logs" / "calls").read_text() == "x", "the old logs went with the old artifact"
    assert call(store).artifact == new.artifact
    assert [path.name for path in (store / "fake").iterdir()] == [old.key]


def test_again_keeps_the_old_artifact_until_the_new_one_is_complete(tmp_path: Path) -> None:
    store = tmp_path / "store"
    old = call(store).artifact
    first = inode(old)
    (store / "break-at-1").touch()
    with pytest.raises(TrainingError, match="broken on request"):
        call(store, again=True)
    hit = call(store)
    assert (hit.status, hit.artifact, inode(hit.artifact)) == ("hit", old, first)
    (store / "break-at-1").unlink()
    resumed = call(store, again=True)
    assert resumed.status == "resumed"
    assert (resumed.artifact.folder / "logs" / "calls").read_text() == "xx"
    assert inode(resumed.artifact) != first
    assert call(store, text="new", again=True).reason == "text changed from hello to new", "nothing to replace"


def test_a_replacement_that_was_not_moved_in_is_moved_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    old = call(store).artifact
    first = inode(old)
    rename = Path.rename

    def fail_at_the_manifest(path: Path, target: Path) -> Path:
        if path.name == "manifest.json":
            raise OSError("no space left")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_at_the_manifest)
        with pytest.raises(OSError, match="no space left"):
            call(store, again=True)
    moved = call(store)
    assert moved.status == "hit"
    assert moved.artifact.digest == old.digest
    assert inode(moved.artifact) != first
    assert [path.name for path in (store / "fake").iterdir()] == [old.key]


def test_callers_that_replace_one_artifact_make_it_once(tmp_path: Path) -> None:
    call(tmp_path / "store", pause=0.3)
    script = (
        "from tests.stages.fakes import call; from pathlib import Path;"
        f"done = call(Path({str(tmp_path / 'store')!r}), pause=0.3, again=True);"
        "print(done.status, done.reason.split(';')[0])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = sorted(process.communicate()[0].strip() for process in both)
    assert outputs in (
        ["hit another process has just made it", "run requested by --again"],
        ["run requested by --again", "run requested by --again"],  # one after the other
    )


def test_downstream_follows_the_digest_of_what_was_made_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = call(store, AFTER, {"data": call(store).artifact})
    again = call(store, again=True).artifact
    assert call(store, AFTER, {"data": again}).artifact == first.artifact, "an equal artifact changes nothing"
