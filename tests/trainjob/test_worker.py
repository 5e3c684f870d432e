# SPDX-License-Identifier: Apache-2.0
"""The training worker: from a spec to a model folder, also when it is terminated and resumed.

The megatron engine runs in forked processes: a new process would need seconds for its imports.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, SteerLMError
from steerlm.trainjob import token_index, worker
from steerlm.trainjob.spec import TrainSpec
from tests.byte_tokenizer import byte_tokenizer
from tests.tiny_models import SHAPE

SETTINGS = {
    "max_steps": 60,
    "global_batch": 4,
    "window": 96,
    "precision": "fp32",
    "validate_every": 30,
    "optimizer": {"lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 2},
}
SCHEMA = AttributeSchema(names=("wet", "never", "cold"), high=1)


class Folder:
    """Specs and data in a folder, and the worker run on them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, name: str, records: list[dict[str, Any]]) -> str:
        (self.path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(self.path / name)

    def spec(self, name: str, objective: str, settings: dict[str, Any], **values: Any) -> Path:
        spec = {
            "objective": objective,
            "settings": {**SETTINGS, **settings},
            "layout": {"threads": 1},
            "tokenizer_folder": str(self.path / "tokenizer"),
            "work": str(self.path / name / "work"),
            "output": str(self.path / name / "model"),
            **values,
        }
        path = self.path / f"{name}.json"
        path.write_text(json.dumps(spec))
        return path

    def start(self, spec: Path) -> Any:
        import steerlm.megatron.engine  # noqa: F401 (warm, so that children need not import it)

        process = multiprocessing.get_context("fork").Process(target=_worker, args=(str(spec),))
        process.start()
        return process

    def run(self, spec: Path) -> int:
        process = self.start(spec)
        process.join(120)
        return int(process.exitcode)

    def steps(self, name: str) -> list[int]:
        path = self.path / name / "work" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record["step"] for record in map(json.loads, lines) if "train/loss" in record]


def _worker(spec: str) -> None:
    try:
        worker.main([spec])
    except SteerLMError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(error.exit_code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("train"))
    byte_tokenizer().save_pretrained(folder.path / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def base(folder: Folder) -> Path:
    """A base model trained from random weights, interrupted once on the way."""
    words = ("ice", "snow", "rain", "fog", "hail", "wind")
    texts = [{"text": f"{a} and {b} make {c}."} for a in words for b in words for c in words[:2]]
    train, validation = folder.lines("text.jsonl", texts[:60]), folder.lines("text_val.jsonl", texts[60:])
    spec = folder.spec("base", "text", {"shape": SHAPE}, train=[train], validation=[validation])
    process = folder.start(spec)
    while process.is_alive() and len(folder.steps("base")) < 5:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 143
    reached = folder.steps("base")[-1]
    assert reached < 60
    (saved,) = (folder.path / "base" / "work" / "checkpoints").iterdir()
    assert saved.name == f"step-{reached:06d}" and (saved / "COMPLETE").exists()
    assert folder.run(spec) == 0
    return folder.path / "base" / "model"


def test_an_interrupted_run_resumes_and_leaves_a_model(folder: Folder, base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from steerlm.models.folder import load_tokenizer, read_info

    assert folder.steps("base") == list(range(1, 61))
    result = json.loads((folder.path / "base" / "work" / "result.json").read_text())
    assert result["steps"] == 60 and result["exported_step"] == result["best_step"]
    info = read_info(base)
    assert (info.kind, info.attributes, info.window) == ("base", None, 96)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    total = tokens = 0.0
    for line in (folder.path / "text_val.jsonl").read_text().splitlines():
        ids = torch.tensor([[*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]])
        total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert total / tokens == pytest.approx(result["best_loss"], rel=1e-4)


def test_a_reward_model_names_the_attributes_that_were_trained(folder: Folder, base: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from steerlm.models.folder import load_tokenizer, read_info

    records = [
        {"text": f"{a} {b}<extra_id_2>", "label": [float(a == "rain"), -100.0, float(b == "ice")]}
        for a in ("rain", "snow", "hail")
        for b in ("ice", "fog")
    ]
    lines = folder.lines("reward.jsonl", records)
    spec = folder.spec(
        "reward",
        "reward",
        {"max_steps": 40},
        train=[lines],
        validation=[lines],
        model_folder=str(base),
        attributes=SCHEMA.model_dump(),
    )
    assert folder.run(spec) == 0
    output = folder.path / "reward" / "model"
    info = read_info(output)
    assert info.kind == "reward" and info.attributes is not None
    assert info.attributes.names == SCHEMA.names and info.attributes.active == ("wet", "cold")
    assert info.metrics["mse/wet"] < info.metrics["mean_predictor_mse/wet"] and "mse/never" not in info.metrics
    assert info.base == "model" and info.data["train"]["labels/wet"] == 6
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(output), load_tokenizer(output)
    errors = []
    for record in records:
        scores = model(**tokenizer(record["text"], return_tensors="pt")).logits[0].tolist()
        errors += [(s - y) ** 2 for s, y in zip(scores, record["label"], strict=True) if y != -100]
    assert sum(errors) / len(errors) == pytest.approx(info.metrics["loss"], rel=1e-3)
    assert folder.run(spec) == 0  # everything is done already
    assert folder.steps("reward") == list(range(1, 41))


def test_bad_input_ends_in_one_line_and_exit_code_2(folder: Folder) -> None:
    spec = folder.spec("bad", "sft", {"globl_batch": 3}, train=["x"])
    done = subprocess.run(
        [sys.executable, "-m", "steerlm.trainjob.worker", str(spec)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "globl_batch" in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_a_spec_that_no_launcher_has_checked_is_checked(folder: Folder, base: Path) -> None:
    data = folder.lines("short.jsonl", [{"text": "abc"}])
    path = folder.spec("tensor", "text", {}, train=[data], model_folder=str(base), layout={"devices": 3, "tensor": 3})
    for program in (worker.main, token_index.main):
        with pytest.raises(ConfigError, match=r"does not divide by layout\.tensor 3"):
            program([str(path)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_folder": None}, "no model to start from"),
        ({"settings": {"max_steps": 1, "shape": SHAPE}, "model_folder": "x"}, "give one of them"),
    ],
)
def test_a_model_must_have_exactly_one_origin(folder: Folder, values: dict[str, Any], message: str) -> None:
    path = folder.spec("place", "text", {}, train=["x"])
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ConfigError, match=message):
        _ = TrainSpec.read(path).shape


def test_samples_longer_than_the_models_positions_are_refused(folder: Folder, base: Path) -> None:
    lines = folder.lines("long.jsonl", [{"text": "x" * 150}])
    spec = folder.spec("long", "text", {"window": 512}, train=[lines], model_folder=str(base))
    assert folder.run(spec) == 2


def test_a_full_disk_under_the_model_folder(
    folder: Folder, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        train = folder.lines("full.jsonl", [{"text": "ice and snow."}] * 8)
        spec = folder.spec("full", "text", {"max_steps": 2, "shape": SHAPE}, train=[train], output=str(disk / "model"))
        assert folder.run(spec) == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if "could not be written" in line]
        assert len(errors) == 1
        assert f"{disk / 'model'}: the model could not be written (" in errors[0] and "GiB are free there" in errors[0]
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert folder.run(spec) == 0
        assert (disk / "model" / "steerlm.json").exists()
        assert folder.steps("full") == [1, 2], "no step was repeated"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
