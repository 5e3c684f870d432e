# SPDX-License-Identifier: Apache-2.0
"""The worker of a preflight: `python -m steerlm.jobs.preflight_worker SPEC.json`, one process per GPU.

Times the all-reduce of torch over pairs of nodes and over all, with the backend that training uses, and looks at what
else a node must have. nccl-tests measures the same without torch; this needs nothing but the training image.
"""

import contextlib
import logging
import os
import resource
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.errors import TrainingError
from steerlm.files import write_json
from steerlm.jobs import entry
from steerlm.jobs.preflight_spec import (
    UNLIMITED,
    BandwidthReport,
    NodeReport,
    PreflightReport,
    PreflightSpec,
    bus_bandwidth,
    pairs,
)

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

CHUNK = 1 << 24
WARM_UP = 2
log = logging.getLogger(__name__)


def run(spec: PreflightSpec) -> None:
    """Measure, and write the result; collective."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(entry.threads(spec.layout))
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    device = accelerator or torch.device("cpu")
    if "RANK" not in os.environ:  # one process, without torchrun
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=spec.timeout_seconds))
    try:
        log.info("%d processes have met over %s", dist.get_world_size(), backend)
        nodes = _look_at_nodes(spec)
        bandwidth = _measure_groups(spec, device)
        if dist.get_rank() == 0:
            report = PreflightReport(backend=backend, reduce_bytes=spec.reduce_bytes, nodes=nodes, bandwidth=bandwidth)
            write_json(spec.result, report.model_dump())
    finally:
        dist.destroy_process_group()


def _look_at_nodes(spec: PreflightSpec) -> list[NodeReport]:
    """Return every node's report, on every process."""
    import torch.distributed as dist

    rank = dist.get_rank()
    dist.barrier()  # all nodes write at once, as they do for a checkpoint
    mine = look_at_node(spec, rank // spec.layout.devices) if rank % spec.layout.devices == 0 else None
    gathered: list[NodeReport | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return [report for report in gathered if report is not None]


def look_at_node(spec: PreflightSpec, number: int) -> NodeReport:
    """Return what this process sees of its node."""
    import torch

    gpus = torch.accelerator.device_count()
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    written = write_speed(spec.workspace, spec.write_bytes)
    log.info("node %d: %.2f GB/s into %s", number, written / 1e9, spec.workspace)
    return NodeReport(
        node=number,
        host=socket.gethostname(),
        gpus=gpus,
        gpu_name=torch.get_device_module().get_device_name() if gpus else "",
        shm_bytes=shutil.disk_usage("/dev/shm").total,
        memlock_bytes=UNLIMITED if locked == resource.RLIM_INFINITY else locked,
        workspace_free=shutil.disk_usage(spec.workspace).free,
        workspace_write=written,
    )


def write_speed(folder: Path, size: int) -> float:
    """Write and sync a file of `size` bytes in a folder, delete it, and return bytes/s."""
    path = folder / f".preflight-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    data = os.urandom(min(CHUNK, size))  # a file system may compress zeros
    try:
        start = time.perf_counter()
        with open(path, "wb") as file:
            for first in range(0, size, CHUNK):
                file.write(data[: min(CHUNK, size - first)])
            file.flush()
            os.fsync(file.fileno())
        return size / (time.perf_counter() - start)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _measure_groups(spec: PreflightSpec, device: "torch.device") -> list[BandwidthReport]:
    """Time pairs of nodes, then all nodes; every process returns all reports."""
    import torch.distributed as dist

    layout, rank = spec.layout, dist.get_rank()
    if layout.processes == 1:
        return []
    reports: list[BandwidthReport] = []
    rounds: list[list[tuple[int, ...]]] = [[*groups] for groups in pairs(layout.nodes)] if layout.nodes > 2 else []
    for groups in [*rounds, [tuple(range(layout.nodes))]]:  # two nodes are all nodes
        mine: BandwidthReport | None = None
        for nodes in groups:
            ranks = [node * layout.devices + local for node in nodes for local in range(layout.devices)]
            group = dist.new_group(ranks)  # every process makes every group
            if rank in ranks and group is not None:
                mine = BandwidthReport(nodes=list(nodes), processes=len(ranks), busbw=_time(spec, device, group))
        gathered: list[BandwidthReport | None] = [None] * layout.processes
        dist.all_gather_object(gathered, mine)
        found = {tuple(report.nodes): report for report in gathered if report is not None}
        reports += [found[nodes] for nodes in groups]
        for nodes in groups:
            log.info("nodes %s: %.2f GB/s", ",".join(map(str, nodes)), found[nodes].busbw / 1e9)
    return reports


def _time(spec: PreflightSpec, device: "torch.device", group: "ProcessGroup") -> float:
    """Return the bus bandwidth of a group, the same on all its processes: the slowest one's time counts."""
    import torch
    import torch.distributed as dist

    tensor = torch.empty(max(1, spec.reduce_bytes // 4), dtype=torch.float32, device=device)
    processes = dist.get_world_size(group)
    for _ in range(WARM_UP):
        dist.all_reduce(tensor.fill_(1.0), group=group)
        if not bool((tensor == processes).all()):
            raise TrainingError("an all-reduce gave a wrong sum: a network adapter or a GPU is faulty")
    tensor.zero_()  # so that repeated sums stay finite
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(spec.repeats):
        dist.all_reduce(tensor, group=group)
    _synchronize(device)
    seconds = torch.tensor([(time.perf_counter() - start) / spec.repeats], dtype=torch.float32, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX, group=group)
    return bus_bandwidth(tensor.numel() * 4, processes, seconds.item())


def _synchronize(device: "torch.device") -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()


def main(arguments: Sequence[str]) -> None:
    """Run the spec that the arguments name. Errors are raised."""
    run(entry.start("steerlm.jobs.preflight_worker", arguments, PreflightSpec))


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
