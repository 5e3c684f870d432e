# SPDX-License-Identifier: Apache-2.0
"""Annotate a corpus: a reward model labels its answers. A killed run can be resumed.

In each scored turn `label` becomes the prediction (clamped, rounded half to even, trained attributes only), `gt_label`
the human label that it replaces, and `scores` the raw values. Output lines are in the order of the input lines; blank
lines and, with `on_error: skip`, bad ones have no output line (the rejects file has their numbers). See
docs/upstream.md#annotate-script and docs/upstream.md#annotation-behavior.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.corpus import Corpus, CorpusBlock
from steerlm.annotation.journal import JournaledOutput, JournalEntry, OutputConflict, discard
from steerlm.attributes import AttributeSchema
from steerlm.dropped import Dropped
from steerlm.errors import RecordError
from steerlm.prompt import PROMPT_VERSION
from steerlm.records import Turn

if TYPE_CHECKING:
    from steerlm.inference.scorer import Scorer

log = logging.getLogger(__name__)

DIGITS = 6
"""Decimals of `scores` in the output."""
STRICT = {"over_long": "error", "on_error": "stop"}
"""The strict values of these settings, under which nothing was skipped so far: a run may resume with a milder one."""


@dataclass
class AnnotateCounts:
    """What an output contains, with the work of earlier runs.

    Attributes:
        lines: Input lines, blank and bad ones included.
        conversations: Conversations written.
        turns: Labeled turns.
        over_long: Turns whose text is longer than the window, cut or skipped.
        skipped: Those of them that were skipped and have no label.
        unscored: Conversations without a turn to score, copied as they are.
        rejected: Bad lines.
        resumed: Input lines that earlier runs had done.
    """

    lines: int = 0
    conversations: int = 0
    turns: int = 0
    over_long: int = 0
    skipped: int = 0
    unscored: int = 0
    rejected: int = 0
    resumed: int = 0

    def left_out(self, where: str) -> Dropped:
        """Return which part of the conversations `where` was rejected."""
        return Dropped(where, self.rejected, self.conversations + self.rejected, "lines", "bad, see the rejects")

    def unlabeled(self, where: str) -> Dropped:
        """Return which part of the answers has no label because it is longer than the window; cut ones have one."""
        return Dropped(where, self.skipped, self.turns + self.skipped, "labels", "texts longer than the window")

    @property
    def nothing_to_do(self) -> bool:
        """Whether earlier runs had already labeled every input line; False for an empty input."""
        return self.lines > 0 and self.resumed == self.lines


def annotate(
    source: str | Path,
    output: str | Path,
    scorer: "Scorer",
    options: AnnotateSettings | None = None,
    on_progress: Callable[[AnnotateCounts], None] | None = None,
    *,
    overwrite: bool = False,
) -> AnnotateCounts:
    """Write `source` with the scorer's labels to `output`, which appears when it is complete.

    After an interruption the same call resumes; once the output is complete it does nothing.

    Args:
        source: Conversations, `.jsonl` or `.jsonl.gz`.
        output: The file to write.
        scorer: The reward model.
        options: What to score; defaults if None.
        on_progress: Called at the start and after each block.
        overwrite: Discard an existing output that conflicts.

    Raises:
        OutputConflict: The existing output was started with another model, schema, setting or input.
        RecordError: A line is bad or a text over-long, and the settings do not allow it.
    """
    options = options or AnnotateSettings()
    try:
        return _annotate(Path(source), Path(output), scorer, options, on_progress)
    except OutputConflict:
        if not overwrite:
            raise
    discard(Path(output))
    return _annotate(Path(source), Path(output), scorer, options, on_progress)


def _annotate(
    source: Path,
    output: Path,
    scorer: "Scorer",
    options: AnnotateSettings,
    on_progress: Callable[[AnnotateCounts], None] | None,
) -> AnnotateCounts:
    method = output_method(scorer.identity, scorer.schema, options)
    with Corpus(source, options) as corpus, JournaledOutput(output) as out:
        counts = resume(corpus, out, method)
        if out.complete:
            out.settle()
            return counts
        places = scored_by(out, scorer)
        out.open()
        if on_progress:
            on_progress(counts)
        for block in corpus.blocks():
            text = label_block(block, corpus.path, scorer, options, counts)
            entry = journal_entry(block.lines, block.sha256, method, counts, places)
            out.commit(text, entry.model_copy(update={"rejects": tuple(block.rejects)}))
            if on_progress:
                on_progress(counts)
        out.finish(journal_entry(corpus.lines, corpus.sha256, method, counts, places))
    return counts


def output_method(identity: str, schema: AttributeSchema, options: AnnotateSettings) -> dict[str, Any]:
    """Return everything besides the input that decides the output's content."""
    return {
        "model": identity,
        "attributes": schema.model_dump(mode="json"),
        "prompt_version": PROMPT_VERSION,
        **options.method(),
    }


