# SPDX-License-Identifier: Apache-2.0
"""Annotation by several processes writes the bytes of one process, for any number of them and after kills."""

import gzip
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.annotation.annotate import AnnotateCounts, annotate, output_method
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.corpus import BlockRange, Corpus
from steerlm.annotation.parallel import ParallelAnnotation, annotate_in_process, label_part, parts_folder, read_plan
from steerlm.errors import InputError, RecordError, SteerLMError
from steerlm.jobs.parts import Parts
from tests.annotation.table_scorer import TableScorer
from tests.annotation.test_annotate import Stopped, stop_after
from tests.inference.conftest import conversation, write

SETTINGS = AnnotateSettings(look_ahead=8)


def label(
    source: Path, folder: Path, missing: list[BlockRange], options: AnnotateSettings, scorer: TableScorer
) -> None:
    """Label one worker's share, like `steerlm.annotation.worker`."""
    with Corpus(source, options) as corpus:
        for block in missing:
            label_part(corpus, block, scorer, options, Parts(folder))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [conversation(n, turns=1 + n % 3) for n in range(60)])


def opened(
    source: Path, output: Path, options: AnnotateSettings = SETTINGS, scorer: TableScorer | None = None, **more: Any
) -> ParallelAnnotation:
    scorer = scorer or TableScorer()
    method = output_method(scorer.identity, scorer.schema, options)
    return ParallelAnnotation(source, output, method, options, **more)


def annotate_by(
    workers: int,
    source: Path,
    output: Path,
    options: AnnotateSettings = SETTINGS,
    scorer: TableScorer | None = None,
) -> AnnotateCounts:
    with opened(source, output, options, scorer) as annotation:
        missing = annotation.missing
        for rank in reversed(range(workers)):  # the last one first: each sees the parts of those before it
            label(source, annotation.folder, missing[rank::workers], options, scorer or TableScorer())
        return annotation.merge()


def test_any_number_of_workers_writes_the_bytes_of_one_process(source: Path, tmp_path: Path) -> None:
    alone = annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.jsonl"
        assert annotate_by(workers, source, out) == alone
        for name in ("{}.jsonl", ".{}.jsonl.annotated"):
            made, wanted = (tmp_path / name.format(one) for one in (workers, "alone"))
            assert made.read_bytes() == wanted.read_bytes()
        assert not parts_folder(out).exists()
        assert annotate_by(workers, source, out).nothing_to_do
        assert annotate(source, out, TableScorer(), SETTINGS).nothing_to_do, "the record is one process's"


def test_bad_lines_and_over_long_texts_are_as_in_one_process(source: Path, tmp_path: Path) -> None:
    rows = source.read_bytes().splitlines(keepends=True)
    rows[7:7] = [b"{broken\n", b"\n", b"\xff\xfe\n"]
    rows[40:40] = [b"[]\n"]
    source.write_bytes(b"".join(rows))
    options = SETTINGS.model_copy(update={"on_error": "skip", "over_long": "skip"})
    alone = annotate(source, tmp_path / "alone.jsonl", TableScorer(window=60), options)
    assert alone.over_long > 0 and alone.rejected == 3
    assert annotate_by(3, source, tmp_path / "out.jsonl", options, TableScorer(window=60)) == alone
    for end in ("", ".rejects"):
        made, wanted = (tmp_path / f"{name}.jsonl{end}" for name in ("out", "alone"))
        assert made.read_bytes() == wanted.read_bytes()
    rejected = [json.loads(line)["line"] for line in (tmp_path / "out.jsonl.rejects").read_text().splitlines()]
    assert rejected == [8, 10, 41]

    with pytest.raises(RecordError, match=r"in\.jsonl:8: "):  # before any worker is started
        opened(source, tmp_path / "strict.jsonl")
    strict = options.model_copy(update={"over_long": "error"})
    with pytest.raises(RecordError, match=r"in\.jsonl:\d+: turn \d with its history is longer"):
        annotate_by(2, source, tmp_path / "strict.jsonl", strict, TableScorer(window=60))
    # Parts labeled before the error are used under a milder setting.
    assert annotate_by(2, source, tmp_path / "strict.jsonl", options, TableScorer(window=60)) == alone
    kept = options.model_copy(update={"over_long": "keep_end"})
    whole = annotate(source, tmp_path / "kept-alone.jsonl", TableScorer(window=60), kept)
    assert annotate_by(2, source, tmp_path / "kept.jsonl", kept, TableScorer(window=60)) == whole
    assert (tmp_path / "kept.jsonl").read_bytes() == (tmp_path / "kept-alone.jsonl").read_bytes()


