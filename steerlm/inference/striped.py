# SPDX-License-Identifier: Apache-2.0
"""An annotation whose blocks many processes label, put together byte for byte as one process would have written it.

The process that owns the output plans (`StripedAnnotation`): where each block of the input lies. Worker r of n labels
blocks r, r+n, ... of those that are left (`label_part`), each into a part of its own. Then the parts become the output,
with the journal that one process leaves. Knows nothing of how the workers are started.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from steerlm.errors import SteerLMError
from steerlm.files import write_json
from steerlm.inference.annotate import (
    AnnotateCounts,
    annotate,
    check_method,
    label_block,
    make_mark,
    output_method,
    resume,
)
from steerlm.inference.config import AnnotateSettings
from steerlm.inference.corpus import Corpus, Place
from steerlm.inference.journal import JournaledOutput, OutputConflict, Reject, discard
from steerlm.inference.parts import Parts

if TYPE_CHECKING:
    from steerlm.inference.scorer import Scorer

PLAN = "plan.json"


class Plan(BaseModel):
    """The blocks to label, in order. `method`: what decides the output, and `look_ahead`, which decides the blocks."""

    model_config = ConfigDict(extra="forbid")

    method: dict[str, Any]
    places: list[Place]


def parts_folder(output: Path) -> Path:
    """Where parts and plan lie until the output is complete."""
    return output.with_name(f"{output.name}.parts")


def read_plan(folder: Path) -> Plan:
    return Plan.model_validate_json((folder / PLAN).read_bytes())


def label_part(corpus: Corpus, place: Place, scorer: "Scorer", options: AnnotateSettings, parts: Parts | None) -> int:
    """Label one block into `parts`; None: label it without writing, as the other processes of a model replica do.

    Returns the number of labelled turns. Raises as `annotate`.
    """
    block, counts = corpus.block(place), AnnotateCounts()
    text = label_block(block, corpus.path, scorer, options, counts)
    if parts is not None:
        rejects = [reject.model_dump() for reject in block.rejects]
        parts.write(place.first, {"counts": dataclasses.asdict(counts), "rejects": rejects}, text)
    return counts.turns


class StripedAnnotation:
    """The output, locked against a second writer, and the plan of what is missing. Use as a context manager.

    `left`: the blocks that no part exists of; empty: `merge` can be called. Raises `OutputConflict` if what is there
    was begun as other work; `overwrite` discards that.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        method: dict[str, Any],
        options: AnnotateSettings,
        *,
        overwrite: bool = False,
    ) -> None:
        self.source, self.output, self.method = source, output, method
        self.folder = parts_folder(output)
        self.parts = Parts(self.folder)
        try:
            self._open(options)
        except OutputConflict:
            if not overwrite:
                raise
            discard(output)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._open(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._out.__exit__(*details)

    @property
    def complete(self) -> bool:
        """Whether the output was written by an earlier call; there is no plan of it then."""
        return self._out.complete

    @property
    def left(self) -> list[Place]:
        return [place for place in self.places if place.first not in self.parts]

    def merge(self) -> AnnotateCounts:
        """Write the output from the parts, and remove them. Raises `SteerLMError` if one is missing or damaged."""
        if self.complete:
            self._out.settle()
        else:
            self._merge()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.counts

    def _open(self, options: AnnotateSettings) -> None:
        self._out = JournaledOutput(self.output)
        try:
            with Corpus(self.source, options) as corpus:
                self.counts = resume(corpus, self._out, self.method)
                self.places: list[Place] = []
                if self._out.complete:
                    return
                self._out.begin()
                self.places = list(corpus.places())
                self._lines, self._sha256 = corpus.lines, corpus.sha256
            self._check_plan({**self.method, "look_ahead": options.look_ahead})
        except BaseException as error:
            self._out.__exit__(type(error), error, error.__traceback__)
            raise

    def _check_plan(self, method: dict[str, Any]) -> None:
        """Compare with the plan that the parts were made by, and write this one. Damaged parts are removed."""
        if (self.folder / PLAN).exists():
            try:
                earlier = read_plan(self.folder)
            except ValidationError:
                raise OutputConflict(f"{self.folder / PLAN}: not a plan of this command") from None
            check_method(self.output, earlier.method, method)
            merged = self._out.mark.lines if self._out.mark else 0
            if [place for place in earlier.places if place.first >= merged] != self.places:
                raise OutputConflict(f"{self.source} changed since {self.output} was begun")
            for place in self.places:
                self.parts.read(place.first)
        write_json(self.folder / PLAN, Plan(method=method, places=self.places).model_dump(mode="json"))

    def _merge(self) -> None:
        counts = self.counts
        for place in self.places:
            found = self.parts.read(place.first)
            if found is None:
                raise SteerLMError(
                    f"{self.folder}: lines {place.first + 1} to {place.lines} were not labelled, or what was written "
                    "is damaged; run the same command again"
                )
            about, text = found
            _add(counts, about["counts"])
            counts.lines = place.lines
            rejects = [Reject.model_validate(reject) for reject in about["rejects"]]
            mark = make_mark(place.lines, place.sha256, self.method, counts)
            self._out.commit(text, mark.model_copy(update={"rejects": rejects}))
        self._out.finish(make_mark(self._lines, self._sha256, self.method, counts))


def _add(counts: AnnotateCounts, more: dict[str, int]) -> None:
    for name, value in more.items():
        setattr(counts, name, getattr(counts, name) + value)


def annotate_in_process(
    source: Path,
    output: Path,
    scorer: "Scorer",
    options: AnnotateSettings,
    on_progress: Callable[[AnnotateCounts], None] | None = None,
    *,
    overwrite: bool = False,
) -> AnnotateCounts:
    """`annotate`; where several processes have begun, what they left undone is labelled in this one."""
    if not parts_folder(output).exists():
        return annotate(source, output, scorer, options, on_progress, overwrite=overwrite)
    method = output_method(scorer.identity, scorer.schema, options)
    with StripedAnnotation(source, output, method, options, overwrite=overwrite) as striped:
        shown = dataclasses.replace(striped.counts)
        with Corpus(source, options) as corpus:
            for place in striped.left:
                shown.turns += label_part(corpus, place, scorer, options, striped.parts)
                shown.lines = place.lines
                if on_progress:
                    on_progress(shown)
        return striped.merge()
