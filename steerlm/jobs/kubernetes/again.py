# SPDX-License-Identifier: Apache-2.0
"""An attempt whose pods start a second time, after a queue has suspended it: what the first ones have written goes.

They were told to stop, and wrote how they ended. Left in the folder, that would end the attempt once more, or hide how
the later pods end. Each pod removes what it will write itself; the launcher pod of an MPIJob, which starts when no
agent runs, removes what is the job's.
"""

from collections.abc import Iterable
from pathlib import Path

from steerlm.attempt import STOP
from steerlm.jobs.kubernetes.attempts import RECORD, Attempt
from steerlm.jobs.kubernetes.entry_spec import NodeRecord
from steerlm.jobs.worker import status_path


def forget_processes(folder: Path, ranks: Iterable[int]) -> None:
    """Remove how processes have ended. `folder`: the attempt's."""
    for rank in ranks:
        status_path(folder, rank).unlink(missing_ok=True)


def forget_nodes(folder: Path, nodes: int) -> None:
    """Remove how nodes have ended, and a request to stop that came from a pod and not from the launcher of the run."""
    for node in range(nodes):
        NodeRecord.path(folder, node).unlink(missing_ok=True)
    if (folder / RECORD).exists() and not Attempt.read(folder).canceled:
        (folder / STOP).unlink(missing_ok=True)
