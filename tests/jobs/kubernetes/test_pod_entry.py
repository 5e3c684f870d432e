# SPDX-License-Identifier: Apache-2.0
"""The first process of a pod: workers on two nodes, signals, deaths, and everything that can be wrong before them."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.kubernetes.entry_spec import NodeRecord
from steerlm.jobs.worker import SAVED, WorkerStatus, status_path
from tests.jobs.kubernetes.pods import Pods, wait_for

FAKE = "tests.jobs.fake_worker"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Any]:
    made: list[Pods] = []

    def make(steps: int = 3, entry: dict[str, Any] | None = None, **spec: Any) -> Pods:
        made.append(Pods(tmp_path, FAKE, {"work": str(tmp_path), "steps": steps, **spec}, **(entry or {})))
        return made[-1].publish()

    yield make
    for one in made:
        one.kill()


def test_two_nodes_of_two_processes(pods: Any) -> None:
    attempt = pods(entry={"nodes": 2, "devices": 2}).start()
    ends = attempt.end()
    assert [code for code, *_ in ends] == [0, 0], ends
    lines = ["starts at step 0", "step 1/3", "step 2/3", "step 3/3"]
    assert [attempt.log(rank).splitlines() for rank in range(4)] == [lines] * 4
    # A container shows its first process; the logs of the others are in the workspace.
    for node, (_, output, error) in enumerate(ends):
        assert output.splitlines() == [f"[rank {2 * node}] {line}" for line in lines] and error == ""
    assert [attempt.message(node).exit_code for node in range(2)] == [0, 0]
    records = NodeRecord.read_all(attempt.folder)
    assert [(record.node, record.ended) for record in records] == [(n, attempt.message(n)) for n in range(2)]


def test_a_worker_that_is_killed(pods: Any) -> None:
    (code, output, error), *_ = pods(steps=1000, entry={"devices": 2}, pause=0.05, die_at=3).start().end()
    assert code == 128 + signal.SIGKILL and "[rank 0] step 3/1000" in output
    message = pods().message()
    assert (message.exit_code, message.kind, message.lost_peer) == (137, "retryable", False)
    assert message.message == "was killed by SIGKILL (out of memory?)" and message.message in error


def test_a_later_pod_of_the_attempt_does_not_end_as_an_earlier_one_did(pods: Any) -> None:
    """A queue has suspended the job, whose workers saved, and has admitted it again."""
    attempt = pods(steps=1000, pause=0.05, die_at=3)
    WorkerStatus(code=SAVED, error="saved").write(str(status_path(attempt.folder, 0)))
    ((code, *_),) = attempt.start().end()
    assert code == 128 + signal.SIGKILL
    assert attempt.message().message == "was killed by SIGKILL (out of memory?)"


def test_the_error_of_a_worker_is_the_pods(pods: Any) -> None:
    attempt = pods(steps=1000, entry={"devices": 2}, pause=0.05, fail_at=2).start()
    ((code, _, error),) = attempt.end()
    assert code == 1 and error.splitlines()[-1] == "the loss is not finite"
    message = attempt.message()
    assert (message.kind, message.rank, message.message) == ("permanent", 0, "the loss is not finite")


def test_a_signal_makes_the_workers_save(pods: Any) -> None:
    attempt = pods(steps=100_000, entry={"devices": 2}, pause=0.05).start()
    wait_for(lambda: all("step 2/" in attempt.log(rank) for rank in range(2)), "step 2")
    attempt.pods[0].send_signal(signal.SIGTERM)
    attempt.pods[0].send_signal(signal.SIGTERM)  # a second one must not end it before its workers
    ((code, *_),) = attempt.end()
    assert code == 143 and attempt.message().kind == "retryable"
    assert all(int((attempt.job / f"step-{rank}").read_text()) >= 2 for rank in range(2))


def test_workers_that_do_not_stop_are_killed_after_the_grace_period(pods: Any) -> None:
    attempt = pods(entry={"grace_seconds": 1.0}, hang_at=2).start()
    wait_for(lambda: "step 2/" in attempt.log(0), "step 2")
    attempt.signal_worker(0, signal.SIGSTOP)
    attempt.pods[0].send_signal(signal.SIGTERM)
    ((code, *_),) = attempt.end()
    assert code == 1 and attempt.message().message == "did not stop within 1 seconds and was killed"


def test_a_signal_while_the_other_node_is_awaited(pods: Any) -> None:
    attempt = pods(entry={"nodes": 2}).start(1)
    wait_for((attempt.folder / "node-1.json").exists, "the start of node 1")
    attempt.pods[0].send_signal(signal.SIGTERM)
    ((code, *_),) = attempt.end()
    assert code == 143 and attempt.message(1).message == "stopped before it started"
    assert not list(attempt.folder.glob("process-*.json"))


def test_files_that_appear_late(tmp_path: Path) -> None:
    attempt = Pods(tmp_path, FAKE, {"work": str(tmp_path), "steps": 1})
    spec = (attempt.folder / "spec.json").read_bytes()
    shutil.rmtree(attempt.folder)
    attempt.start()
    wait_for((attempt.scratch(0) / "agent.json").exists, "the start of the pod")
    attempt.folder.mkdir()
    attempt.publish()
    (attempt.folder / "spec.json").write_bytes(spec)
    assert [code for code, *_ in attempt.end()] == [0]


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (None, "retryable", "no such file after 0.5 seconds; is the workspace mounted in this pod"),
        ("{", "permanent", "entry.json: not JSON"),
        ('{"module": "m", "spec": "s", "nodes": 0}', "permanent", "nodes: a number above 0 was expected, not 0"),
        ('{"module": "m", "spec": "/", "nodes": 2}', "permanent", "PET_NODE_RANK is 'x', a whole number was expected"),
    ],
)
def test_what_is_wrong_before_the_workers_start(tmp_path: Path, content: str | None, kind: str, reason: str) -> None:
    attempt = Pods(tmp_path, FAKE, {})
    if content is not None:
        (attempt.folder / "entry.json").write_text(content)
    attempt.environment = {"STEERLM_VISIBLE_SECONDS": "0.5", "PET_NODE_RANK": "x"}
    ((code, output, error),) = attempt.start().end()
    message = attempt.message()
    assert (code, message.exit_code, message.kind, output) == (2, 2, kind, "")
    assert reason in message.message and error == f"{message.message}\n"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can change its number")
def test_a_user_without_a_name_and_home(tmp_path: Path) -> None:
    module = "tests.jobs.kubernetes.environment_worker"
    attempt = Pods(tmp_path, module, {"work": str(tmp_path)}, environment={"MINE": "1"}).publish()
    attempt.prefix = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    attempt.environment = {"HOME": "/", "HF_HOME": str(tmp_path / "given"), "USER": None, "LOGNAME": None}
    ((code, output, error),) = attempt.start().end()
    assert code == 0, error
    found, scratch = json.loads(output.removeprefix("[rank 0] ")), str(attempt.scratch(0))
    assert found["uid"] == 54321
    assert found["home"] == f"{scratch}/home" and found["user"] == "steerlm" and found["MINE"] == "1"
    assert found["TRITON_CACHE_DIR"] == f"{scratch}/triton" and found["HF_HOME"] == str(tmp_path / "given")
    assert found["HF_HUB_OFFLINE"] == "1" and found["OMP_NUM_THREADS"] == "1"
    assert found["STEERLM_ATTEMPT_FOLDER"] == str(attempt.folder)
    assert oct((tmp_path / "created").stat().st_mode)[-3:] == "664"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can make a process number 1")
def test_orphans_are_reaped_by_process_1(tmp_path: Path) -> None:
    attempt = Pods(tmp_path, "tests.jobs.kubernetes.orphan_worker", {})
    attempt.prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    ((code, _, error),) = attempt.publish().start().end()
    assert code == 0, error