def test_a_compressed_corpus_is_read_from_the_middle_too(source: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "in.jsonl.gz"
    compressed.write_bytes(gzip.compress(source.read_bytes()))
    annotate_by(2, compressed, tmp_path / "compressed.jsonl")
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    assert (tmp_path / "compressed.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_a_job_resumes_one_process_and_the_other_way_round(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    wanted, out = (tmp_path / "alone.jsonl").read_bytes(), tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        annotate(source, out, TableScorer(), SETTINGS, stop_after(16))
    scorer = TableScorer()
    with opened(source, out) as annotation:
        assert annotation.blocks[0].first >= 16
        label(source, annotation.folder, annotation.missing[::2], SETTINGS, scorer)
    calls = len(scorer.calls)
    assert annotate_in_process(source, out, scorer, SETTINGS).resumed >= 16
    assert len(scorer.calls) > calls and out.read_bytes() == wanted
    scored = sum(len(call) for call in scorer.calls)
    assert scored < 120 - 16, "neither the blocks of the first nor those of the second process were scored again"
    out.unlink()
    assert annotate_in_process(source, out, scorer, SETTINGS).resumed == 0
    assert out.read_bytes() == wanted


def test_resuming_needs_the_same_model_settings_and_input(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with opened(source, out) as annotation:
        label(source, annotation.folder, annotation.missing[::2], SETTINGS, TableScorer())
        with pytest.raises(InputError, match="being written by another process"):
            opened(source, out)
    with pytest.raises(InputError, match=r"started with another model \(table, now other\)"):
        opened(source, out, scorer=TableScorer(identity="other"))
    with pytest.raises(InputError, match=r"started with another look_ahead \(8, now 16\)"):
        opened(source, out, AnnotateSettings(look_ahead=16))
    rows = source.read_text().splitlines(keepends=True)
    source.write_text("".join([*rows[:-1], rows[0]]))
    with pytest.raises(InputError, match=r"in\.jsonl changed since"):
        opened(source, out)
    with opened(source, out, overwrite=True) as annotation:
        assert annotation.missing == annotation.blocks
    out.write_text("precious\n")
    with pytest.raises(InputError, match="not written by this command"):
        opened(source, out)


def test_a_worker_detects_that_the_corpus_changes(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out.jsonl") as annotation:
        source.write_bytes(source.read_bytes().replace(b"question 50", b"question 51", 1))
        with pytest.raises(InputError, match=r"in\.jsonl: lines \d+ to \d+ changed while"):
            label(source, annotation.folder, annotation.missing, SETTINGS, TableScorer())


def test_missing_and_damaged_parts_are_labeled_again(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    out = tmp_path / "out.jsonl"
    with opened(source, out) as annotation:
        label(source, annotation.folder, annotation.missing, SETTINGS, TableScorer())
        assert annotation.missing == []
        first, second, *_ = sorted(annotation.folder.glob("*.part"))
        second.unlink()
        with pytest.raises(SteerLMError, match=r"lines \d+ to \d+ are not labeled"):
            annotation.merge()
        first.write_bytes(first.read_bytes()[:-3])
    with opened(source, out) as annotation:  # the first was merged before the missing second
        assert [block.first for block in annotation.missing] == [int(second.stem)]
        third = sorted(annotation.folder.glob("*.part"))[-1]
        third.write_bytes(third.read_bytes()[:-3])
    with opened(source, out) as annotation:
        assert [block.first for block in annotation.missing] == [int(second.stem), int(third.stem)]
        label(source, annotation.folder, annotation.missing, SETTINGS, TableScorer())
        annotation.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def label_until_killed(source: Path, folder: Path, missing: list[BlockRange], *args: Any) -> None:
    """Label a worker's share except its last block, so that it cannot end before it is killed."""
    label(source, folder, missing[:-1], *args)
    time.sleep(60)


def workers(count: int, killed: int, source: Path, annotation: ParallelAnnotation) -> list[Any]:
    """Start processes that label slowly, the first `killed` of them until they are killed.

    They are forked: nothing here uses torch, whose threads a fork would lose.
    """
    context, missing = multiprocessing.get_context("fork"), annotation.missing
    slow = TableScorer(pause=0.005)
    running = [
        context.Process(
            target=label_until_killed if rank < killed else label,
            args=(source, annotation.folder, missing[rank::count], SETTINGS, slow),
        )
        for rank in range(count)
    ]
    for process in running:
        process.start()
    return running


def test_sigkill_of_all_or_of_one_then_another_number_of_workers(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [conversation(n, turns=1 + n % 3) for n in range(400)])
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    out, dice = tmp_path / "out.jsonl", random.Random(5)
    stamps: dict[str, int] = {}
    for number, (count, killed) in enumerate([(2, 2), (3, 1), (1, 1), (3, 3), (2, 0)]):
        with opened(source, out) as annotation:
            before = len(annotation.missing)
            running = workers(count, killed, source, annotation)
            while killed and len(annotation.missing) > before - 3:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.02))
            for process in running[:killed]:
                process.kill()
            for process in running:
                process.join()
            ends = [process.exitcode for process in running]
            assert ends == [-signal.SIGKILL] * killed + [0] * (count - killed), f"round {number}"
            now = {path.name: path.stat().st_mtime_ns for path in annotation.folder.glob("*.part")}
            assert stamps.items() <= now.items(), "parts are written once"
            stamps = now
            assert bool(annotation.missing) == bool(killed)
    with opened(source, out) as annotation:
        assert len(read_plan(annotation.folder).blocks) == len(stamps)
        annotation.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_an_interrupted_merge_resumes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    out = tmp_path / "out.jsonl"
    for stop in range(0, 9, 3):
        with opened(source, out) as annotation:
            label(source, annotation.folder, annotation.missing, SETTINGS, TableScorer())
            commit, left = annotation._out.commit, [stop]

            def cut(text: str, entry: Any, commit: Any = commit, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                commit(text, entry)

            monkeypatch.setattr(annotation._out, "commit", cut)
            with pytest.raises(KeyboardInterrupt):
                annotation.merge()
    with opened(source, out) as annotation:
        assert annotation.missing == []
        annotation.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_an_empty_corpus_needs_no_worker(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    with opened(tmp_path / "in.jsonl", tmp_path / "out.jsonl") as annotation:
        assert annotation.missing == []
        assert annotation.merge() == AnnotateCounts()
    assert (tmp_path / "out.jsonl").read_text() == ""
