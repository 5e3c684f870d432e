# SPDX-License-Identifier: Apache-2.0
"""The preflight: measured by real processes over gloo, alone, and as a job of the local back end."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.errors import InputError
from steerlm.jobs.preflight_spec import (
    UNLIMITED,
    BandwidthReport,
    NodeReport,
    PreflightReport,
    PreflightSpec,
    pairs,
    problems,
    table,
)
from steerlm.pipeline.preflight import PREFLIGHT, REPORT, PreflightOptions, preflight_layout, run_preflight
from steerlm.pipeline.submit import PROFILE
from steerlm.recipe import load_profile
from steerlm.training.layout import LayoutSettings

GOOD = {"gpus": 8, "shm_bytes": 64 << 30, "memlock_bytes": UNLIMITED, "workspace_free": 1 << 40, "workspace_write": 2e9}


def small(layout: LayoutSettings) -> PreflightOptions:
    return PreflightOptions(layout=layout, reduce_bytes=1 << 20, write_bytes=1 << 20)


def report(*bandwidths: BandwidthReport, **second: float) -> PreflightReport:
    """A report of two nodes, of which the second differs."""
    nodes = [NodeReport(node=0, host="a", **GOOD), NodeReport(node=1, host="b", **{**GOOD, **second})]
    return PreflightReport(backend="nccl", reduce_bytes=1 << 30, nodes=nodes, bandwidth=list(bandwidths))


def found(measured: PreflightReport, *, min_busbw: float | None = None, min_write: float | None = None) -> list[str]:
    return list(
        problems(
            measured,
            devices=8,
            needs_gpus=True,
            shm_bytes=64 << 30,
            needs_unlimited_memlock=True,
            min_busbw=min_busbw,
            min_write=min_write,
        )
    )


def test_a_good_report_has_no_problem() -> None:
    group = BandwidthReport(nodes=[0, 1], processes=16, busbw=300e9)
    assert found(report(group), min_busbw=300e9, min_write=2e9) == []


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"gpus": 7}, "node 1 (b): 7 GPUs, 8 were expected"),
        ({"shm_bytes": 64 << 20}, "node 1 (b): /dev/shm has 0.1 GiB, 64.0 GiB were expected"),
        ({"memlock_bytes": 65536}, "node 1 (b): ulimit -l is 64 KiB; RDMA needs unlimited"),
        ({"workspace_write": 0.5e9}, "node 1 (b): writes 0.50 GB/s into the workspace, 1.00 GB/s are needed"),
    ],
)
def test_what_a_node_lacks_is_named(second: dict[str, float], says: str) -> None:
    (problem,) = found(report(**second), min_write=1e9)
    assert problem.startswith(says)


def test_a_slow_pair_is_named() -> None:
    groups = (
        BandwidthReport(nodes=[0, 1], processes=16, busbw=12e9),
        BandwidthReport(nodes=[0], processes=8, busbw=4e11),
    )
    assert found(report(*groups), min_busbw=300e9) == ["a and b: all-reduce of 12.00 GB/s, 300.00 GB/s are needed"]
    assert "a and b" in table(report(*groups)) and "12.00 GB/s" in table(report(*groups))


def test_every_node_is_in_a_pair_and_pairs_of_a_round_are_disjoint() -> None:
    for nodes in range(2, 10):
        for groups in pairs(nodes):
            members = [node for pair in groups for node in pair]
            assert len(members) == len(set(members))
        assert {node for groups in pairs(nodes) for pair in groups for node in pair} == set(range(nodes))


def test_three_nodes_are_measured_in_pairs_and_together(tmp_path: Path) -> None:
    """The worker itself, with the variables that torchrun sets on nodes of one process each."""
    spec = PreflightSpec(
        layout=LayoutSettings(nodes=3, threads=1),
        result=tmp_path / "result.json",
        workspace=tmp_path,
        reduce_bytes=1 << 20,
        repeats=2,
        write_bytes=1 << 20,
        timeout_seconds=120,
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "3", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "steerlm.jobs.preflight_worker", str(tmp_path / "spec.json")]
    workers = [subprocess.Popen(command, env={**os.environ, **group, "RANK": str(rank)}) for rank in range(3)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0, 0]
    measured = PreflightReport.model_validate_json(spec.result.read_bytes())
    assert [group.nodes for group in measured.bandwidth] == [[0, 1], [0, 2], [0, 1, 2]]
    assert [node.node for node in measured.nodes] == [0, 1, 2]
    assert all(group.busbw > 0 and group.processes == len(group.nodes) for group in measured.bandwidth)
    assert all(node.workspace_write > 0 and node.shm_bytes > 0 for node in measured.nodes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "spec.json"], "its files are gone"


def test_a_cluster_is_measured_from_a_pod(tmp_path: Path) -> None:
    profile = load_profile(
        "two-processes", ["profile.backend=pytorchjob", f"profile.cluster.workspace.path={tmp_path / 'absent'}"]
    )
    with pytest.raises(InputError, match="absent: the workspace is not mounted here"):
        run_preflight(profile, small(preflight_layout(profile)), print)
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_runs_it_and_prints_the_report(tmp_path: Path) -> None:
    profile = load_profile("two-processes", [f"profile.store={json.dumps(str(tmp_path / 'store'))}"])
    layout = preflight_layout(profile)
    assert (layout.nodes, layout.devices) == (1, 2)
    (tmp_path / PROFILE).write_text(profile.model_dump_json())
    (tmp_path / PREFLIGHT).write_text(small(layout).model_dump_json())
    command = [sys.executable, "-m", "steerlm.cli.launch", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1].startswith(REPORT)
    measured = PreflightReport.model_validate_json(lines[-1].removeprefix(REPORT))
    (group,) = measured.bandwidth
    assert (group.nodes, group.processes, measured.backend) == ([0], 2, "gloo")
    assert any("2 processes have met" in line for line in lines)
