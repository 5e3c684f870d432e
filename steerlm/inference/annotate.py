# SPDX-License-Identifier: Apache-2.0
"""Annotation: a reward model labels the answers of a corpus, and a killed run goes on where it was.

Per scored turn: `label` is the prediction (clamped, rounded half to even, trained attributes only), `gt_label` the
human label it replaces, `scores` the raw values. Output line i belongs to input line i; blank lines and, with
`on_error: skip`, bad ones have no output line (the rejects file tells their numbers). Behaviour spec 3.3 and 3.5.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import RecordError
from steerlm.inference.config import AnnotateSettings
from steerlm.inference.corpus import Block, Corpus
from steerlm.inference.journal import JournaledOutput, Mark, OutputConflict, discard
from steerlm.prompt import PROMPT_VERSION
from steerlm.records import Turn

if TYPE_CHECKING:
    from steerlm.inference.scorer import Scorer

DIGITS = 6
"""Decimals of `scores` in the output."""
STRICT = {"over_long": "error", "on_error": "stop"}
"""Settings under which nothing was let through yet: a run may go on under a milder one."""


@dataclass
class AnnotateCounts:
    """What was done, earlier runs of the same output included; `resumed`: the lines that those had done already.

    `turns` were labelled. `over_long`: of texts longer than the window, cut or left out. `unscored`: conversations
    without a turn to score, passed through.
    """

    lines: int = 0
    conversations: int = 0
    turns: int = 0
    over_long: int = 0
    unscored: int = 0
    rejected: int = 0
    resumed: int = 0

    @property
    def nothing_to_do(self) -> bool:
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

    Run again after any interruption, it goes on; run again after that, it does nothing. `on_progress` is called at
    the start and after each block. Raises `OutputConflict` if what is there was begun with another model, schema,
    setting or input (`overwrite` discards that), `RecordError` for a bad line or an over-long text that no policy
    covers.
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
        out.begin()
        if on_progress:
            on_progress(counts)
        for block in corpus.blocks():
            text = label_block(block, corpus.path, scorer, options, counts)
            mark = make_mark(block.lines, block.sha256, method, counts)
            out.commit(text, mark.model_copy(update={"rejects": block.rejects}))
            if on_progress:
                on_progress(counts)
        out.finish(make_mark(corpus.lines, corpus.sha256, method, counts))
    return counts


def output_method(identity: str, schema: AttributeSchema, options: AnnotateSettings) -> dict[str, Any]:
    """Everything besides the input that decides what the output says."""
    return {
        "model": identity,
        "attributes": schema.model_dump(mode="json"),
        "prompt_version": PROMPT_VERSION,
        **options.method(),
    }


def check_method(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `OutputConflict` naming what differs if the output at `path` was begun as other work."""
    for key, value in now.items():
        before = then.get(key)
        if before != value and STRICT.get(key) != before:
            raise OutputConflict(f"{path} was begun with another {key} ({_short(before)}, now {_short(value)})")


def resume(corpus: Corpus, out: JournaledOutput, method: dict[str, Any]) -> AnnotateCounts:
    """Read over what is done, having checked that it is the same work; its counts."""
    mark = out.mark
    if mark is None:
        return AnnotateCounts()
    check_method(out.path, mark.method, method)
    corpus.skip(mark.lines)
    if corpus.lines < mark.lines or corpus.sha256 != mark.sha256:
        raise OutputConflict(
            f"{corpus.path} changed since {out.path} was begun: its first {mark.lines} lines are other ones"
        )
    if out.complete and not corpus.at_end():
        raise OutputConflict(f"{corpus.path} has grown since {out.path} was made")
    return AnnotateCounts(**{**mark.counts, "resumed": mark.lines})


def label_block(block: Block, path: Path, scorer: "Scorer", options: AnnotateSettings, counts: AnnotateCounts) -> str:
    """Score a block, write the labels into its conversations, count; the block's output.

    What is scored together depends on the block alone: the output is the same whoever labels it, in whatever order.
    """
    texts = list(dict.fromkeys(request.text for request in block.requests))  # equal texts are scored once
    scores: dict[str, Sequence[float]] = dict(zip(texts, scorer.score(texts, "skip").tolist(), strict=True))
    over_long = [text for text in texts if math.isnan(scores[text][0])]
    if over_long and options.over_long == "keep_end":
        scores.update(zip(over_long, scorer.score(over_long, "keep_end").tolist(), strict=True))
    too_long = frozenset(over_long)
    for request in block.requests:
        if request.text in too_long:
            if options.over_long == "error":
                raise RecordError(
                    path,
                    request.line,
                    f"turn {request.turn} with its history is longer than the model's window, {scorer.window} tokens; "
                    "choose --over-long keep_end or skip",
                )
            counts.over_long += 1
            if options.over_long == "skip":
                continue
        turns = block.conversations[request.conversation].conversations
        turns[request.turn] = labelled(turns[request.turn], scores[request.text], scorer.schema)
        counts.turns += 1
    counts.lines = block.lines
    counts.conversations += len(block.conversations)
    counts.unscored += len(block.conversations) - len({request.conversation for request in block.requests})
    counts.rejected += len(block.rejects)
    return "".join(f"{conversation.to_json()}\n" for conversation in block.conversations)


def labelled(turn: Turn, scores: Sequence[float], schema: AttributeSchema) -> Turn:
    """The turn with its predicted label; a label that was itself predicted (`scores` tells) is not kept as human."""
    update: dict[str, Any] = {"label": schema.format(schema.round(scores))}
    extra = turn.model_extra or {}
    if turn.label and "scores" not in extra and "gt_label" not in extra:
        update["gt_label"] = turn.label
    raw = dict(zip(schema.names, scores, strict=True))
    update["scores"] = {name: round(raw[name], DIGITS) for name in schema.active}
    return turn.model_copy(update=update)


def make_mark(lines: int, sha256: str, method: dict[str, Any], counts: AnnotateCounts) -> Mark:
    totals = dataclasses.asdict(counts)
    del totals["resumed"]
    return Mark(lines=lines, sha256=sha256, size=0, method=method, counts=totals)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
