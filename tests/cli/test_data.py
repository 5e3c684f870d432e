# SPDX-License-Identifier: Apache-2.0
"""`steerlm data`: the commands as typed, their spellings, exit statuses and what they leave behind."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from steerlm.cli.main import call
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.sources.registry import SOURCES
from tests.cli import world
from tests.datasets.raw import make_tree, read_json, write_lines

COMMANDS = [
    *(kind for kind, source in SOURCES.items() if source.help),
    "convert",
    "regression",
    "merge",
    "check",
    "collect",
]
ROW = {"prompt": "p", "response": "r", "helpfulness": 3, "correctness": 2, "coherence": 4, "complexity": 1}
ROW = {**ROW, "verbosity": 0}
TALK = {
    "conversations": [
        {"value": "q", "from": "User", "label": None},
        {"value": "a", "from": "Assistant", "label": "quality:4,humor:1"},
    ],
    "system": "",
    "mask": "User",
    "type": "VALUE_TO_TEXT",
}
CHAT = {
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "ratings": {"helpfulness": 7},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", command, "--help"]) == 0
    assert f"Example: steerlm data {command} " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("spelling", ["--output_directory", "--output-directory", "-dir"])
def test_oasst(tmp_path: Path, spelling: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "a_all.trees.jsonl.gz", *(make_tree(i) for i in range(40)))
    assert call(["data", "oasst", spelling, str(tmp_path / "out"), "--source", str(source)]) == 0
    lines = [len(read_json(tmp_path / "out" / f"{split}.jsonl")) for split in ("train", "val")]
    said = capsys.readouterr().out
    assert said.startswith(f"train.jsonl: {lines[0]} lines; val.jsonl: {lines[1]} lines; trees 40")
    assert len(said.splitlines()) == 1


def test_oasst_folds(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", *(make_tree(i) for i in range(10)))
    command = ["data", "oasst", "-dir", str(tmp_path / "out"), "--source", str(source), "--folds", "5"]
    held_out: list[str] = []
    for fold in range(5):
        assert call([*command, "--fold", str(fold)]) == 0
        first = [talk["conversations"][0]["value"] for talk in read_json(tmp_path / "out" / "val.jsonl")]
        held_out += set(first)
    assert len(held_out) == len(set(held_out))
    assert call([*command, "--fold", "5"]) == 2


@pytest.mark.parametrize("flag", [["--only_helpfulness"], ["--only-helpfulness"], ["-oh"], []])
def test_helpsteer_and_helpsteer2(tmp_path: Path, flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "train.jsonl", ROW)
    command = "helpsteer2" if flag else "helpsteer"
    assert call(["data", command, "--output_directory", str(tmp_path / "out"), "--source", str(source), *flag]) == 0
    label = read_json(tmp_path / "out" / "train.jsonl")[0]["conversations"][1]["label"]
    assert label == ("helpfulness:3" if flag else "helpfulness:3,correctness:2,coherence:4,complexity:1,verbosity:0")
    assert "note: val.jsonl is empty" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--preference", "-pref"])
def test_preference(tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1, "split": "val"}
    source = write_lines(tmp_path / "pairs.jsonl", row)
    command = ["data", "helpsteer2", "-dir", str(tmp_path / "out"), "--source", str(source), flag]
    assert call(command) == 0
    assert len(read_json(tmp_path / "out" / "val.jsonl")) == 2
    assert call([*command, "-oh"]) == 2
    assert "every label would be empty" in capsys.readouterr().err


@pytest.mark.parametrize("dash", ["-", "_"])
def test_regression_with_another_attribute_set(tmp_path: Path, dash: str) -> None:
    source = write_lines(tmp_path / "a.jsonl", TALK)
    (tmp_path / "attributes.yaml").write_text("names: [humor, warmth]\nhigh: 9\n")
    arguments = [f"--input{dash}file", str(source), f"--output{dash}file", str(tmp_path / "r.jsonl")]
    assert call(["data", "regression", *arguments, "--attributes", str(tmp_path / "attributes.yaml")]) == 0
    assert [sample["label"] for sample in read_json(tmp_path / "r.jsonl")] == [[1.0, -100.0]]


def test_regression_without_a_sample_has_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unlabeled = {
        **TALK,
        "conversations": [TALK["conversations"][0], {"value": "a", "from": "Assistant", "label": "warmth:4"}],
    }
    source = write_lines(tmp_path / "a.jsonl", unlabeled)
    assert call(["data", "regression", "--input-file", str(source), "--output-file", str(tmp_path / "r.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "the labels name warmth; --attributes FILE gives attributes of your own" in said
    assert not (tmp_path / "r.jsonl").exists()


def test_merge(tmp_path: Path) -> None:
    paths = [str(write_lines(tmp_path / f"{i}.jsonl", {"text": str(i)})) for i in range(2)]
    arguments = ["--output-file", str(tmp_path / "m.jsonl"), "--repeat", "2", "--epochs", "2"]
    assert call(["data", "merge", *paths, *arguments]) == 0
    assert [line["text"] for line in read_json(tmp_path / "m.jsonl")] == list("00110011")


def test_bad_input_is_one_line_with_status_2_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "train.jsonl", ROW, {**ROW, "coherence": "four"})
    command = ["data", "helpsteer2", "-dir", str(tmp_path / "out"), "--source", str(source)]
    assert call(command) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"error: {source}:2: coherence must be a number, not 'four'")
    assert list((tmp_path / "out").iterdir()) == []
    assert call([*command, "--on-error", "skip"]) == 0
    rejects = tmp_path / "out" / "helpsteer2.rejects.jsonl"
    assert capsys.readouterr().out == (f"train.jsonl: 1 lines; val.jsonl: 0 lines; rows 2; rejected 1; see {rejects}\n")
    assert read_json(rejects)[0]["line"] == 2
    assert call([*command, "--on-error", "ignore"]) == 2


def test_check_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "a.jsonl", TALK, TALK)
    assert call(["data", "check", str(path), "--window", "30"]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "2 (1 duplicates)" in table["conversations"]
    assert "2 of more than 30 characters" in table["over-long"]
    assert table["humor"].split()[1:] == ["2", "1:", "2"]
    assert call(["data", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attributes"]["quality"]["values"] == {"4": 2}


def test_check_of_a_bad_or_empty_file_has_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "a.jsonl", TALK, "{", {"text": "x"})
    assert call(["data", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert f"{path}:3: conversations" in out
    assert "error: 2 invalid lines; the first: " in err
    assert call(["data", "check", str(write_lines(tmp_path / "b.jsonl"))]) == 2
    assert "contains no conversations" in capsys.readouterr().err


def test_check_strict_refuses_labels_that_no_dial_can_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"value": "q", "from": "User"}, {"value": "a", "from": "Assistant", "label": "quality:2.5,humor:9"}]
    path = write_lines(tmp_path / "a.jsonl", {**TALK, "conversations": turns})
    assert call(["data", "check", str(path)]) == 0
    table = capsys.readouterr().out
    assert "fractional        1 labels; a reward model takes them, a policy needs whole numbers: annotate, or" in table
    assert "other: 1  (1 fractional)" in table
    assert call(["data", "check", str(path), "--strict"]) == 2
    assert capsys.readouterr().err.endswith("1 labels outside the range; 1 fractional labels\n")
    assert call(["data", "check", str(write_lines(tmp_path / "b.jsonl", TALK)), "--strict"]) == 0


def test_check_of_raw_rows_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "raw.jsonl", ROW)
    assert call(["data", "check", str(path)]) == 2
    assert f"; it looks like HelpSteer: steerlm data helpsteer --source {path} " in capsys.readouterr().err


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "ratings.csv"
    table.write_text('question,response,score,verbosity\n"a, b",c,10,\n', encoding="utf-8")
    command = ["data", "convert", str(table), "--output", str(tmp_path / "out" / "c.jsonl"), "--scale-from", "1", "10"]
    options = ["--column", "prompt=question", "--rating", "helpfulness=score", "--rating", "verbosity=verbosity"]
    assert call([*command, *options, "--format", "prompt"]) == 0
    assert capsys.readouterr().out == "c.jsonl: 1 lines; rows 1\n"
    (talk,) = read_json(tmp_path / "out" / "c.jsonl")
    assert [(t["from"], t["value"], t["label"]) for t in talk["conversations"]] == [
        ("User", "a, b", None),
        ("Assistant", "c", "helpfulness:4"),
    ]
    assert call([*command, *options, "--rating", "helpfulness"]) == 2
    assert "'helpfulness': expected NAME=COLUMN" in capsys.readouterr().err
    assert call([*command, *options, "--rating", "helpful=score"]) == 2
    assert "'helpful' is not an attribute of the schema; did you mean 'helpfulness'?" in capsys.readouterr().err
    assert call([*command, *options, "--column", "promt=question"]) == 2
    assert "columns: unknown key 'promt'; did you mean 'prompt'?" in capsys.readouterr().err
    assert call([*command[:-3], "--scale-from", "10", "1"]) == 2
    assert "scale.from: the lowest rating comes first, not [10.0, 1.0]" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "c.jsonl"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.json", "a"])
def test_check_of_files_that_are_not_lines_names_convert(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "a":
        path.mkdir()
    else:
        path.write_text(f" [{json.dumps(CHAT)}]")
    assert call(["data", "check", str(path)]) == 2
    expected = f"{path}: expected JSON lines; steerlm data convert {path} --output conversations.jsonl converts"
    assert expected in capsys.readouterr().err


def test_check_of_chat_rows_names_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sharegpt = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    path = write_lines(tmp_path / "sharegpt.jsonl", sharegpt)
    assert call(["data", "check", str(path)]) == 2
    assert f"looks like ShareGPT conversations: steerlm data convert {path} " in capsys.readouterr().err
    for row in (CHAT, {"prompt": "q", "completion": "a"}, {"prompt": "q", "response": "a"}):
        path = write_lines(tmp_path / "raw.jsonl", row)
        assert call(["data", "check", str(path)]) == 2
        assert f"steerlm data convert {path} --output conversations.jsonl converts it" in capsys.readouterr().err


def test_check_measures_in_tokens(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("steerlm.models.folder")
    path = write_lines(tmp_path / "a.jsonl", TALK)
    assert call(["data", "check", str(path), "--tokenizer", str(shared_data / "stories260K"), "--json"]) == 0
    lengths = json.loads(capsys.readouterr().out)["lengths"]
    assert lengths["unit"] == "tokens"
    assert 20 < lengths["longest"] < 120


def test_the_commands_of_the_guide_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    pair = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1, "split": "train"}
    write_lines(tmp_path / "raw" / "oasst_all.trees.jsonl.gz", *(make_tree(i) for i in range(20)))
    for name in ("helpsteer", "helpsteer2"):
        for split in ("train", "validation"):
            write_lines(tmp_path / "raw" / name / f"{split}.jsonl.gz", ROW)
    write_lines(tmp_path / "raw" / "helpsteer2" / "preference" / "preference.jsonl.gz", pair)
    for split in ("train", "val"):
        write_lines(tmp_path / "raw" / "chats" / f"{split}.jsonl", CHAT)
    world.ratings(tmp_path / "ratings", {"quality": 3})
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(guide, "bash") for line in block.splitlines() if line]
    assert {line.split()[2] for line in commands} == set(COMMANDS)
    for line in commands:
        assert call(shlex.split(line)[1:]) == 0, line
    recipes = [yaml.safe_load(recipe) for recipe in blocks(guide, "yaml")]
    sources = [PrepareSettings.model_validate(one.get("prepare_data", one)).sources for one in recipes]
    assert max(len(some) for some in sources) == 3 and min(len(some) for some in sources) == 1
    for kind, source in SOURCES.items():
        assert f"| `{kind}` | {source.summary} |" in guide
    (program,) = blocks(guide, "python")
    exec(program, {})
    assert (tmp_path / "prepared" / "regression" / "train.jsonl").stat().st_size > 0


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", guide, flags=re.DOTALL)
