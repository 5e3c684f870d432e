# SPDX-License-Identifier: Apache-2.0
"""Annotation by several processes: the bytes of one, whatever their number and whoever is killed."""

import gzip
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import InputError, RecordError, SteerLMError
from steerlm.inference.annotate import AnnotateCounts, annotate, output_method
from steerlm.inference.config import AnnotateSettings
from steerlm.inference.corpus import Corpus, Place
from steerlm.inference.parts import Parts
from steerlm.inference.striped import StripedAnnotation, annotate_in_process, label_part, parts_folder, read_plan
from tests.inference.conftest import conversation, write
from tests.inference.table_scorer import TableScorer
from tests.inference.test_annotate import Stopped, stop_after

SETTINGS = AnnotateSettings(look_ahead=8)


def label(source: Path, folder: Path, left: list[Place], options: AnnotateSettings, scorer: TableScorer) -> None:
    """One worker's share, as `steerlm.annotation.worker` takes it on."""
    with Corpus(source, options) as corpus:
        for place in left:
            label_part(corpus, place, scorer, options, Parts(folder))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [conversation(n, turns=1 + n % 3) for n in range(60)])


def opened(
    source: Path, output: Path, options: AnnotateSettings = SETTINGS, scorer: TableScorer | None = None, **more: Any
) -> StripedAnnotation:
    scorer = scorer or TableScorer()
    method = output_method(scorer.identity, scorer.schema, options)
    return StripedAnnotation(source, output, method, options, **more)


def by(
    workers: int,
    source: Path,
    output: Path,
    options: AnnotateSettings = SETTINGS,
    scorer: TableScorer | None = None,
) -> AnnotateCounts:
    with opened(source, output, options, scorer) as striped:
        left = striped.left
        for rank in reversed(range(workers)):  # the last one first: each sees what another has done meanwhile
            label(source, striped.folder, left[rank::workers], options, scorer or TableScorer())
        return striped.merge()


def test_any_number_of_workers_writes_the_bytes_of_one_process(source: Path, tmp_path: Path) -> None:
    alone = annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.jsonl"
        assert by(workers, source, out) == alone
        for end in ("", ".journal"):
            made, wanted = (tmp_path / f"{name}.jsonl{end}" for name in (workers, "alone"))
            assert made.read_bytes() == wanted.read_bytes()
        assert not parts_folder(out).exists()
        assert by(workers, source, out).nothing_to_do
        assert annotate(source, out, TableScorer(), SETTINGS).nothing_to_do, "the journal is one process's"


def test_bad_lines_and_over_long_texts_are_those_of_one_process(source: Path, tmp_path: Path) -> None:
    rows = source.read_bytes().splitlines(keepends=True)
    rows[7:7] = [b"{broken\n", b"\n", b"\xff\xfe\n"]
    rows[40:40] = [b"[]\n"]
    source.write_bytes(b"".join(rows))
    options = SETTINGS.model_copy(update={"on_error": "skip", "over_long": "skip"})
    alone = annotate(source, tmp_path / "alone.jsonl", TableScorer(window=60), options)
    assert alone.over_long > 0 and alone.rejected == 3
    assert by(3, source, tmp_path / "out.jsonl", options, TableScorer(window=60)) == alone
    for end in ("", ".rejects"):
        made, wanted = (tmp_path / f"{name}.jsonl{end}" for name in ("out", "alone"))
        assert made.read_bytes() == wanted.read_bytes()
    rejected = [json.loads(line)["line"] for line in (tmp_path / "out.jsonl.rejects").read_text().splitlines()]
    assert rejected == [8, 10, 41]

    with pytest.raises(RecordError, match=r"in\.jsonl:8: "):  # said before any worker is started
        opened(source, tmp_path / "strict.jsonl")
    strict = options.model_copy(update={"over_long": "error"})
    with pytest.raises(RecordError, match=r"in\.jsonl:\d+: turn \d with its history is longer"):
        by(2, source, tmp_path / "strict.jsonl", strict, TableScorer(window=60))
    # What was labelled before the error counts under a milder policy.
    assert by(2, source, tmp_path / "strict.jsonl", options, TableScorer(window=60)) == alone
    kept = options.model_copy(update={"over_long": "keep_end"})
    whole = annotate(source, tmp_path / "kept-alone.jsonl", TableScorer(window=60), kept)
    assert by(2, source, tmp_path / "kept.jsonl", kept, TableScorer(window=60)) == whole
    assert (tmp_path / "kept.jsonl").read_bytes() == (tmp_path / "kept-alone.jsonl").read_bytes()


