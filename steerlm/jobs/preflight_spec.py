# SPDX-License-Identifier: Apache-2.0
"""What a preflight job measures and reports; torch-free, so that the launcher reads it too."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, PositiveInt

from steerlm.training.layout import LayoutSettings

UNLIMITED = -1
"""`NodeReport.memlock_bytes` where memory can be locked without a limit."""


class PreflightSpec(BaseModel):
    """SPEC.json of `preflight_worker`.

    Attributes:
        layout: Nodes and processes.
        result: File that rank 0 writes, a `PreflightReport`.
        workspace: Folder whose free space and write speed are measured, on every node at once.
        reduce_bytes: Size of the tensor that is summed.
        repeats: Timed sums per group, after two that are not timed.
        write_bytes: Size of the file that each node writes.
        timeout_seconds: After so long without its peers, a process fails.
    """

    layout: LayoutSettings
    result: Path
    workspace: Path
    reduce_bytes: PositiveInt = 1 << 30
    repeats: PositiveInt = 10
    write_bytes: PositiveInt = 1 << 30
    timeout_seconds: PositiveInt = 600


class NodeReport(BaseModel):
    """What one node's first process has found.

    Attributes:
        gpus: GPUs that its container sees.
        memlock_bytes: Memory that the job's user may lock (`ulimit -l`); `UNLIMITED` if there is no limit.
        workspace_write: Bytes/s, synced to the file system, while all nodes write.
    """

    node: int
    host: str
    gpus: int
    gpu_name: str = ""
    shm_bytes: int
    memlock_bytes: int
    workspace_free: int
    workspace_write: float


class BandwidthReport(BaseModel):
    """The all-reduce of a group of nodes.

    Attributes:
        nodes: Their numbers.
        processes: Processes that take part.
        busbw: Bytes/s per process that the slowest link carries, as nccl-tests defines it: 2 (n - 1) / n times the size
            over the time of the slowest repeat's mean. Unlike the size over the time, it does not depend on n.
    """

    nodes: list[int]
    processes: int
    busbw: float


class PreflightReport(BaseModel):
    """The result of a preflight."""

    backend: str
    reduce_bytes: int
    nodes: list[NodeReport]
    bandwidth: list[BandwidthReport]


def bus_bandwidth(size: int, processes: int, seconds: float) -> float:
    """Return the bus bandwidth of an all-reduce in bytes/s.

    >>> bus_bandwidth(8, 4, 2.0)
    6.0
    """
    return 2 * (processes - 1) / processes * size / seconds


def pairs(nodes: int) -> list[list[tuple[int, int]]]:
    """Return rounds of disjoint pairs in which every node is in at least one pair; pairs of a round run at once.

    A slow node makes exactly its pair slow, which tells which one it is.

    >>> pairs(4), pairs(3), pairs(1)
    ([[(0, 1), (2, 3)]], [[(0, 1)], [(0, 2)]], [])
    """
    if nodes < 2:
        return []
    rounds = [[(node, node + 1) for node in range(0, nodes - 1, 2)]]
    return rounds if nodes % 2 == 0 else [*rounds, [(0, nodes - 1)]]


def problems(
    report: PreflightReport,
    *,
    devices: int,
    needs_gpus: bool,
    shm_bytes: float,
    needs_unlimited_memlock: bool,
    min_busbw: float | None,
    min_write: float | None,
) -> Sequence[str]:
    """Return what is below what a job needs, one sentence each; speeds are in bytes/s, None is not compared."""
    found = []
    for node in report.nodes:
        where = f"node {node.node} ({node.host})"
        if needs_gpus and node.gpus < devices:
            found.append(f"{where}: {node.gpus} GPUs, {devices} were expected")
        if node.shm_bytes < 0.99 * shm_bytes:
            found.append(f"{where}: /dev/shm has {_gib(node.shm_bytes)}, {_gib(shm_bytes)} were expected")
        if needs_unlimited_memlock and node.memlock_bytes != UNLIMITED:
            limit = f"{node.memlock_bytes / 1024:.0f} KiB"
            found.append(f"{where}: ulimit -l is {limit}; RDMA needs unlimited, in the container runtime's unit file")
        if min_write is not None and node.workspace_write < min_write:
            found.append(f"{where}: writes {_gb(node.workspace_write)} into the workspace, {_gb(min_write)} are needed")
    if min_busbw is not None:
        for group in report.bandwidth:
            if group.busbw < min_busbw:
                hosts = _nodes(report, group)
                found.append(f"{hosts}: all-reduce of {_gb(group.busbw)}, {_gb(min_busbw)} are needed")
    return found


def table(report: PreflightReport) -> str:
    """Return the report as text."""
    lines = [f"{'node':>4}  {'host':24}{'GPUs':>5}{'/dev/shm':>12}{'ulimit -l':>12}{'free':>14}{'write':>12}"]
    for node in report.nodes:
        locked = "unlimited" if node.memlock_bytes == UNLIMITED else f"{node.memlock_bytes / 1024:.0f} KiB"
        lines.append(
            f"{node.node:4}  {node.host:24}{node.gpus:5}{_gib(node.shm_bytes):>12}{locked:>12}"
            f"{_gib(node.workspace_free):>14}{_gb(node.workspace_write):>12}"
        )
    if report.bandwidth:
        lines += ["", f"all-reduce of {report.reduce_bytes / 2**20:,.0f} MiB ({report.backend}), bus bandwidth"]
    for group in report.bandwidth:
        lines.append(f"{_nodes(report, group):36}{group.processes:5} processes{_gb(group.busbw):>14}")
    return "\n".join(lines)


def _nodes(report: PreflightReport, group: BandwidthReport) -> str:
    if len(group.nodes) > 2:
        return f"all {len(group.nodes)} nodes"
    hosts = {node.node: node.host for node in report.nodes}
    return " and ".join(hosts[number] for number in group.nodes)


def _gib(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"


def _gb(rate: float) -> str:
    return f"{rate / 1e9:,.2f} GB/s"
