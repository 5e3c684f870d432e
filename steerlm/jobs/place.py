# SPDX-License-Identifier: Apache-2.0
"""`JobPlace`: where a stage or a command runs a job and keeps its files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from steerlm.checksums import FileDigest
from steerlm.jobs.backend import Job, job_name
from steerlm.jobs.launcher import launch
from steerlm.jobs.registry import BackendProfile, make_backend
from steerlm.training.layout import LayoutSettings


@dataclass(frozen=True, slots=True)
class JobPlace:
    """The back end and the files of a job.

    Attributes:
        title: A title such as `annotate-KEY`, from which the job's name is derived.
        folder: For the job's records.
        log: For the job's output.
        profile: Names the back end and has the launcher's settings.
        image: Name of the container image for it, where the back end has any.
        on_note: Called with what the job waits for, and with why it is started again; see `launch`.
    """

    title: str
    folder: Path
    log: Path
    profile: BackendProfile
    image: str = "train-sft"
    on_note: Callable[[str], None] = lambda text: None

    @property
    def name(self) -> str:
        """The job's name."""
        return job_name(self.title, self.folder)

    def running(self) -> bool:
        """Return whether the job runs or waits, started by this process or another one."""
        return make_backend(self.profile).status(self.name).state in ("queued", "starting", "running")

    def run(
        self,
        module: str,
        spec: BaseModel | Mapping[str, Any],
        layout: LayoutSettings,
        on_line: Callable[[str], None],
        *,
        environment: Mapping[str, str] | None = None,
        clears: Sequence[Path] = (),
        repeat: bool = False,
        output: Path | None = None,
    ) -> Mapping[str, FileDigest] | None:
        """Run the worker `module` on a layout's processes to its end; see `Job` and `launch`.

        Returns what it has written by path relative to `output`; see `Backend.written`.
        """
        job = Job(
            name=self.name,
            module=module,
            spec=spec,
            folder=self.folder,
            log=self.log,
            nodes=layout.nodes,
            devices=layout.devices,
            threads=layout.threads,
            environment=environment or {},
            clears=clears,
            image=self.image,
            repeat=repeat,
        )
        backend = make_backend(self.profile)
        launch(backend, job, self.profile.jobs, on_line, self.on_note)
        return backend.written(job.name, output) if output else None
