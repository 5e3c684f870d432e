# SPDX-License-Identifier: Apache-2.0
"""Tokenizing in batches and in processes: the same bytes as one record at a time, the same first error, no torch."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.errors import RecordError, TrainingError
from steerlm.processes import start_time
from steerlm.training import tokenize
from steerlm.training.config import RewardSettings, SFTSettings, TextSettings
from steerlm.training.dataset import TokenDataset
from steerlm.training.engine import Objective
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.sft import SFTObjective
from steerlm.training.objectives.text import TextObjective
from steerlm.training.objectives.tokens import Draft
from tests.byte_tokenizer import byte_tokenizer
from tests.conftest import ROOT

SCHEMA = AttributeSchema(names=("quality", "humor"))
WORDS = ("ice", "snow", "Nebel", "été", "霧", " ", "  rain", "\n", "🌧", "hail,")

GOLDEN = {
    ("sft", "byte"): "59e28d9f00c04542",
    ("reward", "byte"): "5b1bf172abcaf540",
    ("text", "byte"): "ad2985a6511f6685",
    ("sft", "tok512"): "536d96eca99b9eaf",
    ("reward", "tok512"): "dd79be4a1e0910b5",
    ("text", "tok512"): "02b4310b1eb78c52",
}
"""sha256 of arrays and counts when each record was tokenized by a call of the transformers tokenizer."""


def lines(kind: str, count: int) -> list[dict[str, Any]]:
    draw = random.Random(kind)

    def text(most: int) -> str:
        return "".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    def conversation() -> dict[str, Any]:
        turns = []
        for _ in range(draw.randint(1, 4)):
            label = draw.choice([None, "quality:3", "quality:1,humor:0", "humor:2,quality:4"])
            turns += [{"from": "User", "value": text(8)}, {"from": "Assistant", "value": text(30), "label": label}]
        return {"conversations": turns, "mask": "User", "system": text(5)}

    if kind == "sft":
        return [conversation() for _ in range(count)]
    if kind == "reward":
        labels = [[float(draw.randint(0, 4)), draw.choice([MASKED, 1.0])] for _ in range(count)]
        return [{"text": f"{text(60)}<extra_id_2>", "label": label} for label in labels]
    return [{"text": text(60)} for _ in range(count)]


def make_objective(kind: str, tokenizer: Any) -> Objective:
    if kind == "sft":
        settings = SFTSettings(max_steps=1, window=280, over_long="keep_end")
        return SFTObjective(settings, tokenizer, SCHEMA)
    if kind == "reward":
        return RewardObjective(RewardSettings(max_steps=1, window=150, over_long="keep_end"), tokenizer, SCHEMA)
    return TextObjective(TextSettings(max_steps=1, window=40), tokenizer)


def digest(cache: Path, data: TokenDataset) -> str:
    total = hashlib.sha256(json.dumps(data.counts, sort_keys=True).encode())
    for path in sorted((cache / data.key[:16]).glob("*.bin")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(("kind", "name"), GOLDEN)
def test_batches_give_the_arrays_of_one_record_at_a_time(
    kind: str, name: str, jsonl: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "byte":
        tokenizer = byte_tokenizer()
    else:
        from steerlm.models.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(request.getfixturevalue("shared_data") / "stories260K")
    records = lines(kind, 200)
    files = [jsonl("a.jsonl", *records[:150]), jsonl("b.jsonl", *records[150:])]
    data = TokenDataset.build(files, make_objective(kind, tokenizer), tmp_path)
    assert digest(tmp_path, data) == GOLDEN[kind, name]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "CHUNK_BYTES", 3000)


@pytest.fixture
def parallel(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use processes for the smallest files."""
    monkeypatch.setattr(tokenize, "PARALLEL_BYTES", 0)


