# SPDX-License-Identifier: Apache-2.0
"""Every command of README and docs: it exists with its options, and it runs, here or in the test of its page."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from steerlm.artifact import Store
from steerlm.attributes import AttributeSchema
from steerlm.cli import main
from steerlm.datasets.collect import collect
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.prepare import prepare_data
from steerlm.pipeline.local import PipelineRun
from tests.cli import world
from tests.conftest import ROOT
from tests.datasets.raw import make_tree, write_lines
from tests.docs.shell import Shell, blocks, commands, working_in
from tests.docs.test_links import PAGES
from tests.tiny_models import tiny_base

pytestmark = pytest.mark.timeout(600)
LINE = re.compile(r"^(?: {4})?((?:steerlm|torchrun) (?:.*\\\n)*.*)$", re.MULTILINE)
INLINE = re.compile(r"`(steerlm [^`]*)`")
ELSEWHERE = {
    "attributes.md": "test_attributes.py",
    "kubernetes.md": "../cluster/test_page.py",
    "laptop.md": "test_laptop.py",
    "operations.md": "test_operations.py",
    "own-data.md": "test_own_data.py",
    "recipes.md": "test_recipes.py",
    "tutorial.md": "test_tutorial.py",
}
"""Pages that a test of their own runs from the first command to the last, one of them on a cluster."""


def lines(page: Path) -> list[list[str]]:
    """The words of each command line of a page: of fenced and of indented blocks."""
    return commands("\n".join(LINE.findall(page.read_text(encoding="utf-8"))))


def examples() -> Iterator[str]:
    """The examples of every command's help."""

    def walk(command: Any) -> Iterator[str]:
        for text in (command.help, command.epilog):
            yield from re.findall(r"Example: (steerlm .*)", text or "")
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)

    group: Any = typer.main.get_command(main.app)
    yield from re.findall(r"Example: (steerlm .*)", group.help)
    for name in main.COMMANDS:
        yield from walk(group.get_command(typer.Context(group, obj=[name]), name))


