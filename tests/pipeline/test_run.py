# SPDX-License-Identifier: Apache-2.0
"""A stage runs once per key: hits, resumes, locks, reasons, logs; also between processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerlm.artifact import Store
from steerlm.errors import StorageError, TrainingError
from tests.conftest import ROOT
from tests.stages.fakes import AFTER, call


def test_a_finished_key_is_returned_at_once(tmp_path: Path) -> None:
    first = call(tmp_path / "store")
    assert (first.what, first.why) == ("run", "never run before")
    second = call(tmp_path / "store")
    assert second.what == "hit"
    assert second.why.startswith("made 20")
    assert second.artifact == first.artifact
    assert (first.artifact.folder / "logs" / "calls").read_text() == "x"


def test_a_hit_in_another_process(tmp_path: Path) -> None:
    first = call(tmp_path / "store")
    script = (
        "from tests.stages.fakes import call; from pathlib import Path; import sys, json;"
        f"found = call(Path({str(tmp_path / 'store')!r}));"
        "print(json.dumps([found.what, found.artifact.key, found.artifact.digest, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["hit", first.artifact.key, first.artifact.digest, False]


def test_an_unfinished_key_goes_on_where_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "break-at-1").touch()
    with pytest.raises(TrainingError, match="broken as asked"):
        call(store)
    (store / "break-at-1").unlink()
    resumed = call(store)
    assert resumed.what == "resumed"
    assert resumed.why.startswith("begun 20")
    said = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [e["text"] for e in said if e["event"] == "progress"] == ["step 1/3", "step 2/3", "step 2/3", "step 3/3"]
    assert [e["state"] for e in said if e["event"] == "end"] == ["FAILED", "FINISHED"]
    log = (resumed.artifact.folder / "logs" / "stage.log").read_text()
    assert "ERROR steerlm.pipeline.run: broken as asked" in log
    assert "resumed: begun" in log


def test_two_callers_make_one_artifact(tmp_path: Path) -> None:
    script = (
        "from tests.stages.fakes import call; from pathlib import Path;"
        f"found = call(Path({str(tmp_path / 'store')!r}), pause=0.3); print(found.what, found.why.split(';')[0])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = sorted(process.communicate()[0].strip() for process in both)
    assert said == ["hit another process has made it meanwhile", "run never run before"]
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
    # Another key of the same stage is not in the way.
    assert call(tmp_path / "store", text="other").why == "text changed from k to other; pause changed from 1.0 to 0.0"
    resumed = call(tmp_path / "store", text="k", pause=1.0)
    assert resumed.what == "resumed"
    assert (resumed.artifact.folder / "logs" / "calls").read_text() == "xx"
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    said = [e["text"] for e in journal if e["event"] == "progress" and e["pid"] == os.getpid()]
    assert "step 1/3" not in said[3:], "the part that was done stays done"


def test_a_step_is_compared_with_its_own_earlier_runs_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    call(store, label="policy", text="a")
    assert call(store, label="baseline", text="b").why == "never run before"
    assert call(store, label="baseline", text="c").why == "text changed from b to c"


def test_inputs_decide_the_key_by_their_digest(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one, two = call(store, text="1").artifact, call(store, text="2").artifact
    first = call(store, AFTER, {"data": one})
    assert (first.artifact.path / "out.txt").read_text() == "hello1"
    assert call(store, AFTER, {"data": one}).what == "hit"
    changed = call(store, AFTER, {"data": two})
    assert (changed.what, changed.why) == ("run", "its input data changed")
    provenance = changed.artifact.manifest.provenance
    assert provenance["inputs"]["data"] == {"uri": two.uri, "key": two.key, "digest": two.digest}
    assert provenance["metrics"] == {"parts": 3, "note": "no number"}
    assert provenance["key"]["stage"] == "after"


def test_a_damaged_artifact_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    made = call(tmp_path / "store").artifact
    (made.path / "out.txt").write_text("damaged")
    with pytest.raises(StorageError, match=r"out\.txt has changed since it was made; delete .* to make it again"):
        call(tmp_path / "store")
    with pytest.raises(StorageError, match="has changed"):
        Store(tmp_path / "store").open("fake", made.key)
