# SPDX-License-Identifier: Apache-2.0
"""`steerlm model` as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steerlm.attributes import AttributeSchema
from steerlm.cli.main import call
from steerlm.models.folder import ModelInfo
from tests.models.conftest import Make, make_folder, tokenizer_folder  # noqa: F401 (fixtures)

SCHEMA = AttributeSchema(defaults={"toxicity": 0}).restricted(["quality", "toxicity"])


@pytest.fixture
def reward(make_folder: Make) -> Path:  # noqa: F811
    info = ModelInfo("reward", SCHEMA, window=64, base="org/base", license="mit", metrics={"pearson/quality": 0.5})
    return make_folder(info)


def test_show_says_what_a_model_is(reward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["model", "show", str(reward)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    weights = load_file(reward / "model.safetensors")
    assert lines == {
        "kind": "reward",
        "family": "llama",
        "parameters": f"{sum(weight.numel() for weight in weights.values()):,}",
        "window": "64 tokens",
        "base": "org/base (license: mit)",
        "attributes": "0..4: quality (default 4), toxicity (default 0)",
        "untrained": "humor, creativity, helpfulness, correctness, coherence, complexity, verbosity",
        "metrics": '{"pearson/quality": 0.5}',
    }


def test_fetch_makes_a_folder_and_says_so(reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "fetched"
    for _ in range(2):
        assert call(["model", "fetch", str(reward), str(target)]) == 0
        assert capsys.readouterr().out == f"{target}: complete\n"
    assert (target / "steerlm.json").read_bytes() == (reward / "steerlm.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "hf://one-part", "DIR"], "error: hf://one-part: expected hf://organization/name"),
        (["fetch", "nowhere", "DIR"], "error: nowhere: no such model folder"),
        (["show", "nowhere"], "error: nowhere: no such model folder"),
        (
            ["import", "a", "b", "--tensor", "2"],
            "torchrun --nproc-per-node 2 -m steerlm.cli model import a b --tensor 2",
        ),
        (["import", "nowhere", "DIR"], "error: nowhere/config.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["model", *(str(tmp_path / "d") if a == "DIR" else a for a in arguments)]) == 2
    out = capsys.readouterr()
    assert message in out.err and out.err.count("\n") == 1 and not out.out


def test_an_offline_hub_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steerlm.cli", "model", "fetch", "hf://org/tiny", str(tmp_path / "m")]
    out = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert out.returncode == 1 and out.stderr.count("\n") == 1
    assert out.stderr.startswith("error: hf://org/tiny: the hub cannot be read (") and "offline" in out.stderr


def test_import_and_export_give_the_folder_back(reward: Path, tmp_path: Path) -> None:
    """In one process of their own, which joins and leaves a process group twice."""
    steps = [
        ["model", "import", str(reward), str(tmp_path / "checkpoint")],
        ["model", "export", str(tmp_path / "checkpoint"), str(tmp_path / "again")],
        ["model", "show", str(tmp_path / "again")],
    ]
    code = "import json, sys; from steerlm.cli.main import call; sys.exit(sum(map(call, json.loads(sys.argv[1]))))"
    out = subprocess.run([sys.executable, "-c", code, json.dumps(steps)], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert f"{tmp_path / 'again'}: complete\nkind        reward\nfamily      llama\n" in out.stdout
    before = load_file(reward / "model.safetensors")
    after: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "again").glob("*.safetensors"):
        after |= load_file(path)
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    for path in reward.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
