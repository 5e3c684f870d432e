# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a training worker: what it does when a peer stops, and the flight recorder's dump beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from steerlm.errors import PeerLostError
from steerlm.jobs.worker import report
from steerlm.training.heartbeat import Heartbeat
from steerlm.trainjob.spec import TrainSpec


@contextmanager
def worker_heartbeat(spec: TrainSpec) -> Iterator[Heartbeat]:
    """Run this process's heartbeat, from before it joins the others until the block ends.

    A lost peer ends the process; a collective that timed out is reported, and torch's record of it is in the spec's
    work folder.
    """
    from steerlm.megatron import flight_recorder
    from steerlm.megatron.parallel import peer_lost

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    dumped = flight_recorder.prepare(spec.work / flight_recorder.FOLDER, rank)

    def on_timeout(diagnosis: str) -> None:
        report(peer_lost("a collective has timed out", diagnosis))

    def on_lost(diagnosis: str) -> NoReturn:
        error = peer_lost("its heartbeat has stopped", diagnosis)
        report(error)
        os._exit(error.exit_code)  # the main thread may wait in a collective that nothing ends

    with Heartbeat(
        spec.work / "heartbeats",
        rank,
        world,
        spec.faults.collective_timeout_minutes * 60,
        dumped=dumped,
        on_lost=on_lost,
        on_timeout=on_timeout,
    ) as heartbeat:
        try:
            yield heartbeat
        except PeerLostError:
            with suppress(OSError):
                flight_recorder.dump(dumped)
            raise
