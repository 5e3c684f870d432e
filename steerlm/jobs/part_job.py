# SPDX-License-Identifier: Apache-2.0
"""A job whose workers fill a folder of parts, each part once: how annotation and evaluation run on a back end."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from steerlm.jobs.place import JobPlace
from steerlm.jobs.registry import LOCAL, BackendProfile
from steerlm.training.layout import LayoutSettings
from steerlm.visibility import limit_seconds, wait_until


def needs_job(profile: BackendProfile, layout: LayoutSettings) -> bool:
    """Return whether this process cannot do the work itself.

    That is so if the layout has more than one process, and wherever jobs run on other machines than the launcher.
    """
    return layout.processes > 1 or profile.backend != LOCAL


def run_part_job(
    place: JobPlace,
    module: str,
    spec: BaseModel | Mapping[str, Any],
    layout: LayoutSettings,
    on_line: Callable[[str], None],
    missing: Callable[[], bool],
) -> None:
    """Run the worker `module` to its end, attaching to it if it is running already. Raises what `launch` raises.

    Call it while parts are missing: a job that succeeded earlier is then started again.

    Args:
        place: Back end and files of the job.
        module: The worker's module.
        spec: Its spec.
        layout: Its processes.
        on_line: Called with every line that it logs.
        missing: Whether parts are missing. A shared file system may show them late, so they are waited for; what is
            missing after `limit_seconds` is for the caller to say.
    """
    place.run(module, spec, layout, on_line, repeat=True)
    if place.profile.backend != LOCAL:
        wait_until(lambda: not missing(), limit_seconds())
