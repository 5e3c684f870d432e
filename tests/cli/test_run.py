# SPDX-License-Identifier: Apache-2.0
"""Bad input to `steerlm run` and `steerlm train`, and the display of a run."""

import io
from pathlib import Path
from typing import Any

import pytest

from steerlm.cli.main import call
from steerlm.cli.run import Display


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo"], "no recipe 'demoo' is shipped; did you mean 'demo'?"),
        (["run", "demo", "--set", "sft.lr=1"], "--set sft.lr: unknown key; did you mean 'sft.optimizer.lr'?"),
        (["run", "demo", "--stage", "train"], "unknown stage 'train'"),
        (["run", "demo", "--again", "train"], "unknown stage 'train'"),
        (
            ["run", "demo", "--again", "fetch_model"],
            "--again fetch_model: the step does not run: the recipe",
        ),
        (
            ["run", "demo", "--again", "train_sft", "--stage", "train_reward"],
            "--again train_sft: the step does not run: not asked for",
        ),
        (["run", "demo", "--profile", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["run", "demo", "--store", "s3:///x"], "s3://bucket/prefix was expected"),
        (
            ["run", "steerlm-llama2", "--store", "store", "--set", "profile.backend=local"],
            "reward: profile llama2-32x8 has 32 nodes x 8 processes, and its back end local allows at most 1 node;",
        ),
        (
            ["run", "consumer-gpu", "--set", "profile.layouts.sft={devices: 2, tensor: 2}"],
            "sft: num_attention_heads 15 does not divide by layout.tensor 2; possible for this model: 1",
        ),
        (
            ["run", "demo", "--set", "profile.layouts.annotate={nodes: 2}"],
            "annotate: profile two-processes has 2 nodes x 1 processes, and its back end local allows at most 1 node;",
        ),
        (
            ["run", "demo", "--set", "profile.layouts.evaluate={nodes: 2}"],
            "evaluate: profile two-processes has 2 nodes x 1 processes, and its back end local allows at most 1 node;",
        ),
        (
            ["run", "demo", "--set", "profile.layouts.annotate={devices: 3, tensor: 3}"],
            "annotate: num_attention_heads 4 does not divide by layout.tensor 3; possible for this model: 1, 2",
        ),
        (["run", "demo", "--set", "sft.global_batch=1"], "sft: global_batch 1 is less than the layout's 2"),
        (
            ["train", "reward", "demo", "--data", "gone.jsonl", "--model", "gone", "--output", "o"],
            "gone.jsonl: no such",
        ),
        (
            ["train", "sft", "demo", "--data", __file__, "--model", "gone", "--output", "o", "--write-spec", "s.json"],
            "gone/config.json: no such file; a Hugging Face model folder was expected",
        ),
        (["train", "text", "demo", "--data", "gone.jsonl", "--output", "o"], "give --model to start from"),
    ],
)
def test_bad_input_is_one_line_and_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def event(name: str, time: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"event": name, "label": "train_sft", "time": time} | fields


EVENTS = [
    {"event": "plan", "label": "", "time": 0.0, "steps": ["fetch_model", "train_sft", "report"]},
    event("outcome", label="fetch_model", status="hit", reason="made before", seconds=0.5),
    event("outcome", label="train_base", status="skipped", reason="the recipe has no such section", seconds=0.0),
    event("step"),
    event("start"),
    event("progress", 100.0, text="step 1/9 loss=2"),
    event("progress", 101.0, text="step 2/9 loss=1"),
    event("note", text="failed: a pod was deleted; starting attempt 2 of 3"),
    event("progress", 120.0, text="step 8/9 loss=0"),
    event("end"),
    event("outcome", status="run", reason="never run before, " * 9, seconds=12.34),
]


def show(live: bool) -> str:
    output = io.StringIO()
    display = Display(output, live=live)
    for one in EVENTS:
        display(one)
    return output.getvalue()


def test_a_file_gets_a_progress_line_now_and_then() -> None:
    assert show(live=False).splitlines() == [
        "[1/3] fetch_model        hit          0.5 s  made before",
        "      train_base         skipped             the recipe has no such section",
        "[2/3] train_sft  step 1/9  11 %  loss=2",
        "[2/3] train_sft  failed: a pod was deleted; starting attempt 2 of 3",
        "[2/3] train_sft  step 8/9  88 %  2.9 s each  0:03 left  loss=0",
        f"[2/3] train_sft          run         12.3 s  {'never run before, ' * 9}".rstrip(),
    ]


@pytest.mark.parametrize("columns", [30, 40, 80, 120])
def test_a_terminal_shows_the_running_step_in_place_and_no_line_is_too_long(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = show(live=True)
    assert shown.count("\n") == 4
    lines = [part for line in shown.split("\n") for part in line.replace("\x1b[K", "").split("\r")]
    note = "[2/3] train_sft  failed: a pod was deleted; starting attempt 2 of 3"
    lines.remove(note)  # it stays, whole, and a terminal may wrap it
    assert max(map(len, lines)) < columns
    positions = [line for line in lines if "step " in line]
    assert [line[: len("[2/3] train_sft  step 1/9")] for line in positions] == [
        f"[2/3] train_sft  step {n}/9" for n in (1, 2, 8)
    ]
    if columns == 80:
        assert positions[-1] == "[2/3] train_sft  step 8/9  88 %  2.9 s each  0:03 left  loss=0"