def test_a_packed_corpus_is_read_from_the_middle_too(source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    by(2, packed, tmp_path / "packed.jsonl")
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    assert (tmp_path / "packed.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_it_goes_on_where_one_process_stopped_and_the_other_way_round(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    wanted, out = (tmp_path / "alone.jsonl").read_bytes(), tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        annotate(source, out, TableScorer(), SETTINGS, stop_after(16))
    scorer = TableScorer()
    with opened(source, out) as striped:
        assert striped.places[0].first >= 16
        label(source, striped.folder, striped.left[::2], SETTINGS, scorer)
    begun = len(scorer.calls)
    assert annotate_in_process(source, out, scorer, SETTINGS).resumed >= 16
    assert len(scorer.calls) > begun and out.read_bytes() == wanted
    scored = sum(len(call) for call in scorer.calls)
    assert scored < 120 - 16, "neither the blocks of the first nor those of the second process were scored again"
    out.unlink()
    assert annotate_in_process(source, out, scorer, SETTINGS).resumed == 0
    assert out.read_bytes() == wanted


def test_what_is_begun_goes_on_only_as_the_same_work(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with opened(source, out) as striped:
        label(source, striped.folder, striped.left[::2], SETTINGS, TableScorer())
        with pytest.raises(InputError, match="being written by another process"):
            opened(source, out)
    with pytest.raises(InputError, match=r"begun with another model \(table, now other\)"):
        opened(source, out, scorer=TableScorer(identity="other"))
    with pytest.raises(InputError, match=r"begun with another look_ahead \(8, now 16\)"):
        opened(source, out, AnnotateSettings(look_ahead=16))
    rows = source.read_text().splitlines(keepends=True)
    source.write_text("".join([*rows[:-1], rows[0]]))
    with pytest.raises(InputError, match=r"in\.jsonl changed since"):
        opened(source, out)
    with opened(source, out, overwrite=True) as striped:
        assert striped.left == striped.places
    out.write_text("precious\n")
    with pytest.raises(InputError, match="not made by this command"):
        opened(source, out)


def test_a_worker_notices_that_the_corpus_changes_under_it(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out.jsonl") as striped:
        source.write_bytes(source.read_bytes().replace(b"question 50", b"question 51", 1))
        with pytest.raises(InputError, match=r"in\.jsonl: lines \d+ to \d+ changed while"):
            label(source, striped.folder, striped.left, SETTINGS, TableScorer())


def test_missing_and_damaged_parts_are_made_again(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    out = tmp_path / "out.jsonl"
    with opened(source, out) as striped:
        label(source, striped.folder, striped.left, SETTINGS, TableScorer())
        assert striped.left == []
        first, second, *_ = sorted(striped.folder.glob("*.part"))
        second.unlink()
        with pytest.raises(SteerLMError, match=r"lines \d+ to \d+ were not labelled"):
            striped.merge()
        first.write_bytes(first.read_bytes()[:-3])
    with opened(source, out) as striped:  # the first was merged before the second was missed
        assert [place.first for place in striped.left] == [int(second.stem)]
        third = sorted(striped.folder.glob("*.part"))[-1]
        third.write_bytes(third.read_bytes()[:-3])
    with opened(source, out) as striped:
        assert [place.first for place in striped.left] == [int(second.stem), int(third.stem)]
        label(source, striped.folder, striped.left, SETTINGS, TableScorer())
        striped.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def label_until_killed(source: Path, folder: Path, left: list[Place], *args: Any) -> None:
    """A worker's share but for its last block, so that it cannot end before it is killed."""
    label(source, folder, left[:-1], *args)
    time.sleep(60)


def workers(count: int, killed: int, source: Path, striped: StripedAnnotation) -> list[Any]:
    """Processes that label slowly, the first `killed` of them until they are killed. Forked: nothing here uses torch,
    whose threads a fork would lose."""
    context, left = multiprocessing.get_context("fork"), striped.left
    slow = TableScorer(pause=0.005)
    running = [
        context.Process(
            target=label_until_killed if rank < killed else label,
            args=(source, striped.folder, left[rank::count], SETTINGS, slow),
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
        with opened(source, out) as striped:
            before = len(striped.left)
            running = workers(count, killed, source, striped)
            while killed and len(striped.left) > before - 3:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.02))
            for process in running[:killed]:
                process.kill()
            for process in running:
                process.join()
            ends = [process.exitcode for process in running]
            assert ends == [-signal.SIGKILL] * killed + [0] * (count - killed), f"round {number}"
            now = {path.name: path.stat().st_mtime_ns for path in striped.folder.glob("*.part")}
            assert stamps.items() <= now.items(), "what was done is done once"
            stamps = now
            assert bool(striped.left) == bool(killed)
    with opened(source, out) as striped:
        assert len(read_plan(striped.folder).places) == len(stamps)
        striped.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_merge_that_was_cut_short_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotate(source, tmp_path / "alone.jsonl", TableScorer(), SETTINGS)
    out = tmp_path / "out.jsonl"
    for stop in range(0, 9, 3):
        with opened(source, out) as striped:
            label(source, striped.folder, striped.left, SETTINGS, TableScorer())
            commit, left = striped._out.commit, [stop]

            def cut(text: str, mark: Any, commit: Any = commit, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                commit(text, mark)

            monkeypatch.setattr(striped._out, "commit", cut)
            with pytest.raises(KeyboardInterrupt):
                striped.merge()
    with opened(source, out) as striped:
        assert striped.left == []
        striped.merge()
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_an_empty_corpus_needs_no_worker(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    with opened(tmp_path / "in.jsonl", tmp_path / "out.jsonl") as striped:
        assert striped.left == []
        assert striped.merge() == AnnotateCounts()
    assert (tmp_path / "out.jsonl").read_text() == ""
