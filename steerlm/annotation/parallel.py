# SPDX-License-Identifier: Apache-2.0
"""Annotation whose blocks are labeled by many processes, joined byte for byte as one process would have written it.

The process that owns the output plans the blocks of the input (`ParallelAnnotation`). The workers label the missing
blocks, each into its own part (`label_part`). Then the parts become the output, with the journal that one process would
have written. How the workers are started is the business of `job.py`.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from steerlm.annotation.annotate import (
    AnnotateCounts,
    annotate,
    check_method,
    joined_places,
    journal_entry,
    label_block,
    output_method,
    place_of,
    resume,
)
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.corpus import BlockRange, Corpus
from steerlm.annotation.journal import JournaledOutput, OutputConflict, RejectedLine, discard
from steerlm.errors import SteerLMError
from steerlm.files import write_json
from steerlm.jobs.parts import Parts
from steerlm.settings import Settings
from steerlm.visibility import wait_for_path

if TYPE_CHECKING:
    from steerlm.inference.scorer import Scorer

PLAN = "plan.json"


class BlockPlan(Settings):
    """The blocks to label, in order. `method`: the settings that decide the output, and the blocks (`look_ahead`)."""

    method: dict[str, Any]
    blocks: list[BlockRange]


def parts_folder(output: Path) -> Path:
    """Return the folder of an output's plan and parts; it exists until the output is complete."""
    return output.with_name(f"{output.name}.parts")


def read_plan(folder: Path) -> BlockPlan:
    """Read the blocks to label from an output's parts folder."""
    return BlockPlan.model_validate_json(wait_for_path(folder / PLAN).read_bytes())


def label_part(
    corpus: Corpus, where: BlockRange, scorer: "Scorer", options: AnnotateSettings, parts: Parts | None
) -> int:
    """Label one block into `parts` and return the number of labeled turns. Raises what `annotate` raises.

    With `parts` None nothing is written: the other processes of a model replica take part in scoring only.
    """
    block, counts = corpus.block(where), AnnotateCounts()
    text = label_block(block, corpus.path, scorer, options, counts)
    if parts is not None:
        rejects = [reject.model_dump() for reject in block.rejects]
        parts.write(
            where.first, {"counts": dataclasses.asdict(counts), "rejects": rejects, "place": place_of(scorer)}, text
        )
    return counts.turns


class ParallelAnnotation:
    """The output, locked against a second writer, and the plan of its blocks. Use as a context manager.

    Raises:
        OutputConflict: The existing output was started from other input or settings; `overwrite` discards it.
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
        """Whether an earlier call finished the output; it has no plan then."""
        return self._out.complete

    @property
    def missing(self) -> list[BlockRange]:
        """The blocks that have no part yet. `merge` can be called when there are none."""
        return [block for block in self.blocks if block.first not in self.parts]

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
                self.blocks: list[BlockRange] = []
                if self._out.complete:
                    return
                self._out.open()
                self.blocks = list(corpus.block_ranges())
                self._lines, self._sha256 = corpus.lines, corpus.sha256
            self._check_plan({**self.method, "look_ahead": options.look_ahead})
        except BaseException as error:
            self._out.__exit__(type(error), error, error.__traceback__)
            raise

    def _check_plan(self, method: dict[str, Any]) -> None:
        """Compare with the plan that existing parts were made by, and write this one. Damaged parts are removed."""
        if (self.folder / PLAN).exists():
            try:
                earlier = read_plan(self.folder)
            except ValidationError:
                raise OutputConflict(f"{self.folder / PLAN}: not a plan of this command") from None
            check_method(self.output, earlier.method, method)
            merged = self._out.entry.lines if self._out.entry else 0
            if [block for block in earlier.blocks if block.first >= merged] != self.blocks:
                raise OutputConflict(f"{self.source} changed since {self.output} was started")
            for block in self.blocks:
                self.parts.read(block.first)
        write_json(self.folder / PLAN, BlockPlan(method=method, blocks=self.blocks).model_dump(mode="json"))

    def _merge(self) -> None:
        counts, places = self.counts, self._out.entry.scored_by if self._out.entry else ()
        for block in self.blocks:
            part = self.parts.read(block.first)
            if part is None:
                raise SteerLMError(
                    f"{self.folder}: lines {block.first + 1} to {block.lines} are not labeled, or their part is "
                    "damaged; run the same command again"
                )
            header, text = part
            _add(counts, header["counts"])
            counts.lines = block.lines
            rejects = tuple(RejectedLine.model_validate(reject) for reject in header["rejects"])
            if "place" in header:  # parts of earlier versions do not say it
                places = joined_places(self.output, places, header["place"])
            entry = journal_entry(block.lines, block.sha256, self.method, counts, places)
            self._out.commit(text, entry.model_copy(update={"rejects": rejects}))
        self._out.finish(journal_entry(self._lines, self._sha256, self.method, counts, places))


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
    """Like `annotate`, but also resume an output that a job has started."""
    if not parts_folder(output).exists():
        return annotate(source, output, scorer, options, on_progress, overwrite=overwrite)
    method = output_method(scorer.identity, scorer.schema, options)
    with ParallelAnnotation(source, output, method, options, overwrite=overwrite) as annotation:
        progress = dataclasses.replace(annotation.counts)
        with Corpus(source, options) as corpus:
            for block in annotation.missing:
                progress.turns += label_part(corpus, block, scorer, options, annotation.parts)
                progress.lines = block.lines
                if on_progress:
                    on_progress(progress)
        return annotation.merge()
