# SPDX-License-Identifier: Apache-2.0
"""`steerlm preflight`: runs the measuring job on a profile's back end, and compares its report with what jobs need.

On a cluster a launcher runs it, as it runs a pipeline: its last line is the report, which the submitter reads.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, PositiveInt

from steerlm.artifact import Store
from steerlm.errors import InputError, TrainingError
from steerlm.jobs.kubernetes.pod import POD_SECURITY
from steerlm.jobs.kubernetes.quantity import amount
from steerlm.jobs.place import JobPlace
from steerlm.jobs.preflight_spec import PreflightReport, PreflightSpec, problems
from steerlm.jobs.registry import LOCAL
from steerlm.recipe import Profile
from steerlm.training.layout import LayoutSettings
from steerlm.visibility import limit_seconds

PREFLIGHT = "preflight.json"
"""The launcher's file with `PreflightOptions`."""
REPORT = "preflight report: "
"""What the launcher's line with the report begins with."""
LEAST_SHM = 1 << 30
"""Bytes of /dev/shm with which NCCL works between the GPUs of a machine."""
log = logging.getLogger(__name__)


class PreflightOptions(BaseModel):
    """What to measure.

    Attributes:
        layout: Nodes and processes.
        reduce_bytes: Size of the all-reduce.
        write_bytes: Size of the file that each node writes.
    """

    layout: LayoutSettings
    reduce_bytes: PositiveInt
    write_bytes: PositiveInt


def preflight_layout(profile: Profile, nodes: int | None = None, devices: int | None = None) -> LayoutSettings:
    """Return the layout to measure: as many nodes and processes as the largest layouts of the profile have."""
    layouts = [layout for _, layout in profile.layouts]
    return LayoutSettings(
        nodes=nodes or max(layout.nodes for layout in layouts),
        devices=devices or max(layout.devices for layout in layouts),
    )


def run_preflight(profile: Profile, options: PreflightOptions, on_line: Callable[[str], None]) -> PreflightReport:
    """Run the job to its end and return its report.

    Raises:
        TrainingError: The job failed, or its result does not appear.
        InputError: The back end cannot run it, or the workspace of its cluster is not mounted here.
    """
    local = profile.backend == LOCAL
    root = Store(profile.store).root if local else Path(profile.cluster.workspace.path)
    if not local and not root.is_dir():
        raise InputError(f"{root}: the workspace is not mounted here; on a cluster a launcher runs the preflight")
    folder = root / "preflight"
    result = folder / "result.json"
    folder.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    place = JobPlace("preflight", folder / "job", folder / "job.log", profile, on_note=on_line)
    spec = PreflightSpec(
        layout=options.layout,
        result=result,
        workspace=folder,
        reduce_bytes=options.reduce_bytes,
        write_bytes=options.write_bytes,
    )
    place.run("steerlm.jobs.preflight_worker", spec, options.layout, on_line, repeat=True)
    limit = limit_seconds()
    end = time.monotonic() + limit
    while not result.exists():
        if time.monotonic() > end:
            raise TrainingError(
                f"{result}: the job has succeeded, but its result did not appear within {limit:g} seconds"
            )
        time.sleep(0.1)
    return PreflightReport.model_validate_json(result.read_bytes())


def print_preflight(profile: Profile, options: str, show: Callable[[str], None]) -> None:
    """Run a preflight in a launcher's pod. `options`: the JSON of `PreflightOptions`. Raises like `run_preflight`."""
    report = run_preflight(profile, PreflightOptions.model_validate_json(options), show)
    show(REPORT + report.model_dump_json())


def submit_preflight(profile: Profile, options: PreflightOptions, on_line: Callable[[str], None]) -> PreflightReport:
    """Let a launcher on the profile's cluster run the preflight, and return its report.

    Raises:
        SteerLMError: It failed; `Interrupted` and KeyboardInterrupt as of a run.
    """
    from steerlm.pipeline.submit import PROFILE, SubmittedRun

    files = {PROFILE: profile.model_dump_json(), PREFLIGHT: options.model_dump_json()}
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    run = SubmittedRun(f"preflight-{digest}", files, profile)
    reports: list[PreflightReport] = []

    def show(line: str) -> None:
        if line.startswith(REPORT):
            reports.append(PreflightReport.model_validate_json(line.removeprefix(REPORT)))
        else:
            on_line(line)

    run.submit()
    on_line(f"its log: kubectl -n {run.settings.namespace} logs -f job/{run.name}")
    run.follow(show)
    if not reports:
        raise TrainingError(f"{run.name} has ended without a report; its log is above")
    return reports[-1]


def preflight_problems(
    profile: Profile, layout: LayoutSettings, report: PreflightReport, min_busbw: float | None, min_write: float | None
) -> Sequence[str]:
    """Return what the report shows to be below what the profile's jobs need; speeds in bytes/s, None: any will do."""
    if profile.backend == LOCAL:
        gpus, rdma = profile.gpu is not None, False
        shm = float(LEAST_SHM) if gpus and layout.devices > 1 else 0.0
    else:
        wanted = profile.cluster.resources
        gpus, shm = wanted.gpu is not None, amount(wanted.shared_memory)
        rdma = POD_SECURITY[profile.cluster.fabric] == "privileged"
    return problems(
        report,
        devices=layout.devices,
        needs_gpus=gpus,
        shm_bytes=shm,
        needs_unlimited_memlock=rdma,
        min_busbw=min_busbw,
        min_write=min_write,
    )
