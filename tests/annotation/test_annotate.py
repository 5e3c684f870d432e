# SPDX-License-Identifier: Apache-2.0
"""The content of annotated lines, and that interruptions leave no trace in the output."""

import codecs
import errno
import fcntl
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlm.annotation.annotate import AnnotateCounts, annotate, with_predicted_label
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.journal import JournaledOutput
from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, RecordError
from steerlm.inference.scorer import TransformersScorer
from steerlm.prompt import render_readout
from steerlm.records import Conversation, Turn
from tests.annotation.table_scorer import TableScorer
from tests.conftest import ROOT
from tests.inference.conftest import conversation, write

SMALL = AnnotateSettings(look_ahead=8)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [conversation(n, turns=1 + n % 3) for n in range(60)])


@pytest.mark.parametrize(
    ("score", "label"), [(-0.7, 0), (0.5, 0), (1.5, 2), (2.5, 2), (2.51, 3), (3.5, 4), (4.9, 4), (0.0, 0)]
)
def test_labels_are_clamped_and_rounded_half_to_even(score: float, label: int) -> None:
    turn = with_predicted_label(Turn(value="x", speaker="Assistant"), [score], AttributeSchema(names=("quality",)))
    assert turn.label == f"quality:{label}"
    assert json.loads(turn.to_json()) == {
        "value": "x",
        "from": "Assistant",
        "label": f"quality:{label}",
        "scores": {"quality": score},
    }


def test_only_trained_attributes_are_written_and_the_human_label_is_kept(source: Path, tmp_path: Path) -> None:
    scorer = TableScorer()
    counts = annotate(source, tmp_path / "out.jsonl", scorer, SMALL)
    before, after = lines(source), lines(tmp_path / "out.jsonl")
    assert counts == AnnotateCounts(lines=60, conversations=60, turns=120)
    for old, new in zip(before, after, strict=True):
        original = Conversation.model_validate(old)
        for k, (was, now) in enumerate(zip(old["conversations"], new["conversations"], strict=True)):
            if was["from"] == "User":
                assert now == was
                continue
            raw = scorer.score([render_readout(original, k)])[0]
            assert list(now["scores"]) == ["wit", "noise"]
            assert now["scores"] == {"wit": round(float(raw[0]), 6), "noise": round(float(raw[2]), 6)}
            rounded = {n: round(min(max(now["scores"][n], 0), 9)) for n in ("wit", "noise")}
            assert now["label"] == f"wit:{rounded['wit']},noise:{rounded['noise']}"
            assert now.get("gt_label") == was.get("label")


def test_annotating_again_keeps_the_human_label(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "a.jsonl", TableScorer(), SMALL)
    annotate(tmp_path / "a.jsonl", tmp_path / "b.jsonl", TableScorer(identity="other"), SMALL)
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_unknown_keys_pass_and_absent_ones_stay_absent(tmp_path: Path) -> None:
    turns = [{"value": "a", "from": "Assistant"}, {"value": "b", "from": "User"}]
    record = {"conversations": turns, "system": "", "mask": "User", "dataset": "x"}
    (tmp_path / "in.jsonl").write_text(json.dumps(record))  # and no newline at the end
    annotate(tmp_path / "in.jsonl", tmp_path / "out.jsonl", TableScorer())
    (out,) = lines(tmp_path / "out.jsonl")
    assert "type" not in out
    assert out["dataset"] == "x"
    assert list(out["conversations"][0]) == ["value", "from", "label", "scores"]


