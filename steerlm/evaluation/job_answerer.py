# SPDX-License-Identifier: Apache-2.0
"""Answers from copies of a model in the processes of a job. They are the same as those of one process."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from steerlm.errors import SteerLMError
from steerlm.evaluation.answerer import (
    answer_sampling,
    case_prompt,
    folder_room,
    folder_schema,
    questions_that_fit,
)
from steerlm.evaluation.cases import SteeringCase
from steerlm.evaluation.config import EvaluationSettings
from steerlm.evaluation.spec import GenerateSpec
from steerlm.files import write_json
from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.parts import Parts
from steerlm.jobs.place import JobPlace
from steerlm.training.layout import LayoutSettings

WORKER = "steerlm.evaluation.worker"
BLOCK = 64
"""Prompts that a worker continues together."""


class JobAnswerer:
    """Answers in a job. After an interruption the same call resumes.

    Args:
        folder: The model.
        settings: How it answers.
        layout: The job's processes.
        place: Where the job runs.
        parts: Folder for the prompts and the parts.
        report_progress: Called with a line of text.
        conditioned: False: prompt without attributes.
    """

    def __init__(
        self,
        folder: Path,
        settings: EvaluationSettings,
        layout: LayoutSettings,
        place: JobPlace,
        parts: Path,
        report_progress: Callable[[str], None],
        *,
        conditioned: bool = True,
    ) -> None:
        self.schema = folder_schema(folder) if conditioned else None
        self._folder, self._settings, self._layout = folder, settings, layout
        self._place, self._parts, self._report_progress = place, Parts(parts), report_progress

    def __call__(self, cases: Sequence[SteeringCase]) -> list[str]:
        """See `Answerer`."""
        prompts = [case_prompt(case.question, case.requested, self.schema) for case in cases]
        blocks = _blocks(prompts)
        prompts_path = self._parts.folder / "prompts.json"
        write_json(prompts_path, [[prompts[i] for i in block] for block in blocks])
        if self._parts.lacks(len(blocks)):
            spec = GenerateSpec(
                model_folder=self._folder.absolute(),
                prompts=prompts_path.absolute(),
                folder=self._parts.folder.absolute(),
                sampling=answer_sampling(self._settings),
                seed=self._settings.seed,
                layout=self._layout,
            )
            missing = functools.partial(self._parts.lacks, len(blocks))
            run_part_job(self._place, WORKER, spec, self._layout, self._on_line, missing)
        answers = [""] * len(cases)
        for number, block in enumerate(blocks):
            for i, text in zip(block, self._read(number), strict=True):
                answers[i] = text.strip()
        return answers

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        return questions_that_fit(
            questions, self.schema, self._settings, lambda prompts: folder_room(self._folder, prompts)
        )

    def _read(self, number: int) -> list[str]:
        part = self._parts.read(number)
        if part is None:
            raise SteerLMError(f"{self._parts.folder}: the answers of block {number} are damaged; run it again")
        texts: list[str] = json.loads(part[1])
        return texts

    def _on_line(self, line: str) -> None:
        if "block " in line:
            self._report_progress(f"answers: {line[line.index('block ') :]}")


def _blocks(prompts: Sequence[str]) -> list[list[int]]:
    """Return the indices of the prompts in blocks of about `BLOCK`.

    Equal prompts stay together and in order: the sample of each depends on how many equal ones are before it.
    """
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(prompts):
        groups.setdefault(text, []).append(i)
    blocks: list[list[int]] = []
    for group in groups.values():
        if not blocks or len(blocks[-1]) >= BLOCK:
            blocks.append([])
        blocks[-1] += group
    return blocks
