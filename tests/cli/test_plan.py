# SPDX-License-Identifier: Apache-2.0
"""`steerlm plan`: figures for every shipped recipe, lengths of real data, times, checkpoints, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.cli.main import call
from steerlm.models.tokenizer import load_tokenizer
from steerlm.recipe import shipped
from steerlm.records import RegressionSample
from tests.byte_tokenizer import byte_tokenizer
from tests.tiny_models import tiny_base

GIB = 2**30


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_shipped_recipe_has_a_plan_that_fits_its_gpus(
    name: str, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model", f"base={shared_data / 'stories260K'}"] if name == "demo-real" else []
    assert call(["plan", name, *base, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned
    gpu = None if name.startswith("demo") else 24 if name == "consumer-gpu" else 80
    for one in planned.values():
        assert one["fits"] is (True if gpu else None)
        assert sum(one["memory"].values()) < 0.85 * (gpu or 80) * GIB  # the rest: context, buffers, fragments
        assert one["real_token_share"] is None
        assert [e["nodes"] for e in one["estimates"][:1]] == ([] if gpu is None else [one["layout"]["nodes"]])


def test_the_tutorials_layout_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "steerlm-llama2"]) == 0
    out = capsys.readouterr().out
    assert "sft: hf://meta-llama/Llama-2-70b-hf" in out
    assert "32 nodes x 8: tensor 8 x pipeline 2 x data 16; rows of at most 4,096 tokens" in out
    assert "68,976,648,192" in out
    assert "; fits, " in out and "800 steps, 4.19e+08 tokens" in out


def test_the_real_token_share_follows_from_the_lengths_of_the_data(
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
        (
            ["steerlm-llama2", "--set", "base.fetch.uri=hf://a/b"],
            "or give --model base=PATH, the model's folder or its config",
        ),
        (
            ["steerlm-llama2", "--set", "base.fetch.uri=hf://meta-llama/Llama-3-8B"],
            "did you mean 'hf://meta-llama/Meta-Llama-3-8B'?",
        ),
        (["steerlm-llama2", "--set", "base.fetch.uri=models/gone"], "models/gone: no such model folder"),
    ],
)
def test_an_invalid_layout_or_missing_input_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_training_that_does_not_fit_is_shown_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "consumer-gpu", "--set", "profile.gpu_memory_gib=15"]) == 2
    shown = capsys.readouterr()
    assert "reward: hf://" in shown.out and "barely fits, 9" in shown.out
    assert shown.out.count("DOES NOT FIT, 1") == 1
    assert shown.err.startswith("error: sft: more memory than a GPU has")


def test_storage_counts_every_checkpoint_that_exists_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "consumer-gpu", "--set", "sft.keep=1", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    for one, checkpoints in ((planned["reward"], 4), (planned["sft"], 3)):
        assert one["storage_bytes"] == checkpoints * one["checkpoint_bytes"] + one["model_folder_bytes"]
        assert one["steps"] is None


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert call(["plan", *words, "--json"]) == 0
    plans: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plans


def test_times_are_shown_for_the_profile_and_for_fewer_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "steerlm-llama2"]) == 0
    out = capsys.readouterr().out
    reward, sft = out.split("\n\n")[:2]
    assert "time per step    1,500 ms, MFU 44.8% on h100\n" in reward
    assert "                   ms: compute 1,323, tensor 159, optimizer 14, host 4\n" in reward
    assert "traffic          sent per GPU and step: tensor 93.8 GiB, gradients 11.8 GiB, parameters 5.9 GiB" in reward
    assert "total time       20 minutes, 85.3 GPU-hours" in reward
    assert "nodes             32: 1,500 ms, MFU 44.8%, 4.0 rows per replica, 20 minutes, 85.3 GPU-hours" in reward
    assert "                     4: 17,778 ms, MFU 39.9%, 64.0 rows per replica, 4.0 hours, 126.4 GPU-hours" in sft
    assert "32 nodes: the fewest within 20% of the fastest" in sft
    assert (
        "few rows         fewer than 2 per replica if samples average 1,024 tokens or less: GPUs would wait" in reward
    )
    assert "estimates of a model, not measurements" in out
    assert "Without --data every sample counts as a full window." in out


def test_short_samples_leave_the_tutorials_nodes_one_row_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,024 samples of about 400 tokens (one per byte): 32 nodes have one row per replica, 16 nodes are as good."""
    byte_tokenizer().save_pretrained(tmp_path)
    sample = RegressionSample(text="x" * 400 + "<extra_id_2>", label=[1.0] * 9)
    data = tmp_path / "train.jsonl"
    data.write_text(f"{sample.to_json()}\n" * 1024)
    words = ["plan", "steerlm-llama2", "--data", f"reward={data}", "--tokenizer", str(tmp_path)]
    assert call(words) == 0
    reward, sft = capsys.readouterr().out.split("\n\n")[:2]
    assert "few rows         1.0 per replica, fewer than 2: GPUs wait much of the time" in reward
    assert "16 nodes: the fewest within 20% of the fastest" in reward
    assert "few rows         fewer than 4 per replica if samples average 1,536 tokens or less" in sft
    one = planned(capsys, *words[1:])["reward"]
    assert (one["few_rows"], one["fewest_nodes_within_20_percent"]) == (True, 16)


