# SPDX-License-Identifier: Apache-2.0
"""Which of several failures is the cause, within a node and among nodes; the size of a termination message."""

import json
from pathlib import Path

import pytest

from steerlm.jobs.kubernetes.entry_spec import MESSAGE_BYTES, NodeRecord, TerminationMessage
from steerlm.jobs.kubernetes.outcome import job_outcome, node_outcome
from steerlm.jobs.worker import WorkerStatus

DONE = WorkerStatus(code=0)
SAVED = WorkerStatus(code=143, error="stopped after step 7 of 9")
NAN = WorkerStatus(code=1, error="step 4: the loss is nan", final=True)
CONFIG = WorkerStatus(code=2, error="unknown key", final=True)
CUDA = WorkerStatus(code=1, error="RuntimeError: CUDA error: uncorrectable ECC error encountered")
PEER = WorkerStatus(code=1, error="another process of this training has ended", lost_peer=True)


@pytest.mark.parametrize(
    ("statuses", "deaths", "stopping", "expected"),
    [
        ([DONE, DONE], {}, False, (0, "permanent", None, "")),
        ([DONE, DONE], {}, True, (0, "permanent", None, "")),
        ([SAVED, SAVED], {}, True, (143, "retryable", None, SAVED.error)),
        ([SAVED, SAVED], {}, False, (143, "retryable", None, SAVED.error)),  # by the stop file
        ([PEER, CUDA], {}, False, (1, "retryable", 3, CUDA.error)),
        ([CUDA, NAN], {}, False, (1, "permanent", 3, NAN.error)),
        ([PEER, CONFIG], {}, False, (2, "permanent", 3, CONFIG.error)),
        ([PEER, None], {3: 9}, False, (137, "retryable", 3, "was killed by SIGKILL (out of memory?)")),
        ([NAN, None], {3: 6}, False, (1, "permanent", 2, NAN.error)),
        ([SAVED, None], {3: 9}, True, (137, "retryable", 3, "was killed by SIGKILL (out of memory?)")),
        ([None, None], {2: 15, 3: 15}, True, (143, "retryable", None, "stopped before it started")),
        ([None, None], {2: 15}, False, (1, "retryable", 2, "was killed by SIGTERM")),
        ([PEER, DONE], {}, False, (1, "retryable", 2, PEER.error)),
        ([DONE, None], {}, False, (1, "retryable", 3, "died without an error message")),
        ([WorkerStatus(code=3), DONE], {}, False, (3, "retryable", 2, "rank 2 ended with exit status 3")),
    ],
)
def test_a_node(
    tmp_path: Path,
    statuses: list[WorkerStatus | None],
    deaths: dict[int, int],
    stopping: bool,
    expected: tuple[object, ...],
) -> None:
    (tmp_path / "heartbeat.json").write_text('{"phase": "training", "step": 4}')
    NAN.write(tmp_path / "status-0.json")  # of another node
    for rank, status in enumerate(statuses, 2):
        if status:
            status.write(tmp_path / f"status-{rank}.json")
    message = node_outcome(tmp_path, range(2, 4), deaths, stopping=stopping)
    assert (message.exit_code, message.kind, message.rank, message.message) == expected
    assert message.step == 4 and message.lost_peer == (message.message == PEER.error)


def _record(node: int, code: int | None, kind: str = "retryable", *, lost_peer: bool = False) -> NodeRecord:
    ended = None
    if code is not None:
        fields = {"exit_code": code, "kind": kind, "message": f"node {node}", "lost_peer": lost_peer}
        ended = TerminationMessage.model_validate(fields)
    return NodeRecord(node=node, host=f"host-{node}", ended=ended)


@pytest.mark.parametrize(
    ("records", "cause"),
    [
        ([_record(0, 0, "permanent"), _record(1, 0, "permanent")], 0),
        ([_record(0, 0, "permanent"), _record(1, None)], None),
        ([_record(0, 143)], None),
        ([_record(0, 0, "permanent"), _record(1, 143)], 1),
        ([_record(0, 1, lost_peer=True), _record(1, 137)], 1),
        ([_record(0, 137), _record(1, 1, "permanent")], 1),
        ([_record(0, 1, lost_peer=True), _record(1, None)], 0),
    ],
)
def test_a_job(records: list[NodeRecord], cause: int | None) -> None:
    found = job_outcome(records, 2)
    if cause is None:
        assert found is None
        return
    assert found and found.pod == records[cause].host
    assert found.model_copy(update={"pod": None}) == records[cause].ended


@pytest.mark.parametrize("text", ["x" * 10_000, "\u4e16" * 10_000, '"\n' * 5_000, "short"])
def test_a_long_message_is_cut(text: str) -> None:
    written = TerminationMessage(exit_code=1, kind="permanent", message=text, rank=255, step=10**6).text()
    assert len(written.encode()) <= MESSAGE_BYTES
    read = TerminationMessage(**json.loads(written))
    assert (read.rank, read.step) == (255, 10**6)
    assert read.message == text if text == "short" else len(written) > MESSAGE_BYTES - 30 and "..." in read.message