def asks_help(words: list[str]) -> list[str]:
    """A command line after `steerlm` that parses all of the words, and then shows help."""
    given = words[1:] if words[0] == "steerlm" else words[words.index("steerlm.cli") + 1 :]
    return [word for word in given if word not in ("&", "...")] + ["--help"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in lines(page):
        if words[0] == "torchrun" and "steerlm.cli" not in words:
            continue  # a worker; tests/trainjob and tests/annotation start those
        assert main.call(asks_help(words)) == 0, f"{page.name}: {shlex.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_sentence_exists_with_its_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in INLINE.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
        if "|" in text:
            continue
        words = list(takewhile(re.compile("[a-z]+").fullmatch, text.split()[1:]))
        assert main.call([*words, "--help"]) == 0, f"{page.name}: {text}: {capsys.readouterr().err}"
        shown = capsys.readouterr().out
        assert all(option in shown for option in re.findall(r"--[\w-]+", text)), f"{page.name}: {text}"


def test_every_example_of_a_help_text_exists_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(examples())
    assert len(found) > 20
    for text in found:
        words = shlex.split(re.split(r";| or, ", text)[0])
        assert main.call(asks_help(words)) == 0, f"{text}: {capsys.readouterr().err}"


def test_no_page_with_commands_is_forgotten() -> None:
    with_commands = {page.name for page in PAGES if lines(page)}
    assert with_commands == {*ELSEWHERE, *RUN}
    assert all((ROOT / "tests" / "docs" / name).exists() for name in ELSEWHERE.values())


def run(page: Path, shell: Shell, without: tuple[str, ...] = ()) -> None:
    """Run the page's commands but those that begin with one of `without`; servers stay up to the end."""
    try:
        for words in lines(page):
            shown = shlex.join(words)
            if shown.startswith(("torchrun", *without)):
                continue
            serves = words[1] == "serve" and words[-1] != "&"
            shell.command([*words, "&"] if serves else words)
    finally:
        shell.stop()


NINE = AttributeSchema(defaults={"toxicity": 0, "humor": 0})


def data(page: Path, folder: Path) -> None:
    world.raw(folder / "raw")
    write_lines(folder / "raw" / "oasst_all.trees.jsonl.gz", *(make_tree(seed) for seed in range(40)))
    world.ratings(folder / "ratings", {"quality": 3})
    rated = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    for split in ("train", "val"):
        write_lines(folder / "raw" / "chats" / f"{split}.jsonl", {**rated, "ratings": {"quality": 7}})
    collected = collect(folder / "ratings", folder / "elsewhere", schema=AttributeSchema(), validation_share=0.1)
    shell = Shell(words={"KEY": collected.artifact.key})
    run(page, shell)
    printed = shell.said["steerlm data collect ratings --output runs/store"]
    assert f"runs/store/collect_ratings/{collected.artifact.key}/ratings/train.jsonl\n" in printed
    assert "note: no val.jsonl" in printed and f"digest {collected.artifact.digest}\n" in printed
    (recipe,) = [block.text for block in blocks(page) if block.language == "yaml" and "collect_ratings" in block.text]
    section = yaml.safe_load(recipe.replace("KEY", collected.artifact.key))["prepare_data"]
    prepared = prepare_data(PrepareSettings.model_validate(section), folder / "rated", schema=AttributeSchema())
    assert prepared.summaries["regression train.jsonl"].written == {"train.jsonl": 2}
    assert (folder / "data" / "preferences" / "train.jsonl").read_text().count("\n") == 2
    checked = shell.said["steerlm data check data/train.jsonl --window 4096"]
    merged = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").count("\n")
    assert f"conversations     {merged:,} (" in checked


def models(page: Path, folder: Path) -> None:
    world.policy(folder / "runs" / "demo" / "policy", NINE)
    base = str(tiny_base(folder / "base"))
    sources = (
        "hf://meta-llama/Llama-2-13b-hf",
        "hf://org/name@revision",
        "s3://bucket/models/name",
        "/mnt/models/name",
    )
    shell = Shell(words=dict.fromkeys(sources, base))
    run(page, shell, without=("steerlm model import", "steerlm model export"))  # in tests/cli/test_model.py
    assert "toxicity (default 0)" in shell.said["steerlm model show runs/demo/policy"]
    assert (folder / "models" / "llama-2-13b" / "model.safetensors").exists()


def serving(page: Path, folder: Path) -> None:
    for kind, make in (("policy", world.policy), ("reward", world.reward)):
        make(folder / "runs" / "demo" / kind, NINE)
        shutil.copytree(folder / "runs" / "demo" / kind, folder / "models" / kind)
    write_lines(folder / "train.jsonl", *(world.talk(number) for number in range(4)))
    write_lines(folder / "questions.jsonl", *({"question": f"Why {number}?"} for number in range(8)))
    address = "http://127.0.0.1:1427"
    added = {
        "steerlm ask": f"--url {address} --max-tokens 2",
        "steerlm evaluate": "--max-tokens 2",
        "steerlm serve generate": "--port 1427",
    }
    shell = Shell(words=dict.fromkeys(("http://node1", "http://node2"), "http://127.0.0.1"), added=added)
    run(page, shell, without=("steerlm chat",))  # reads the terminal: in tests/cli/test_chat.py


def engines(page: Path, folder: Path) -> None:
    """Servers of ours are the upstreams; tests/vllm has real ones."""
    for kind, make in (("policy", world.policy), ("reward", world.reward)):
        make(folder / "runs" / "demo" / kind, NINE)
    ports = {"http://127.0.0.1:8000": "1480", "http://127.0.0.1:8001": "1481"}
    shell = Shell(words={address: f"http://127.0.0.1:{port}" for address, port in ports.items()})
    for block in blocks(page):
        if block.name:
            (folder / block.name).write_text(block.text, encoding="utf-8")
    try:
        shell.command(["steerlm", "serve", "generate", "runs/demo/policy", "--port", "1480", "&"])
        shell.command(["steerlm", "serve", "reward", "runs/demo/reward", "--port", "1481", "&"])
        for words in lines(page):
            shell.command(words)
        for block in blocks(page):
            if block.language == "python":
                assert len(shell.python(block.text).splitlines()) >= 5
    finally:
        shell.stop()


def readme(page: Path, folder: Path) -> None:
    began: list[Any] = []

    def begin(resolved: Any, show: Any) -> PipelineRun:
        began.append(resolved)  # what runs for minutes; tests/pipelines runs a small one
        return PipelineRun(folder, Store(folder / "store"), [], 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steerlm.pipeline.local.run_pipeline", begin)
        serving(page, folder)
    assert [(one.recipe.name, one.profile.store) for one in began] == [("demo", "runs/demo/store")]


def studio(page: Path, folder: Path) -> None:
    for kind, make in (("policy", world.policy), ("reward", world.reward)):
        make(folder / "runs" / "demo" / kind, NINE)
    world.ratings(folder / "ratings", {"quality": 3})
    (folder / "words.yaml").write_text("humor: How many jokes the answer makes.\n")
    shell = Shell()
    run(page, shell)
    assert "digest " in shell.said["steerlm data collect ratings --output runs/store"]


def store(page: Path, folder: Path) -> None:
    kept = Store(folder / "runs" / "store")
    for key in ("115b1c5b9c2c70c04095", "a", "b", "c"):
        kept.begin("train_sft", key, "policy", {"label": "train_sft"})
        (kept.folder("train_sft", key) / "policy" / "config.json").write_text(key)
        finished = {"finished": f"2026-01-0{1 + 'abc'.find(key[0])}"}
        kept.finish("train_sft", key, "policy", None, finished)
    for number in range(12):
        (kept.root / "runs" / f"20260101-0000{number:02}-demo").mkdir(parents=True)
    shell = Shell()
    run(page, shell, without=("steerlm run demo --store s3",))  # in tests/s3
    assert "115b1c5b9c2c70c04095" in shell.said["steerlm store gc runs/store --keep 3 --runs 10"]
    assert [path.name for path in sorted((kept.root / "train_sft").iterdir())] == ["a", "b", "c"]
    assert len(list((kept.root / "runs").iterdir())) == 10


RUN: dict[str, Callable[[Path, Path], None]] = {
    "README.md": readme,
    "data.md": data,
    "engines.md": engines,
    "models.md": models,
    "serving.md": serving,
    "store.md": store,
    "studio.md": studio,
}


@pytest.mark.parametrize("name", list(RUN))
def test_the_commands_of_a_page_run(name: str, tmp_path: Path) -> None:
    (page,) = (page for page in PAGES if page.name == name)
    with working_in(tmp_path):
        RUN[name](page, tmp_path)
