# SPDX-License-Identifier: Apache-2.0
"""Runs a job whose workers fill folders of parts: what annotation and evaluation do alike on a back end."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.jobs.backend import Job
from steerlm.jobs.config import JobSettings
from steerlm.jobs.launcher import launch
from steerlm.jobs.local import LocalBackend
from steerlm.training.layout import LayoutSettings


@dataclass(frozen=True, slots=True)
class JobPlace:
    """What a job is called, where its records lie, where its output goes and how it is looked after."""

    name: str
    folder: Path
    log: Path
    settings: JobSettings


def needs_job(layout: LayoutSettings) -> bool:
    """Whether a layout is more than the one process that may as well be this one."""
    return layout.processes > 1


def run_part_job(
    place: JobPlace, module: str, spec: dict[str, Any], layout: LayoutSettings, on_line: Callable[[str], None]
) -> None:
    """Run the worker `module` to its end, or go on with it if it runs already. To be called while parts are missing.

    Raises what `launch` raises.
    """
    threads = layout.threads or max(1, (os.cpu_count() or 1) // layout.devices)
    job = Job(place.name, module, spec, place.folder, place.log, layout.nodes, layout.devices, threads)
    backend = LocalBackend(place.settings.grace_seconds)
    if backend.status(str(place.folder.resolve())).state == "succeeded":
        shutil.rmtree(place.folder)  # it made what it was asked for; by now something is missing again
    launch(backend, job, place.settings, on_line)