def test_json_has_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    reward = planned(capsys, "steerlm-llama2")["reward"]
    own, *fewer = reward["estimates"]
    assert [own["nodes"], *(one["nodes"] for one in fewer)] == [32, 16, 8, 4, 2, 1]
    assert sum(own["step_seconds_by_part"].values()) == own["step_seconds"]
    assert own["gpu_hours"] == own["hours"] * 256 == 800 * own["step_seconds"] / 3600 * 256
    assert own["mfu"] == reward["flops_per_process"] / own["step_seconds"] / reward["gpu"]["peak_flops"]
    assert set(own["traffic_bytes"]) == {"tensor", "pipeline", "gradients", "parameters"}
    assert (reward["few_rows"], reward["fewest_nodes_within_20_percent"]) == (False, 32)


@pytest.mark.parametrize(("batch", "rows", "few"), [(256, 2, False), (128, 1, True)])
def test_two_rows_per_replica_are_enough(batch: int, rows: int, few: bool, capsys: pytest.CaptureFixture[str]) -> None:
    reward = planned(capsys, "steerlm-llama2", "--set", f"reward.global_batch={batch}")["reward"]
    assert (reward["rows_per_replica"], reward["few_rows"]) == (rows, few)


def test_a_checkpoint_needs_host_memory_for_the_share_of_each_process(capsys: pytest.CaptureFixture[str]) -> None:
    """70B on TP8 x PP2 x DP16: 4,311,621,632 parameters on the fullest process, 14 bytes each, over 16 replicas."""
    sft = planned(capsys, "steerlm-llama2", "--disk-rate", "2")["sft"]
    written = 4_311_621_632 * 14 // 16
    assert sft["checkpoint_bytes_per_process"] == written
    assert sft["host_memory_bytes_per_node"] == 8 * written
    assert sft["save_seconds"] == 8 * written / 2e9
    assert call(["plan", "steerlm-llama2"]) == 0
    shown = "3.5 GiB copied to host memory and written by each process, 28.1 GiB per node: 6.0 s at 5 GB/s"
    assert shown in capsys.readouterr().out


def test_a_profile_without_a_gpu_has_no_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "demo"]) == 0
    out = capsys.readouterr().out
    assert "checkpoint  " in out
    assert not any(word in out for word in ("time per", "total time", "traffic", "nodes ", "MFU", "few rows"))
    assert call(["plan", "demo", "--gpu", "h100"]) == 0
    assert "time             not estimated for fp32" in capsys.readouterr().out


