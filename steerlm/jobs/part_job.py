# SPDX-License-Identifier: Apache-2.0
"""A job whose workers fill a folder of parts, each part once: how annotation and evaluation run on a back end."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from steerlm.jobs.place import JobPlace
from steerlm.training.layout import LayoutSettings


def needs_job(layout: LayoutSettings) -> bool:
    """Return whether a layout has more than one process, so that this process cannot do the work itself."""
    return layout.processes > 1


def run_part_job(
    place: JobPlace,
    module: str,
    spec: BaseModel | Mapping[str, Any],
    layout: LayoutSettings,
    on_line: Callable[[str], None],
) -> None:
    """Run the worker `module` to its end, attaching to it if it is running already. Raises what `launch` raises.

    Call it while parts are missing: a job that succeeded earlier is then started again.
    """
    place.run(module, spec, layout, on_line, repeat=True)
