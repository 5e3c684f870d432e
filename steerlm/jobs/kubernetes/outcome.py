# SPDX-License-Identifier: Apache-2.0
"""How a node's part of a job has ended: one termination message of the statuses that its workers have written."""

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from steerlm.attempt import reported
from steerlm.jobs.kubernetes.entry_spec import NodeRecord, TerminationMessage
from steerlm.jobs.worker import SAVED, WorkerStatus, cause, read_statuses, signal_text


def node_outcome(
    folder: Path, ranks: range, deaths: Mapping[int, int], *, stopping: bool, problem: str = ""
) -> TerminationMessage:
    """Return how the processes `ranks` of one node have ended.

    Args:
        folder: The attempt's folder.
        ranks: Of this node.
        deaths: The signals that ended workers, by rank.
        stopping: Whether a stop was requested.
        problem: What the node says of workers that have no status and no signal.
    """
    statuses = {rank: status for rank, status in read_statuses(folder).items() if rank in ranks}
    for rank, number in deaths.items():
        if rank not in statuses and not (stopping and number == signal.SIGTERM):
            code = 1 if number == signal.SIGTERM else 128 + number  # 143 would say that it has saved
            statuses[rank] = WorkerStatus(code=code, error=f"was killed by {signal_text(number)}")
    step = reported(folder).get("step")
    if found := cause(statuses):
        rank, status = found
        return TerminationMessage(
            exit_code=status.code if 0 < status.code < 256 else 1,
            kind="permanent" if status.final else "retryable",
            message=status.error or f"rank {rank} ended with exit status {status.code}",
            lost_peer=status.lost_peer,
            rank=rank,
            step=step,
        )
    if statuses.keys() == set(ranks) and all(status.code == 0 for status in statuses.values()):
        return TerminationMessage(exit_code=0, kind="permanent", step=step)
    if stopping or any(status.code == SAVED for status in statuses.values()):
        saved = next((status.error for status in statuses.values() if status.error), "stopped before it started")
        return TerminationMessage(exit_code=SAVED, kind="retryable", message=saved, step=step)
    missing = sorted(set(ranks) - statuses.keys())
    message = problem or "died without an error message"
    return TerminationMessage(exit_code=1, kind="retryable", message=message, rank=missing[0], step=step)


def job_outcome(records: Iterable[NodeRecord], nodes: int) -> TerminationMessage | None:
    """Return the message of the node whose end explains those of the others; None if some still run and none failed."""
    records = list(records)
    ended = [record.ended.model_copy(update={"pod": record.host}) for record in records if record.ended]
    failed = [message for message in ended if message.exit_code not in (0, SAVED)]
    if failed:
        return min(failed, key=lambda message: (message.kind != "permanent", message.lost_peer))
    if len(ended) < nodes:
        return None
    return next((message for message in ended if message.exit_code == SAVED), ended[0])
