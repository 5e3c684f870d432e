# SPDX-License-Identifier: Apache-2.0
"""Who writes the answers that an evaluation judges: a policy in this process, copies of it in a job, or a server.

An answerer has the policy's `schema`, answers cases, and says which questions leave room for an answer. Heavy rooms are
imported when used.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, SteerLMError
from steerlm.files import write_json
from steerlm.jobs.part_job import run_part_job
from steerlm.jobs.place import JobPlace
from steerlm.prompt import USER, render_prompt
from steerlm.records import Turn
from steerlm.training.layout import LayoutSettings

if TYPE_CHECKING:
    from steerlm.evaluation.config import EvaluationSettings
    from steerlm.evaluation.steer import Case
    from steerlm.inference.config import SamplingSettings

GENERATE_WORKER = "steerlm.evaluation.generate_worker"
BLOCK = 64
"""Prompts that a worker continues together."""


class Answerer(Protocol):
    """`schema` None: a model that never saw a label, asked without dials."""

    @property
    def schema(self) -> AttributeSchema | None: ...
    def __call__(self, cases: Sequence["Case"]) -> list[str]: ...
    def fitting(self, questions: Sequence[str]) -> list[str]:
        """The questions that leave room for a whole answer."""
        ...


def schema_of(folder: Path) -> AttributeSchema:
    """The attributes a model folder was made with; raises `InputError` for a model without any."""
    from steerlm.models.folder import read_info

    schema = read_info(folder).attributes
    if schema is None:
        raise InputError(
            f"{folder}: this model has no attributes (no steerlm.json names any); a reward model or policy was expected"
        )
    return schema


class PolicyAnswerer:
    """Answers in this process; without dials if not `conditioned` (a model that never saw a label)."""

    def __init__(self, folder: Path, settings: "EvaluationSettings", *, conditioned: bool = True) -> None:
        from steerlm.inference.generator import TransformersGenerator

        self.schema = schema_of(folder) if conditioned else None
        self._generator, self._settings = TransformersGenerator(folder), settings

    def __call__(self, cases: Sequence["Case"]) -> list[str]:
        prompts = [prompt(case.question, case.asked, self.schema) for case in cases]
        found = self._generator.generate(prompts, 1, sampling(self._settings), self._settings.seed)
        return [one[0].text.strip() for one in found]

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        return _fitting(questions, self.schema, self._settings, self._generator.room)


class JobAnswerer:
    """Copies of a policy in the processes of a job answer; the answers are those of one process.

    `work`: where prompts and parts lie; killed, the same call goes on with what is there.
    """

    def __init__(
        self,
        folder: Path,
        settings: "EvaluationSettings",
        layout: LayoutSettings,
        place: JobPlace,
        work: Path,
        report_progress: Callable[[str], None],
        *,
        conditioned: bool = True,
    ) -> None:
        self.schema = schema_of(folder) if conditioned else None
        self._folder, self._settings, self._layout = folder, settings, layout
        self._place, self._work, self._report_progress = place, work, report_progress

    def __call__(self, cases: Sequence["Case"]) -> list[str]:
        from steerlm.inference.parts import Parts

        prompts = [prompt(case.question, case.asked, self.schema) for case in cases]
        blocks = _blocks(prompts)
        parts, listed = Parts(self._work), self._work / "prompts.json"
        write_json(listed, [[prompts[i] for i in block] for block in blocks])
        if not all(number in parts for number in range(len(blocks))):
            spec = {
                "model_folder": str(self._folder.absolute()),
                "prompts": str(listed.absolute()),
                "folder": str(self._work.absolute()),
                "sampling": sampling(self._settings).model_dump(mode="json"),
                "seed": self._settings.seed,
                "layout": self._layout.model_dump(mode="json"),
            }
            run_part_job(self._place, GENERATE_WORKER, spec, self._layout, self._show)
        answers = [""] * len(cases)
        for number, block in enumerate(blocks):
            found = parts.read(number)
            if found is None:
                raise SteerLMError(f"{self._work}: the answers of block {number} are damaged; run the same again")
            for i, text in zip(block, json.loads(found[1]), strict=True):
                answers[i] = text.strip()
        return answers

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        return _fitting(questions, self.schema, self._settings, lambda prompts: _room(self._folder, prompts))

    def _show(self, line: str) -> None:
        if "block " in line:
            self._report_progress(f"answers: {line[line.index('block ') :]}")


class ServedAnswerer:
    """An OpenAI-compatible server answers. `folder`: of the policy it serves; without, the server tells the attributes.

    Raises `InputError` for a server of other attributes than the folder's, or that tells none where there is no folder.
    """

    def __init__(self, url: str, settings: "EvaluationSettings", folder: Path | None = None) -> None:
        from steerlm.inference.http_chat import HttpChat

        self._chat, self._settings, self._folder = HttpChat(url), settings, folder
        served, own = self._chat.schema(), schema_of(folder) if folder else None
        if served and own and served != own:
            raise InputError(f"{url} serves a policy of other attributes than {folder}: {', '.join(served.active)}")
        schema = own or served
        if schema is None:
            raise InputError(
                f"{url} does not tell the model's attributes (no /v1/model); name its folder too (--model)"
            )
        self.schema: AttributeSchema = schema

    def __call__(self, cases: Sequence["Case"]) -> list[str]:
        questions, dials = [case.question for case in cases], [case.asked for case in cases]
        answers = self._chat.ask(questions, dials, sampling(self._settings), self._settings.seed)
        return [answer.strip() for answer in answers]

    def fitting(self, questions: Sequence[str]) -> list[str]:
        """See `Answerer.fitting`."""
        folder = self._folder
        if folder is None:
            raise InputError(
                f"which questions fit the window of {self._chat.url} only the policy's tokenizer can say: name its "
                "folder too (--model), or leave over_long at error"
            )
        return _fitting(questions, self.schema, self._settings, lambda prompts: _room(folder, prompts))


def prompt(question: str, dials: Mapping[str, int], schema: AttributeSchema | None) -> str:
    return render_prompt([Turn(value=question, speaker=USER)], schema.format(dials) if schema else "")


def sampling(settings: "EvaluationSettings") -> "SamplingSettings":
    from steerlm.inference.config import SamplingSettings

    return SamplingSettings(temperature=settings.temperature, max_tokens=settings.max_tokens)


def _fitting(
    questions: Sequence[str],
    schema: AttributeSchema | None,
    settings: "EvaluationSettings",
    room: Callable[[Sequence[str]], Sequence[int]],
) -> list[str]:
    dials = schema.complete({}) if schema else {}
    left = room([prompt(question, dials, schema) for question in questions])
    return [question for question, tokens in zip(questions, left, strict=True) if tokens >= settings.max_tokens]


def _room(folder: Path, prompts: Sequence[str]) -> list[int]:
    """Tokens of the window that each prompt leaves, without loading the weights."""
    from steerlm.models.folder import load_tokenizer, read_info
    from steerlm.models.shape import ModelShape

    longest = ModelShape.from_folder(folder).max_position_embeddings
    window = min(read_info(folder).window or longest, longest)
    ids = load_tokenizer(folder)(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [window - len(one) for one in ids]


def _blocks(prompts: Sequence[str]) -> list[list[int]]:
    """Indices of the prompts in blocks of about `BLOCK`. Equal prompts stay together and in order: which sample each of
    them gets depends on how often it came before."""
    alike: dict[str, list[int]] = {}
    for i, text in enumerate(prompts):
        alike.setdefault(text, []).append(i)
    blocks: list[list[int]] = []
    for group in alike.values():
        if not blocks or len(blocks[-1]) >= BLOCK:
            blocks.append([])
        blocks[-1] += group
    return blocks
