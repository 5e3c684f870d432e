# SPDX-License-Identifier: Apache-2.0
"""Which signals a node says have ended its workers: not those that its agent sent after the first failure."""

import signal
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from steerlm.jobs.kubernetes.agent import NodeAgent
from steerlm.jobs.kubernetes.entry_spec import EntrySpec
from steerlm.jobs.kubernetes.rendezvous import Rendezvous

KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)


@pytest.mark.parametrize(
    ("ends", "deaths"),
    [
        ({0: -TERM, 1: -KILL}, {1: KILL}),  # rank 0 was still starting when the agent sent it SIGTERM
        ({0: -TERM, 1: 1}, {}),
        ({0: -TERM, 1: -TERM}, {0: TERM, 1: TERM}),  # from outside
        ({0: -KILL, 1: -KILL}, {0: KILL, 1: KILL}),
        ({0: 1}, {}),
    ],
)
def test_a_signal_of_the_agent_is_no_cause(tmp_path: Path, ends: dict[int, int], deaths: dict[int, int]) -> None:
    entry = EntrySpec(nodes=1, devices=2, module="x", spec=tmp_path, environment={}, threads=1, grace_seconds=1)
    agent = NodeAgent(entry, tmp_path, Rendezvous(address="127.0.0.1", port=1, rank=0))
    failures = {rank: ProcessFailure(rank, 1, code, "") for rank, code in ends.items()}
    for failure in failures.values():
        failure.timestamp = int(time.time())
    agent.result = RunResult(WorkerState.FAILED, failures=failures)
    assert agent.deaths() == deaths
