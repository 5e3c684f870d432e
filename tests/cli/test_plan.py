"""`steerlm plan`: figures for every shipped recipe, lengths of real data, refusals."""

import json
from pathlib import Path

import pytest

from steerlm.cli.main import call
from steerlm.recipe import shipped

GIB = 2**30


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_recipe_has_a_plan_that_fits_its_gpus(
    name: str, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model", f"base={shared_data / 'stories260K'}"] if name == "demo-real" else []
    assert call(["plan", name, *base, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned
    gpu = 24 if name == "consumer-gpu" else 80
    for one in planned.values():
        assert one["fits"] is (None if name.startswith("demo") else True)
        assert sum(one["memory"].values()) < 0.85 * gpu * GIB  # the rest: context, buffers, fragments
        assert one["real_token_share"] is None


def test_the_tutorials_layout_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "steerlm-llama2"]) == 0
    out = capsys.readouterr().out
    assert "sft: hf://meta-llama/Llama-2-70b-hf" in out
    assert "32 nodes x 8: tensor 8 x pipeline 2 x data 16; rows of at most 4,096 tokens" in out
    assert "68,976,648,192" in out
    assert "; fits, " in out and "800 steps, 4.19e+08 tokens" in out


def test_lengths_of_the_data_tell_the_real_token_share(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "sft.jsonl"
    data.write_bytes((shared_data / "steerlm" / "annotated_384.jsonl").read_bytes())
    model = shared_data / "stories260K"
    words = ["plan", "demo-real", "--model", f"base={model}", "--tokenizer", str(model), "--data", f"sft={data}"]
    names = (
        "attributes.names=[quality,toxicity,humor,creativity,helpfulness,correctness,coherence,complexity,verbosity]"
    )
    assert call([*words, "--set", names, "--set", "sft.global_batch=4", "--json"]) == 0
    sft = json.loads(capsys.readouterr().out)["sft"]
    assert 0.9 < sft["real_token_share"] <= 1
    assert 4 * 20 < sft["tokens_per_step"] < 4 * 512
    assert sft["steps"] == 10 // 4  # ten of the conversations fit the window


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--set", "profile.layouts.sft.tensor=3"], "2 processes do not divide by tensor x pipeline = 3"),
        (["demo", "--set", "profile.layouts.sft.virtual_pipeline=2"], "wrong gradients"),
        (["demo", "--set", "sft.global_batch=1"], "sft: global_batch 1 is less than the layout's 2 data-parallel"),
        (["demo", "--set", "sft.window=512"], "sft: window 512 is longer than the model's 256 positions"),
        (["demo", "--data", "sft=x.jsonl"], "give --tokenizer"),
        (["demo", "--data", "x.jsonl"], "expected base=PATH, reward=PATH or sft=PATH"),
        (["steerlm-llama2", "--set", "base.fetch.uri=hf://a/b"], "hf://a/b: its shape is not known here"),
        (
            ["steerlm-llama2", "--set", "base.fetch.uri=hf://meta-llama/Llama-3-8B"],
            "did you mean 'hf://meta-llama/Meta-Llama-3-8B'?",
        ),
        (["steerlm-llama2", "--set", "base.fetch.uri=models/gone"], "models/gone: no such model folder"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_what_does_not_fit_is_shown_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "consumer-gpu", "--set", "profile.gpu_memory_gib=15"]) == 2
    shown = capsys.readouterr()
    assert "reward: hf://" in shown.out and "hardly fits, 9" in shown.out
    assert shown.out.count("DOES NOT FIT, 1") == 1
    assert shown.err.startswith("error: sft: more memory than a GPU has")


def test_storage_holds_every_checkpoint_there_is_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "consumer-gpu", "--set", "sft.keep=1", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    for one, checkpoints in ((planned["reward"], 4), (planned["sft"], 3)):
        assert one["storage_bytes"] == checkpoints * one["checkpoint_bytes"] + one["model_folder_bytes"]
        assert one["steps"] is None