def test_chunks_make_no_difference(small_chunks: None, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    learn, file = make_objective("sft", byte_tokenizer()), jsonl("a.jsonl", *lines("sft", 200))
    assert len(list(tokenize.tokenize([file], learn, processes=1))) > 20
    data = TokenDataset.build([file], learn, tmp_path)
    assert digest(tmp_path, data) == GOLDEN["sft", "byte"]


def test_processes_make_no_difference(
    parallel: None, jsonl: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = jsonl("a.jsonl", *lines("sft", 200))
    data = TokenDataset.build([file], make_objective("sft", byte_tokenizer()), tmp_path, processes=2)
    assert digest(tmp_path, data) == GOLDEN["sft", "byte"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and "counted as type_absent" in warnings[0] and "labels_not_canonical" in warnings[1]


CUT: tuple[int, dict[str, Any], str] = (
    180,
    {"conversations": []},
    "conversations: a list of 1 or more items was expected",
)
REFUSED = (179, {**lines("sft", 1)[0], "mask": "Nobody"}, "no turn is from 'Nobody'")
SILENT = {"conversations": [{"from": "Assistant", "value": "a"}, {"from": "User", "value": "b"}]}
UNLEARNED = (178, SILENT, "no token of this conversation would be learned")
UNREADABLE = (100, b"\xff", "not UTF-8")


@pytest.mark.parametrize("bad", [[CUT], [CUT, REFUSED], [CUT, REFUSED, UNLEARNED], [CUT, UNREADABLE]])
def test_the_first_error_in_the_file_is_raised(
    bad: list[tuple[int, Any, str]], jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    file = spoiled(jsonl, bad)
    number, _, said = bad[-1]
    with pytest.raises(RecordError, match=rf"a\.jsonl:{number}: {said}") as caught:
        TokenDataset.build([file], make_objective("sft", byte_tokenizer()), tmp_path / "cache")
    assert caught.value.line == number


def test_the_first_error_in_the_file_is_raised_whichever_process_finds_one_first(
    parallel: None, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    file = spoiled(jsonl, [CUT, REFUSED])
    with pytest.raises(RecordError, match=r"a\.jsonl:179: no turn is from 'Nobody'") as caught:
        TokenDataset.build([file], make_objective("sft", byte_tokenizer()), tmp_path / "cache", processes=2)
    assert caught.value.line == 179
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def spoiled(jsonl: Callable[..., Path], bad: list[tuple[int, Any, str]]) -> Path:
    """A file of 200 conversations with bad lines."""
    file = jsonl("a.jsonl", *lines("sft", 200))
    content = file.read_bytes().split(b"\n")
    for number, line, _ in bad:
        content[number - 1] = line if isinstance(line, bytes) else json.dumps(line).encode()
    file.write_bytes(b"\n".join(content))
    return file


class Dies(TextObjective):
    def draft(self, record: Any) -> Draft:
        os._exit(1)


def test_a_process_that_is_killed_is_an_error(parallel: None, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    learn = Dies(TextSettings(max_steps=1), byte_tokenizer())
    with pytest.raises(TrainingError, match="a tokenizing process was killed"):
        TokenDataset.build([jsonl("a.jsonl", *lines("text", 100))], learn, tmp_path / "cache", processes=2)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


LAUNCHER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer, models
from steerlm.training import tokenize
from steerlm.training.config import TextSettings
from steerlm.training.objectives.text import TextObjective
from steerlm.training.objectives.tokens import Draft

if __name__ == "__main__":
    tokenize.PARALLEL_BYTES, tokenize.CHUNK_BYTES = 0, 1000
    words = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer = SimpleNamespace(backend_tokenizer=words, eos_token_id=0, split_special_tokens=False)
    objective = TextObjective(TextSettings(max_steps=1), tokenizer)
    for part in tokenize.tokenize([Path(sys.argv[1])], objective, processes=2):
        print("started", flush=True)
        time.sleep(60)
"""


def test_processes_end_when_their_launcher_is_killed(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    command = [sys.executable, str(tmp_path / "launcher.py"), str(jsonl("a.jsonl", *lines("text", 200)))]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert launcher.stdout and launcher.stdout.readline() == "started\n"
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(children) >= 2  # and the process that watches over shared memory
    launcher.kill()
    launcher.communicate()
    end = time.monotonic() + 10
    while left := [pid for pid in children if start_time(int(pid))]:
        assert time.monotonic() < end, f"processes {left} outlive the launcher"
        time.sleep(0.05)
