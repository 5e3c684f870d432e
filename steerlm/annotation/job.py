# SPDX-License-Identifier: Apache-2.0
"""Annotation by many processes: plans the blocks, runs the job that labels them, puts its parts together.

The model lies on megatron's layers over the processes of a layout (`annotate_worker.py`); this side reads and writes
files only. Used by the stage and by `steerlm annotate`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.errors import ModelError
from steerlm.inference.annotate import AnnotateCounts, output_method
from steerlm.inference.config import AnnotateSettings
from steerlm.inference.identity import folder_identity, resolve_precision
from steerlm.inference.striped import StripedAnnotation
from steerlm.jobs.config import JobSettings
from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.place import JobPlace
from steerlm.models.folder import read_info
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings

WORKER = "steerlm.annotation.worker"
_PROGRESS = re.compile(r"\bblock \d+/\d+.*")


@dataclass(frozen=True, slots=True)
class Annotation:
    """What to label, with which model and where. `files`: (source, output) each."""

    files: Sequence[tuple[Path, Path]]
    model: Path
    options: AnnotateSettings
    layout: LayoutSettings

    def spec(self, passes: Sequence[StripedAnnotation]) -> dict[str, Any]:
        """The worker's SPEC.json of the outputs that are not complete; all paths are absolute.

        It does not change while a job makes parts, so that a launcher finds its job again.
        """
        begun = [one for one in passes if not one.complete]
        return {
            "model_folder": str(self.model.absolute()),
            "precision": resolve_precision(self.model, self.options.dtype),
            "options": self.options.model_dump(mode="json"),
            "layout": self.layout.model_dump(mode="json"),
            "passes": [{"source": str(p.source.absolute()), "folder": str(p.folder.absolute())} for p in begun],
        }


@contextmanager
def planned(work: Annotation, *, overwrite: bool = False) -> Iterator[list[StripedAnnotation]]:
    """Every output of `work`, locked, with its plan of the blocks that are left.

    Raises `ConfigError` for a layout that does not fit the model, `ModelError` for a folder that is no reward model,
    `OutputConflict` for an output that was begun as other work, `RecordError` for a bad line.
    """
    info = read_info(work.model)
    if info.kind != "reward" or info.attributes is None:
        raise ModelError(f"{work.model}: a {info.kind} model; a reward model was expected")
    work.layout.check_fits(ModelShape.from_folder(work.model))
    identity = folder_identity(work.model, resolve_precision(work.model, work.options.dtype))
    method = output_method(identity, info.attributes, work.options)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(StripedAnnotation(source, output, method, work.options, overwrite=overwrite))
            for source, output in work.files
        ]


def annotate_by_job(
    work: Annotation, place: JobPlace, report_progress: Callable[[str], None], *, overwrite: bool = False
) -> list[AnnotateCounts]:
    """Label `work.files` in a job; what was done, file by file.

    Interrupted in any way, the same call goes on where it was, with any other layout too. Raises what `planned` and
    `launch` raise.
    """

    def show(line: str) -> None:
        if found := _PROGRESS.search(line):
            report_progress(found[0])

    with planned(work, overwrite=overwrite) as passes:
        if any(one.left for one in passes):
            run_part_job(place, WORKER, work.spec(passes), work.layout, show)
        return [one.merge() for one in passes]


def torchrun(work: Annotation, spec: Path, settings: JobSettings) -> str:
    """The command that labels the blocks of a spec; of several nodes, on each of them."""
    nodes = "--standalone"
    if work.layout.nodes > 1:
        nodes = f"--nnodes {work.layout.nodes} --node-rank RANK --master-addr FIRST_NODE --master-port 29500"
    patience = f"--shutdown-timeout {settings.grace_seconds:.0f}"
    return f"torchrun {nodes} --nproc-per-node {work.layout.devices} {patience} -m {WORKER} {spec}"
