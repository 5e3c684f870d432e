# SPDX-License-Identifier: Apache-2.0
"""Annotation by many processes: plan the blocks, run the job that labels them, join its parts.

The workers hold the model on megatron's layers, sharded over a layout's processes (`worker.py`). This side only reads
and writes files. Used by the stage and by `steerlm annotate`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steerlm.annotation.annotate import AnnotateCounts, output_method
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.parallel import ParallelAnnotation
from steerlm.annotation.spec import AnnotatedFile, AnnotateSpec
from steerlm.errors import ModelError
from steerlm.inference.identity import folder_identity, resolve_precision
from steerlm.jobs.config import JobSettings
from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.place import JobPlace
from steerlm.models.folder import read_info
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings

WORKER = "steerlm.annotation.worker"
_PROGRESS = re.compile(r"\bblock \d+/\d+.*")


@dataclass(frozen=True, slots=True)
class AnnotationTask:
    """What to label, with which model and on which processes.

    Attributes:
        files: (source, output) of each file.
        model: A reward model folder.
        options: Which turns are scored, and how.
        layout: The processes.
        accelerator: Whether they compute on one; None: as this machine.
    """

    files: Sequence[tuple[Path, Path]]
    model: Path
    options: AnnotateSettings
    layout: LayoutSettings
    accelerator: bool | None = None

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision in which the model computes."""
        return resolve_precision(self.model, self.options.dtype, accelerator=self.accelerator)

    def spec(self, outputs: Sequence[ParallelAnnotation]) -> AnnotateSpec:
        """Return the workers' spec of the incomplete outputs.

        It does not change while a job writes parts, so that a launcher recognizes its job.
        """
        return AnnotateSpec(
            model_folder=self.model.absolute(),
            precision=self.precision,
            options=self.options,
            layout=self.layout,
            files=[
                AnnotatedFile(source=output.source.absolute(), folder=output.folder.absolute())
                for output in outputs
                if not output.complete
            ],
        )


@contextmanager
def planned_outputs(task: AnnotationTask, *, overwrite: bool = False) -> Iterator[list[ParallelAnnotation]]:
    """Lock every output of a task and plan its missing blocks.

    Raises:
        ConfigError: The layout does not fit the model.
        ModelError: The folder is not a reward model.
        OutputConflict: An output was started from other input or settings, and `overwrite` is not set.
        RecordError: An input has a bad line.
    """
    info = read_info(task.model)
    if info.kind != "reward" or info.attributes is None:
        raise ModelError(f"{task.model}: a {info.kind} model; a reward model was expected")
    task.layout.check_fits(ModelShape.from_folder(task.model))
    identity = folder_identity(task.model, task.precision)
    method = output_method(identity, info.attributes, task.options)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(ParallelAnnotation(source, output, method, task.options, overwrite=overwrite))
            for source, output in task.files
        ]


def annotate_by_job(
    task: AnnotationTask, place: JobPlace, report_progress: Callable[[str], None], *, overwrite: bool = False
) -> list[AnnotateCounts]:
    """Label a task's files in a job and return the counts of each.

    After any interruption the same call resumes, with another layout too. Raises what `planned_outputs` and `launch`
    raise.
    """

    def on_line(line: str) -> None:
        if match := _PROGRESS.search(line):
            report_progress(match[0])

    with planned_outputs(task, overwrite=overwrite) as outputs:

        def missing() -> bool:
            return any(output.missing for output in outputs)

        if missing():
            run_part_job(place, WORKER, task.spec(outputs), task.layout, on_line, missing)
        return [output.merge() for output in outputs]


def torchrun_command(task: AnnotationTask, spec: Path, settings: JobSettings) -> str:
    """Return the command that labels the blocks of a spec; with several nodes, to be run on each of them."""
    nodes = "--standalone"
    if task.layout.nodes > 1:
        nodes = f"--nnodes {task.layout.nodes} --node-rank RANK --master-addr FIRST_NODE --master-port 29500"
    grace = f"--shutdown-timeout {settings.grace_seconds:.0f}"
    return f"torchrun {nodes} --nproc-per-node {task.layout.devices} {grace} -m {WORKER} {spec}"
