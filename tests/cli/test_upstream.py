# SPDX-License-Identifier: Apache-2.0
"""Options of NVIDIA's scripts are answered with ours, and its checkpoints with how to convert them."""

import re
import tarfile
from pathlib import Path

import pytest

from steerlm.cli.main import COMMANDS, call
from steerlm.cli.upstream import KEYS, SCRIPTS
from steerlm.configuration import key_paths
from steerlm.datasets.sources.registry import SOURCES
from steerlm.recipe import Profile, Recipe
from tests.conftest import ROOT

SUBCOMMANDS = {"regression", "reward", "sft", "generate", "fetch"}


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["train", "reward", "demo", "model.global_batch_size=512"], "--set reward.global_batch=512"),
        (["train", "sft", "demo", "++model.optim.lr=6e-6"], "--set sft.optimizer.lr=6e-6"),
        (["train", "sft", "demo", "--set", "trainer.num_nodes=32"], "--set profile.layouts.sft.nodes=32"),
        (["train", "sft", "demo", "--set=trainer.devices=8"], "--set profile.layouts.sft.devices=8"),
        (["run", "demo", "--set", "model.encoder_seq_length=4096"], "--set SECTION.window, SECTION being reward or"),
        (["plan", "demo", "--set", "trainer.sft.max_steps=800"], "--set SECTION.max_steps, SECTION being"),
        (["train", "sft", "demo", "trainer.precision=bf16-mixed"], "--set sft.precision (docs/tutorial.md"),
        (["train", "sft", "demo", "model.peft.peft_scheme=lora"], "what stands for it here: docs/tutorial.md"),
        (["serve", "reward", "rm_model_file=reward.nemo", "inference.port=1424"], "serve reward|generate FOLDER"),
        (["serve", "generate", "gpt_model_file=sft.nemo"], "serve reward|generate FOLDER --port 1424"),
    ],
)
def test_an_option_of_upstream_is_answered_with_ours(
    words: list[str], ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(words) == 2
    out = capsys.readouterr()
    assert ours in out.err and "is an option of NeMo-Aligner's scripts" in out.err and out.err.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_of_upstream_is_answered_with_our_command(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([script], ["data", f"examples/nlp/data/steerlm/{script}.py", "--output_directory=x"]):
        assert call(words) == 2
        assert f"is a script of NeMo-Aligner or NeMo; here: {SCRIPTS[script]}" in capsys.readouterr().err
    command = SCRIPTS[script].split()
    assert call([*(word for word in command[1:] if word in {*COMMANDS, *SOURCES, *SUBCOMMANDS}), "--help"]) == 0


def test_the_answers_are_the_tutorials_and_keys_that_exist() -> None:
    table: dict[str, str] = {}
    for line in (ROOT / "docs" / "tutorial.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            for option in re.findall(r"`([^`]+)`", cells[0]):
                name = option.rpartition(".")[2]
                table[f"activations_checkpoint{name}" if name.startswith("_") else name] = cells[1].strip("`")
    ours = {name: key.removeprefix("SECTION.").removeprefix("profile.layouts.SECTION.") for name, key in KEYS.items()}
    assert ours == {name: key.removeprefix("layouts ") for name, key in table.items()}
    known = {*key_paths(Recipe), *(f"profile.{key}" for key in key_paths(Profile))}
    for key in KEYS.values():
        assert {key.replace("SECTION", section) for section in ("reward", "sft")} <= known


@pytest.fixture(params=["file", "unpacked", "version 2"])
def nemo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint as NeMo writes it, without its weights."""
    folder = tmp_path / "llama2"
    if request.param == "version 2":
        (folder / "context").mkdir(parents=True)
        (folder / "weights").mkdir()
        return folder
    (folder / "model_weights").mkdir(parents=True)
    (folder / "model_config.yaml").write_text("num_layers: 40\n")
    if request.param == "unpacked":
        return folder
    with tarfile.open(tmp_path / "llama2.nemo", "w") as archive:
        archive.add(folder, "./")
    return tmp_path / "llama2.nemo"


@pytest.mark.parametrize(
    "words",
    [
        ["model", "fetch", "NEMO", "OUT"],
        ["model", "import", "NEMO", "OUT"],
        ["model", "export", "NEMO", "OUT"],
        ["model", "show", "NEMO"],
        ["train", "sft", "demo", "--model", "NEMO", "--data", "DATA", "--output", "OUT"],
        ["train", "sft", "demo", "--model", "MODEL", "--tokenizer", "NEMO", "--data", "DATA", "--output", "OUT"],
        ["serve", "generate", "NEMO"],
        ["serve", "reward", "NEMO"],
        ["annotate", "--model", "NEMO", "--input-file", "DATA", "--output-file", "OUT"],
        ["plan", "demo-real", "--model", "base=NEMO"],
        ["run", "demo-real", "--set", "base.fetch.uri=NEMO"],
    ],
)
def test_a_nemo_checkpoint_is_named_and_how_to_convert_it(
    words: list[str], nemo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text('{"conversations": [{"from": "User", "value": "q"}], "mask": "User", "type": "VALUE_TO_TEXT"}\n')
    if "MODEL" in words:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 4096}')
    places = {"NEMO": str(nemo), "OUT": str(tmp_path / "out"), "DATA": str(data), "MODEL": str(tmp_path / "model")}
    arguments = [re.sub("(^|=)(NEMO|OUT|DATA|MODEL)$", lambda m: m[1] + places[m[2]], word) for word in words]
    assert call(arguments) == 2
    message = capsys.readouterr().err
    assert "a model folder in Hugging Face's format is wanted: convert it with NeMo" in message
    assert str(nemo) in message and "docs/models.md#nemo-checkpoints" in message
    assert not (tmp_path / "out").exists()


def test_a_nemo_file_in_a_store_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["model", "fetch", "s3://models/llama2.nemo", str(tmp_path / "out")]) == 2
    assert "s3://models/llama2.nemo: a .nemo file" in capsys.readouterr().err