def check_method(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `OutputConflict`, naming the difference, if the output at `path` was started with another method."""
    for key, value in now.items():
        before = earlier.get(key)
        if before != value and STRICT.get(key) != before:
            raise OutputConflict(f"{path} was started with another {key} ({_short(before)}, now {_short(value)})")


def resume(corpus: Corpus, out: JournaledOutput, method: dict[str, Any]) -> AnnotateCounts:
    """Check that `out` was started from this corpus and method, skip its finished lines and return its counts."""
    entry = out.entry
    if entry is None:
        return AnnotateCounts()
    check_method(out.path, entry.method, method)
    corpus.skip(entry.lines)
    if corpus.lines < entry.lines or corpus.sha256 != entry.sha256:
        raise OutputConflict(
            f"{corpus.path} changed since {out.path} was started: its first {entry.lines} lines are different"
        )
    if out.complete and not corpus.at_end():
        raise OutputConflict(f"{corpus.path} has grown since {out.path} was written")
    return AnnotateCounts(**{**entry.counts, "resumed": entry.lines})


def scored_by(out: JournaledOutput, scorer: "Scorer") -> tuple[str, ...]:
    """Return where the output's scores are computed, in this run and earlier ones, and log a warning of a change."""
    earlier = out.entry.scored_by if out.entry else ()
    return joined_places(out.path, earlier, place_of(scorer))


def place_of(scorer: "Scorer") -> str:
    """Return where a scorer computes: `server`, `job`, or `process` for one of this process."""
    return getattr(scorer, "place", "process")


def joined_places(path: Path, earlier: tuple[str, ...], place: str) -> tuple[str, ...]:
    """Return the earlier places and this one; a change is logged, because equal bytes are not promised across it."""
    if earlier and place not in earlier:
        log.warning(
            "%s was started with scores of a %s and goes on with those of a %s: the last digits may differ, and a "
            "label where the score is that close to the middle of two values; see docs/serving.md#scores",
            path,
            " and a ".join(earlier),
            place,
        )
    return earlier if place in earlier else (*earlier, place)


def label_block(
    block: CorpusBlock, path: Path, scorer: "Scorer", options: AnnotateSettings, counts: AnnotateCounts
) -> str:
    """Score a block, write the labels into its conversations, add to `counts` and return the block's output.

    The batches depend on the block alone, so the output does not depend on the process or the order of labeling.
    """
    texts = list(dict.fromkeys(turn.text for turn in block.turns))  # equal texts are scored once
    scores: dict[str, Sequence[float]] = dict(zip(texts, scorer.score(texts, "skip").tolist(), strict=True))
    over_long = [text for text in texts if math.isnan(scores[text][0])]
    if over_long and options.over_long == "keep_end":
        scores.update(zip(over_long, scorer.score(over_long, "keep_end").tolist(), strict=True))
    too_long = frozenset(over_long)
    for scored in block.turns:
        if scored.text in too_long:
            if options.over_long == "error":
                raise RecordError(
                    path,
                    scored.line,
                    f"turn {scored.turn} with its history is longer than the model's window, {scorer.window} tokens; "
                    "choose --over-long keep_end or skip",
                )
            counts.over_long += 1
            if options.over_long == "skip":
                counts.skipped += 1
                continue
        turns = block.conversations[scored.conversation].conversations
        turns[scored.turn] = with_predicted_label(turns[scored.turn], scores[scored.text], scorer.schema)
        counts.turns += 1
    counts.lines = block.lines
    counts.conversations += len(block.conversations)
    counts.unscored += len(block.conversations) - len({turn.conversation for turn in block.turns})
    counts.rejected += len(block.rejects)
    return "".join(f"{conversation.to_json()}\n" for conversation in block.conversations)


def with_predicted_label(turn: Turn, scores: Sequence[float], schema: AttributeSchema) -> Turn:
    """Return the turn with its predicted label. The old label is kept unless it was predicted too (has `scores`)."""
    update: dict[str, Any] = {"label": schema.format(schema.round(scores))}
    extra = turn.model_extra or {}
    if turn.label and "scores" not in extra and "gt_label" not in extra:
        update["gt_label"] = turn.label
    raw = dict(zip(schema.names, scores, strict=True))
    update["scores"] = {name: round(raw[name], DIGITS) for name in schema.active}
    return turn.model_copy(update=update)


def journal_entry(
    lines: int, sha256: str, method: dict[str, Any], counts: AnnotateCounts, places: tuple[str, ...]
) -> JournalEntry:
    """Return the journal entry after `lines` input lines; the output's size is filled in when it is on the disk."""
    totals = dataclasses.asdict(counts)
    del totals["resumed"]
    return JournalEntry(lines=lines, sha256=sha256, size=0, method=method, counts=totals, scored_by=places)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
