# SPDX-License-Identifier: Apache-2.0
"""Scores of a reward model in the processes of a job, on megatron's layers: for a launcher that cannot hold it."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from steerlm.errors import ModelError, SteerLMError
from steerlm.evaluation.spec import ScoreSpec
from steerlm.files import write_json
from steerlm.inference.config import OverLong
from steerlm.inference.identity import folder_identity, resolve_precision
from steerlm.inference.scorer import Scores
from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.parts import Parts
from steerlm.jobs.place import JobPlace
from steerlm.models.folder import read_info
from steerlm.models.shape import ModelShape
from steerlm.training.layout import LayoutSettings

WORKER = "steerlm.evaluation.scoring_worker"
BLOCK = 256
"""Texts that a replica of the model scores together."""


class JobScorer:
    """A `Scorer` whose every call is a job. After an interruption the same call resumes.

    Args:
        folder: The reward model.
        layout: The job's processes.
        place: Where the jobs run; each has the digest of its texts in its name.
        parts: Folder for the texts and the parts.
        report_progress: Called with a line of text.
        accelerator: Whether the job's processes compute on one; None: as this machine.

    Raises:
        ModelError: The folder is not of a reward model.
    """

    def __init__(
        self,
        folder: Path,
        layout: LayoutSettings,
        place: JobPlace,
        parts: Path,
        report_progress: Callable[[str], None],
        *,
        accelerator: bool | None = None,
    ) -> None:
        info = read_info(folder)
        if info.kind != "reward" or info.attributes is None:
            raise ModelError(f"{folder}: a {info.kind} model; a reward model was expected")
        positions = ModelShape.from_folder(folder).max_position_embeddings
        self.schema, self.window = info.attributes, min(info.window or positions, positions)
        self._precision = resolve_precision(folder, "auto", accelerator=accelerator)
        self.identity = folder_identity(folder, self._precision)
        self._folder, self._layout, self._place = folder, layout, place
        self._parts, self._report_progress = parts, report_progress

    def score(self, texts: Sequence[str], over_long: OverLong = "error") -> Scores:
        """See `Scorer.score`."""
        if not texts:
            return np.empty((0, len(self.schema.names)), dtype=np.float32)
        content = json.dumps([over_long, list(texts)], ensure_ascii=False)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        parts = Parts(self._parts / digest)
        blocks = [list(texts[first : first + BLOCK]) for first in range(0, len(texts), BLOCK)]
        texts_path = parts.folder / "texts.json"
        write_json(texts_path, blocks)
        if parts.lacks(len(blocks)):
            spec = ScoreSpec(
                model_folder=self._folder.absolute(),
                precision=self._precision,
                texts=texts_path.absolute(),
                folder=parts.folder.absolute(),
                over_long=over_long,
                layout=self._layout,
            )
            place = replace(
                self._place, title=f"{self._place.title}-{digest}", folder=self._place.folder / f"job-score-{digest}"
            )
            missing = functools.partial(parts.lacks, len(blocks))
            run_part_job(place, WORKER, spec, self._layout, self._on_line, missing)
        rows = [row for number in range(len(blocks)) for row in self._read(parts, number)]
        return np.array(rows, dtype=np.float32).reshape(len(texts), len(self.schema.names))

    def _read(self, parts: Parts, number: int) -> list[list[float | None]]:
        part = parts.read(number)
        if part is None:
            raise SteerLMError(f"{parts.folder}: the scores of block {number} are damaged; run it again")
        rows: list[list[float | None]] = json.loads(part[1])
        return rows

    def _on_line(self, line: str) -> None:
        if "block " in line:
            self._report_progress(f"scores: {line[line.index('block ') :]}")
