# SPDX-License-Identifier: Apache-2.0
"""torchrun's agent of one node, in a thread of this process: starts the node's workers and waits for them.

In a thread, because the main thread must react to a signal at any time, also while the agent waits in C++ for the other
nodes. As no signal handlers can be set there, signals are passed on to the workers here.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler

from steerlm.jobs.kubernetes.entry_spec import EntrySpec
from steerlm.jobs.kubernetes.rendezvous import Rendezvous
from steerlm.training.layout import STARTUP_TIMEOUT_MINUTES

log = logging.getLogger(__name__)
# Its only warnings are that signals are not handled in a thread, and each signal that it sends.
logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.ERROR)


class RankLogs(LogsSpecs):
    """Shows the log of a node's first process on standard output; the workers write the files themselves.

    torch opens one file for each of the two output streams; a rank's log has both.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    @property
    def root_log_dir(self) -> str:
        """The attempt's folder."""
        return str(self.folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return where the output of each local rank goes; an empty path: where that of this process goes."""
        for environment in envs.values():
            environment["TORCHELASTIC_ERROR_FILE"] = ""
        inherited = dict.fromkeys(envs, "")
        shown = {0: str(self.folder / f"rank-{envs[0]['RANK']}.log")}
        return LogsDest(stdouts=inherited, stderrs=inherited, tee_stdouts=shown, error_files=inherited)


class NodeAgent:
    """The workers of this node.

    Args:
        entry: What to run.
        folder: The attempt's folder.
        place: Which node this is, and where rank 0's is.

    Attributes:
        result: The agent's, once the workers have ended; None if the agent has raised `error`.
    """

    def __init__(self, entry: EntrySpec, folder: Path, place: Rendezvous) -> None:
        parameters = RendezvousParameters(
            backend="static",
            endpoint=f"{place.address}:{place.port}",
            run_id=folder.name,
            min_nodes=entry.nodes,
            max_nodes=entry.nodes,
            rank=place.rank,
            timeout=int(STARTUP_TIMEOUT_MINUTES * 60),
        )
        worker = ("-m", "steerlm.jobs.worker", str(folder), entry.module, str(entry.spec))
        spec = WorkerSpec(
            role="worker",
            local_world_size=entry.devices,
            entrypoint=sys.executable,
            args=worker,
            rdzv_handler=create_rdzv_handler(parameters),
            max_restarts=0,  # a gang is started again as a whole, by the launcher
            monitor_interval=0.1,
            master_addr=place.address,
            master_port=place.port,
        )
        self._agent = LocalElasticAgent(
            spec,
            RankLogs(folder),
            log_line_prefix_template="[rank ${rank}] ",
            shutdown_timeout=int(entry.grace_seconds),
        )
        self._thread = threading.Thread(target=self._run, name="torchrun agent", daemon=True)
        self.result: RunResult | None = None
        self.error: Exception | None = None

    def start(self) -> None:
        """Start the agent, which waits for those of the other nodes and then starts the workers."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the workers to end, at most so long; return whether they have."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def workers(self) -> list[int]:
        """Return the process ids of the workers; empty until they are started."""
        return [worker.id for worker in self._agent.get_worker_group().workers if isinstance(worker.id, int)]

    def signal_workers(self, number: signal.Signals) -> None:
        """Send a signal to each worker and its children; each worker leads a process group."""
        for pid in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def deaths(self) -> Mapping[int, int]:
        """Return the signals that ended workers, by rank, but those that the agent sent after a first failure.

        The agent sends SIGTERM at once and SIGKILL after the grace period.
        """
        failures = self.result.failures if self.result else {}
        first = min((failure.timestamp for failure in failures.values()), default=0)
        ends = {rank: failure.exitcode for rank, failure in failures.items() if failure.timestamp <= first + 1}
        by_agent = {-signal.SIGTERM} if {*ends.values()} - {-signal.SIGTERM} else set()
        return {rank: -code for rank, code in ends.items() if code < 0 and code not in by_agent}

    def _run(self) -> None:
        try:
            self.result = self._agent.run()
        except Exception as error:
            log.debug("torchrun's agent", exc_info=True)
            self.error = error