def test_a_byte_order_mark_is_not_part_of_the_text(source: Path, tmp_path: Path) -> None:
    annotate(source, tmp_path / "out.jsonl", TableScorer())
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(codecs.BOM_UTF8 + source.read_bytes() + codecs.BOM_UTF8)
    counts = annotate(marked, tmp_path / "marked-out.jsonl", TableScorer(), AnnotateSettings(on_error="skip"))
    assert counts.rejected == 0
    assert (tmp_path / "marked-out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize("speakers", [("user", "assistant"), ("human", "gpt"), ("System", "User", "Assistant")])
def test_turns_whose_role_would_be_a_guess_are_refused(tmp_path: Path, speakers: tuple[str, ...]) -> None:
    record = {"conversations": [{"from": name, "value": "x"} for name in speakers]}
    (tmp_path / "in.jsonl").write_text(json.dumps(record))
    message = rf"in\.jsonl:1: conversations\.0\.from is '{speakers[0]}', expected User or Assistant"
    with pytest.raises(RecordError, match=message):
        annotate(tmp_path / "in.jsonl", tmp_path / "out.jsonl", TableScorer())
    counts = annotate(tmp_path / "in.jsonl", tmp_path / "out.jsonl", TableScorer(), AnnotateSettings(on_error="skip"))
    assert (counts.turns, counts.rejected) == (0, 1)


def test_only_labeled_turns_as_upstream(source: Path, tmp_path: Path) -> None:
    counts = annotate(source, tmp_path / "out.jsonl", TableScorer(), AnnotateSettings(turns="labeled"))
    after = lines(tmp_path / "out.jsonl")
    assert counts.turns == sum(1 + n % 3 for n in range(0, 60, 3))
    assert counts.unscored == 40
    assert "label" not in after[1]["conversations"][1]
    assert after[1] == lines(source)[1]


def test_equal_texts_are_scored_once_and_repeated_lines_stay(tmp_path: Path) -> None:
    scorer = TableScorer()
    source = write(tmp_path / "in.jsonl", [conversation(n // 4) for n in range(20)])
    annotate(source, tmp_path / "out.jsonl", scorer, AnnotateSettings(look_ahead=8))
    assert [len(call) for call in scorer.calls] == [2, 2, 1]
    assert len(lines(tmp_path / "out.jsonl")) == 20


def test_the_records_system_prompt_is_used_with_use_system(tmp_path: Path) -> None:
    record = conversation(1).model_copy(update={"system": "Be terse."})
    source = write(tmp_path / "in.jsonl", [record])
    for use, word in ((False, "A chat between"), (True, "Be terse.")):
        scorer = TableScorer()
        annotate(source, tmp_path / f"{use}.jsonl", scorer, AnnotateSettings(use_system=use))
        assert scorer.calls[0][0].startswith(f"<extra_id_0>System\n{word}")


def test_over_long_turns_follow_the_setting(source: Path, tmp_path: Path) -> None:
    before = lines(source)
    with pytest.raises(RecordError, match=r"in\.jsonl:\d+: turn \d with its history is longer than .* 60 tokens"):
        annotate(source, tmp_path / "a.jsonl", TableScorer(window=60), SMALL)
    # Nothing over-long was skipped yet, so the same output may resume with a milder setting.
    skipped = annotate(
        source, tmp_path / "a.jsonl", TableScorer(window=60), SMALL.model_copy(update={"over_long": "skip"})
    )
    kept = annotate(
        source, tmp_path / "b.jsonl", TableScorer(window=60), SMALL.model_copy(update={"over_long": "keep_end"})
    )
    assert skipped.over_long == kept.over_long > 0
    assert skipped.turns == kept.turns - kept.over_long
    untouched = 0
    for old, new in zip(before, lines(tmp_path / "a.jsonl"), strict=True):
        untouched += sum(
            a == b for a, b in zip(old["conversations"], new["conversations"], strict=True) if a["from"] != "User"
        )
    assert untouched == skipped.over_long
    with pytest.raises(InputError, match="another over_long"):
        annotate(source, tmp_path / "a.jsonl", TableScorer(window=60), SMALL)


def test_bad_lines_stop_or_are_rejected(source: Path, tmp_path: Path) -> None:
    rows = source.read_bytes().splitlines(keepends=True)
    rows[7:7] = [b"{broken\n", b"\n", b"\xff\xfe\n"]
    rows.append(b'{"conversations": [{"value": "<extra_id_2>quality:4", "from": "Assistant"}]}\n')
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"".join(rows))
    with pytest.raises(RecordError, match=r"bad\.jsonl:8: "):
        annotate(bad, tmp_path / "out.jsonl", TableScorer(), AnnotateSettings(look_ahead=4))
    assert not (tmp_path / "out.jsonl").exists()
    counts = annotate(bad, tmp_path / "out.jsonl", TableScorer(), AnnotateSettings(look_ahead=4, on_error="skip"))
    assert (counts.rejected, counts.conversations, counts.resumed) == (3, 60, 6)
    rejects = lines(tmp_path / "out.jsonl.rejects")
    assert [r["line"] for r in rejects] == [8, 10, 64]
    assert rejects[0]["text"] == "{broken"
    assert "UTF-8" in rejects[1]["reason"]
    assert "<extra_id_2>" in rejects[2]["reason"]
    annotate(source, tmp_path / "clean.jsonl", TableScorer())
    assert (tmp_path / "clean.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_gzip_input_gives_the_same_output(source: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "in.jsonl.gz"
    compressed.write_bytes(gzip.compress(source.read_bytes()))
    annotate(source, tmp_path / "a.jsonl", TableScorer(), SMALL)
    annotate(compressed, tmp_path / "b.jsonl", TableScorer(), SMALL)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    compressed.write_bytes(compressed.read_bytes()[:-200])
    with pytest.raises(RecordError, match=r"in\.jsonl\.gz:\d+: broken gzip file"):
        annotate(compressed, tmp_path / "c.jsonl", TableScorer(), SMALL)


def test_a_second_run_does_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first = annotate(source, out, TableScorer(), SMALL)
    stamp, scorer = out.stat().st_mtime_ns, TableScorer()
    again = annotate(source, out, scorer, SMALL)
    assert scorer.calls == []
    assert out.stat().st_mtime_ns == stamp
    assert again.nothing_to_do
    assert not first.nothing_to_do
    assert again.turns == first.turns
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("killed", ["before the name", "before the journal is removed"])
def test_a_kill_at_the_end_leaves_no_journal_either(
    killed: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    with monkeypatch.context() as stopped:

        def stop(output: JournaledOutput) -> None:
            if killed != "before the name":
                output._partial.replace(output.path)
            raise Stopped

        stopped.setattr(JournaledOutput, "settle", stop)
        with pytest.raises(Stopped):
            annotate(source, out, TableScorer(), SMALL)
    assert journal.stat().st_size > 0
    scorer = TableScorer()
    assert annotate(source, out, scorer, SMALL).nothing_to_do and scorer.calls == []
    assert out.exists() and not journal.exists()
    assert annotate(source, out, scorer, SMALL).nothing_to_do and scorer.calls == []


class Stopped(Exception):  # noqa: N818
    pass


def stop_after(lines: int) -> Callable[[AnnotateCounts], None]:
    def on_progress(counts: AnnotateCounts) -> None:
        if counts.lines >= lines:
            raise Stopped

    return on_progress


def start_and_stop(source: Path, out: Path) -> None:
    with pytest.raises(Stopped):
        annotate(source, out, TableScorer(), SMALL, stop_after(16))
    assert not out.exists()


def test_resuming_needs_the_same_model_settings_and_input(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    start_and_stop(source, out)
    with pytest.raises(InputError, match=r"started with another model \(table, now other\)"):
        annotate(source, out, TableScorer(identity="other"), SMALL)
    with pytest.raises(InputError, match="another turns"):
        annotate(source, out, TableScorer(), AnnotateSettings(look_ahead=8, turns="labeled"))
    changed = TableScorer()
    changed.schema = changed.schema.restricted(["wit"])
    with pytest.raises(InputError, match="another attributes"):
        annotate(source, out, changed, SMALL)
    rows = source.read_text().splitlines(keepends=True)
    source.write_text("".join([rows[1], rows[0], *rows[2:]]))
    with pytest.raises(InputError, match=r"in\.jsonl changed since"):
        annotate(source, out, TableScorer(), SMALL)
    source.write_text("".join(rows[:3]))
    with pytest.raises(InputError, match=r"in\.jsonl changed since"):
        annotate(source, out, TableScorer(), SMALL)
    source.write_text("".join(rows))
    assert annotate(source, out, TableScorer(), SMALL).resumed >= 16
    source.write_text("".join([*rows, rows[0]]))
    with pytest.raises(InputError, match="has grown"):
        annotate(source, out, TableScorer(), SMALL)
    assert annotate(source, out, TableScorer(), SMALL, overwrite=True).lines == 61


def test_a_foreign_or_changed_output_is_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    with pytest.raises(InputError, match="not written by this command"):
        annotate(source, out, TableScorer(), SMALL)
    assert out.read_text() == "precious\n"
    assert not (tmp_path / "out.jsonl.journal").exists()
    annotate(source, out, TableScorer(), SMALL, overwrite=True)
    out.write_text(out.read_text() + "{}\n")
    with pytest.raises(InputError, match="was changed after"):
        annotate(source, out, TableScorer(), SMALL)
    out.unlink()
    assert annotate(source, out, TableScorer(), SMALL).resumed == 0
    # --overwrite discards conflicting output only: after an interruption the same command resumes.
    assert annotate(source, out, TableScorer(), SMALL, overwrite=True).nothing_to_do


def test_output_truncated_at_any_byte_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # for speed: 600 runs, none of them killed
    source = write(tmp_path / "in.jsonl", [conversation(n) for n in range(6)])
    options = AnnotateSettings(look_ahead=2)
    annotate(source, tmp_path / "whole.jsonl", TableScorer(), options)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    out, partial, journal = (tmp_path / f"out.jsonl{end}" for end in ("", ".partial", ".journal"))
    with pytest.raises(Stopped):
        annotate(source, out, TableScorer(), options, stop_after(4))
    tail, entries = partial.read_bytes(), journal.read_bytes()
    assert whole.startswith(tail)
    last = tail.rindex(b"\n", 0, -1)
    cuts = [(cut, len(entries)) for cut in [*range(0, last, 17), *range(last, len(tail) + 1)]]
    cuts += [(len(tail), cut) for cut in range(0, len(entries), 13)]
    for data, entry in cuts:
        partial.write_bytes(tail[:data])
        journal.write_bytes(entries[:entry])
        annotate(source, out, TableScorer(), options)
        assert out.read_bytes() == whole
        out.unlink()
    partial.write_bytes(tail + b'{"conversations": [{"val')
    journal.write_bytes(entries)
    assert annotate(source, out, TableScorer(), options).resumed == 4
    assert out.read_bytes() == whole


def test_sigkill_loses_and_repeats_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [conversation(n, turns=1 + n % 3) for n in range(400)])
    annotate(source, tmp_path / "whole.jsonl", TableScorer(), SMALL)
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    dice, kills = random.Random(3), 0
    while not out.exists():
        size = partial.stat().st_size if partial.exists() else 0
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.annotation.table_scorer", str(source), str(out)], cwd=ROOT
        )
        while child.poll() is None and (partial.stat().st_size if partial.exists() else 0) <= size:
            time.sleep(0.001)
        if kills < 5:
            time.sleep(dice.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        assert child.wait() in (0, -signal.SIGKILL)
    assert kills >= 3
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()


def no_flock(*args: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.mark.parametrize("flock", [fcntl.flock, no_flock])
def test_two_writers_do_not_mix(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: Any) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    out = tmp_path / "out.jsonl"

    def second(counts: AnnotateCounts) -> None:
        with pytest.raises(InputError, match=r"being written by (another )?process"):
            annotate(source, out, TableScorer(), SMALL)

    annotate(source, out, TableScorer(), SMALL, second)
    assert not list(tmp_path.glob("*.owner"))


def test_a_real_model_labels_the_same_after_an_interruption(source: Path, tmp_path: Path, reward_folder: Path) -> None:
    options = AnnotateSettings(look_ahead=16, over_long="keep_end")
    scorer = TransformersScorer(reward_folder, batch_tokens=512)
    counts = annotate(source, tmp_path / "whole.jsonl", scorer, options)
    assert counts.over_long > 0
    with pytest.raises(Stopped):
        annotate(source, tmp_path / "out.jsonl", scorer, options, stop_after(24))
    assert annotate(source, tmp_path / "out.jsonl", scorer, options).resumed > 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    labels = {turn["label"] for row in lines(tmp_path / "out.jsonl") for turn in row["conversations"] if turn["label"]}
    assert len(labels) > 20
    assert all(label.startswith("helpfulness:") and "quality" not in label for label in labels)


def test_real_conversations_keep_all_they_had(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "steerlm" / "annotated_384.jsonl"
    counts = annotate(source, tmp_path / "out.jsonl", TableScorer())
    assert (counts.conversations, counts.unscored) == (384, 0)
    for old, new in zip(lines(source), lines(tmp_path / "out.jsonl"), strict=True):
        assert "type" not in new
        assert {key: old[key] for key in old if key != "conversations"} == {
            key: new[key] for key in new if key != "conversations"
        }
        for was, now in zip(old["conversations"], new["conversations"], strict=True):
            assert (was["value"], was["from"]) == (now["value"], now["from"])
            assert now.get("gt_label") == (was["label"] if was["from"] != "User" else None)