def test_a_gpu_type_sets_memory_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    own, other = (planned(capsys, "steerlm-llama2", *more)["reward"] for more in ([], ["--gpu", "a100-80"]))
    assert (own["gpu"]["name"], other["gpu"]["name"]) == ("h100", "a100-80")
    assert other["estimates"][0]["step_seconds"] > 1.5 * own["estimates"][0]["step_seconds"]
    assert call(["plan", "steerlm-llama2", "--gpu", "rtx-4090"]) == 2
    assert "DOES NOT FIT, 136% of 24.0 GiB" in capsys.readouterr().out
    larger = planned(capsys, "steerlm-llama2", "--gpu", "rtx-4090", "--set", "profile.gpu_memory_gib=48")
    assert larger["reward"]["fits"] and larger["reward"]["gpu"]["memory_gib"] == 48


def test_gpu_constants_can_be_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    own, peak, slow = (
        planned(capsys, "steerlm-llama2", *more)["reward"]["estimates"][0]
        for more in (
            [],
            ["--set", "profile.gpu_constants.peak_flops=1978e12"],
            ["--set", "profile.gpu_constants.intra_node_bandwidth=190e9"],
        )
    )
    assert (peak["mfu"], peak["step_seconds"]) == (own["mfu"] / 2, own["step_seconds"])
    assert slow["step_seconds_by_part"]["tensor"] == pytest.approx(2 * own["step_seconds_by_part"]["tensor"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steerlm-llama2", "--gpu", "h10"], "unknown GPU type 'h10'; known: h100, h200"),
        (["demo", "--set", "profile.gpu_constants.gemm_flops=1e15"], "give profile.gpu, or --gpu"),
        (["demo", "--disk-rate", "0"], "--disk-rate"),
    ],
)
def test_an_unknown_gpu_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_hours_at_an_assumed_share_of_the_gpus_peak(capsys: pytest.CaptureFixture[str]) -> None:
    usual, half = (planned(capsys, "steerlm-llama2", *words)["sft"] for words in ((), ("--mfu", "0.2")))
    flops = usual["steps"] * usual["flops_per_step"]
    assert usual["hours_at_assumed_mfu"] == pytest.approx(flops / (256 * 989e12 * 0.4) / 3600)
    assert half["hours_at_assumed_mfu"] == pytest.approx(2 * usual["hours_at_assumed_mfu"])
    assert call(["plan", "steerlm-llama2"]) == 0
    hours = usual["hours_at_assumed_mfu"]
    shown = f"at 40% MFU       {hours * 60:.0f} minutes, {hours * 256:,.1f} GPU-hours, assumed, not estimated"
    assert shown in capsys.readouterr().out
    assert planned(capsys, "consumer-gpu")["sft"]["hours_at_assumed_mfu"] is None  # epochs of data that is not given
    assert planned(capsys, "demo")["sft"]["hours_at_assumed_mfu"] is None  # no GPU


def test_a_config_alone_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000, "rms_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    profile = ["--gpu", "h100", "--set", "reward.window=1024", "--set", "sft.window=1024"]
    for path in (tmp_path, tmp_path / "config.json"):
        plans = planned(capsys, "consumer-gpu", *profile, "--model", f"base={path}")
        assert plans["sft"]["parameters"] == 1_100_048_384  # TinyLlama's
    words = ["plan", "consumer-gpu", "--gpu", "h100", "--model", f"base={tmp_path}", "--set", "sft.window=4096"]
    assert call(words) == 2
    assert "sft: window 4096 is longer than the model's 2048 positions" in capsys.readouterr().err


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_base(tmp_path / "model")
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens([f"[{i}]" for i in range(8)])
    tokenizer.save_pretrained(tmp_path / "more")
    assert call(["plan", "demo-real", "--model", f"base={model}"]) == 0
    words = ["plan", "demo-real", "--model", f"base={model}", "--tokenizer", str(tmp_path / "more")]
    assert call(words) == 2
    assert "its tokenizer has 265 tokens, the model's vocabulary 264" in capsys.readouterr().err
    (tmp_path / "more" / "config.json").write_bytes((model / "config.json").read_bytes())
    assert call(["plan", "demo-real", "--model", f"base={tmp_path / 'more'}"]) == 2
    assert "the model's vocabulary 264" in capsys.readouterr().err
