# SPDX-License-Identifier: Apache-2.0
"""The worker on real process groups: bytes that do not depend on the replicas, blocks done once, errors in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from steerlm.annotation.annotate import annotate
from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.job import AnnotationTask, planned_outputs, torchrun_command
from steerlm.annotation.spec import AnnotateSpec
from steerlm.annotation.worker import run
from steerlm.errors import ConfigError
from steerlm.inference.scorer import TransformersScorer
from steerlm.jobs.config import JobSettings
from steerlm.jobs.entry import read_spec
from steerlm.jobs.parts import Parts
from steerlm.training.layout import LayoutSettings
from tests.annotation.test_annotate import lines
from tests.inference.conftest import conversation, make_reward, write
from tests.inference.conftest import tokenizer as tokenizer
from tests.megatron.forked import one, ranks

OPTIONS = AnnotateSettings(look_ahead=8, batch_tokens=300, over_long="keep_end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A reward model, and two corpora that it labels."""
    folder = tmp_path_factory.mktemp("worker")
    make_reward(folder / "reward", tokenizer, scale=2)
    write(folder / "train.jsonl", [conversation(n, turns=1 + n % 2) for n in range(40)])
    write(folder / "val.jsonl", [conversation(n) for n in range(50, 60)])
    return folder


def work(folder: Path, output: Path, **layout: Any) -> AnnotationTask:
    files = [(folder / f"{split}.jsonl", output / f"{split}.jsonl") for split in ("train", "val")]
    # One thread: those that this process has used do not exist in the processes forked from it.
    return AnnotationTask(files, folder / "reward", OPTIONS, LayoutSettings(threads=1, **layout))


def labeled(folder: Path, output: Path, **layout: Any) -> dict[str, bytes]:
    job = work(folder, output, **layout)
    with planned_outputs(job) as passes:
        if any(one.missing for one in passes):
            ranks(job.layout.processes, run, job.spec(passes))
        for one_pass in passes:
            one_pass.merge()
    return {path.name: path.read_bytes() for _, path in job.files}


def _in_one_process(folder: Path, output: Path) -> None:
    scorer = TransformersScorer(folder / "reward")
    for split in ("train", "val"):
        annotate(folder / f"{split}.jsonl", output / f"{split}.jsonl", scorer, OPTIONS)


def test_bytes_do_not_depend_on_the_number_of_replicas(folder: Path, tmp_path: Path) -> None:
    one(_in_one_process, folder, tmp_path / "transformers")
    reference = {split: lines(tmp_path / "transformers" / f"{split}.jsonl") for split in ("train", "val")}
    alike: dict[str, list[dict[str, Any]]] = {
        "tp1": [{}, {"devices": 2}, {"devices": 3}],
        "tp2 sp": [{"tensor": 2, "devices": n, "sequence_parallel": True} for n in (2, 4)],
        "pp2": [{"pipeline": 2, "devices": 2}],
    }
    for name, layouts in alike.items():
        made = [labeled(folder, tmp_path / f"{name} {n}", **layout) for n, layout in enumerate(layouts)]
        assert all(files == made[0] for files in made)
        for split, wanted in reference.items():
            for line, then in zip(made[0][f"{split}.jsonl"].splitlines(), wanted, strict=True):
                assert _rounded(json.loads(line), then) == then, name


def _rounded(record: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The record with the scores of `like` where they are within 3e-6, relative to a score above 1.

    That is 2e-6, and half a last decimal on either side.
    """
    for turn, other in zip(record["conversations"], like["conversations"], strict=True):
        for name, score in other.get("scores", {}).items():
            if abs(turn["scores"][name] - score) <= 3e-6 * max(1, abs(score)):
                turn["scores"][name] = score
    return record


def test_blocks_that_are_done_are_left_alone(folder: Path, tmp_path: Path) -> None:
    whole = labeled(folder, tmp_path / "whole", devices=2)
    job = work(folder, tmp_path / "half", devices=2)
    with planned_outputs(job) as passes:
        ranks(2, run, job.spec(passes))
        kept = sorted(passes[0].folder.glob("*.part"))
        for path in kept[1::2]:
            path.unlink()
        stamps = {path: path.stat().st_mtime_ns for path in kept[::2]}
    again = work(folder, tmp_path / "half", devices=3)
    with planned_outputs(again) as passes:
        assert len(passes[0].missing) == len(kept) // 2 and passes[1].missing == []
        ranks(3, run, again.spec(passes))
        assert {path: path.stat().st_mtime_ns for path in kept[::2]} == stamps
    assert labeled(folder, tmp_path / "half") == whole


def test_an_output_that_is_complete_is_no_part_of_the_job(folder: Path, tmp_path: Path) -> None:
    whole = labeled(folder, tmp_path / "whole")
    job = work(folder, tmp_path / "out", devices=2)
    first = AnnotationTask(job.files[:1], job.model, job.options, job.layout)
    with planned_outputs(first) as passes:
        ranks(2, run, first.spec(passes))
        passes[0].merge()
    with planned_outputs(job) as passes:
        before = job.spec(passes)
        assert [one.complete for one in passes] == [True, False] and len(before.files) == 1
        ranks(2, run, before)
        assert not passes[1].missing and job.spec(passes) == before, "a launcher finds the job that is running"
    assert labeled(folder, tmp_path / "out", devices=2) == whole


def test_only_one_process_of_a_replica_writes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "written"
    write_part = Parts.write

    def count(self: Parts, start: int, *rest: Any) -> None:
        with written.open("a") as file:
            file.write(f"{self.folder.name} {start}\n")
        write_part(self, start, *rest)

    monkeypatch.setattr(Parts, "write", count)
    labeled(folder, tmp_path / "out", devices=4, tensor=2)
    names = written.read_text().splitlines()
    assert len(names) == len(set(names)) > 8


def test_a_spec_is_checked_and_its_command_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.json: no such file"):
        read_spec(tmp_path / "no.json", AnnotateSpec)
    (tmp_path / "spec.json").write_text('{"model_folder": "x", "precision": "fp32", "options": {}, "files": []}')
    with pytest.raises(ConfigError, match=r"spec\.json: files: "):
        read_spec(tmp_path / "spec.json", AnnotateSpec)
    command = torchrun_command(work(folder, tmp_path, nodes=4, devices=8, tensor=8), Path("spec.json"), JobSettings())
    assert command.startswith("torchrun --nnodes 4 --node-rank RANK --master-addr FIRST_NODE")
    assert command.endswith("-m steerlm.annotation.worker spec.json")
