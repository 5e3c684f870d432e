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
            ["run", "steerlm-llama2", "--store", "store"],
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
    return {"event": name, "label": "train_sft", "time": time, **fields}


EVENTS = [
    event("step"),
    event("start"),
    event("progress", 100.0, text="step 1/9 loss=2"),
    event("progress", 101.0, text="step 2/9 loss=1"),
    event("progress", 120.0, text="step 8/9 loss=0"),
    event("end"),
    event("outcome", status="run", reason="never run before", seconds=12.34),
]


def show(live: bool) -> str:
    output = io.StringIO()
    display = Display(output, live=live)
    for one in EVENTS:
        display(one)
    return output.getvalue()


def test_a_file_gets_a_progress_line_now_and_then() -> None:
    assert show(live=False).splitlines() == [
        "train_sft          step 1/9 loss=2",
        "train_sft          step 8/9 loss=0",
        "train_sft          run         12.3 s  never run before",
    ]


def test_a_terminal_shows_the_running_step_in_place() -> None:
    shown = show(live=True)
    assert shown.count("\n") == 1
    parts = [part.removeprefix("\x1b[K") for part in shown.split("\r")[1:]]
    assert [part.split()[1] for part in parts] == ["runs", "step", "step", "step", "run"]
