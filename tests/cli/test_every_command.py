# SPDX-License-Identifier: Apache-2.0
"""Every command of `--help` runs to success on small real input, as typed; a command without a row here fails."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from steerlm.cli import main
from tests.cli import world
from tests.conftest import ROOT
from tests.docs.shell import Shell, working_in

pytestmark = pytest.mark.timeout(600)


class Row(NamedTuple):
    """A command as `--help` names it, and lines that run it.

    Attributes:
        command: Its words below `steerlm`.
        lines: Command lines in order, the last of which must print `says`. One that ends in `&` is a server; it runs
            until the row is done.
        says: A regular expression.
        makes: Files that are there afterwards.
    """

    command: str
    lines: tuple[str, ...]
    says: str
    makes: tuple[str, ...] = ()


SHORT = "--set profile.tracking.enabled=false"
ASK = 'ask "Why 1?" --warm 4 --max-tokens 3 --show-attributes'
ROWS = (
    Row(
        "data oasst",
        ("data oasst --output_directory made/oasst --source raw/oasst.jsonl",),
        r"train\.jsonl: \d+ lines",
        ("made/oasst/train.jsonl", "made/oasst/val.jsonl"),
    ),
    Row(
        "data helpsteer",
        ("data helpsteer --output_directory made/helpsteer --source raw/helpsteer",),
        r"train\.jsonl: 3 lines[\s\S]*val\.jsonl: 1 line",
        ("made/helpsteer/train.jsonl", "made/helpsteer/val.jsonl"),
    ),
    Row(
        "data helpsteer2",
        ("data helpsteer2 --output_directory made/helpsteer2 --source raw/helpsteer",),
        r"train\.jsonl: 3 lines[\s\S]*val\.jsonl: 1 line",
        ("made/helpsteer2/train.jsonl",),
    ),
    Row(
        "data messages",
        ("data messages --output_directory made/chats --source raw/chats --attributes own.yaml",),
        r"train\.jsonl: 5 lines",
        ("made/chats/train.jsonl",),
    ),
    Row(
        "data convert",
        ("data convert raw/chats/train.jsonl --output made/chats.jsonl --attributes own.yaml",),
        r"chats\.jsonl: 5 lines",
        ("made/chats.jsonl",),
    ),
    Row(
        "data regression",
        ("data regression --input-file own/train.jsonl --output-file made/reg.jsonl --attributes own.yaml",),
        r"reg\.jsonl: 8 lines; .*label vector: warm, brief, bold",
        ("made/reg.jsonl",),
    ),
    Row(
        "data merge",
        ("data merge own/train.jsonl own/val.jsonl --output-file made/all.jsonl --repeat 2",),
        r"all\.jsonl: 24 lines",
        ("made/all.jsonl",),
    ),
    Row("data check", ("data check own/train.jsonl --strict --attributes own.yaml",), r"conversations +8 \(0 dup"),
    Row(
        "data collect",
        ("data collect ratings --output made/rated --attributes own.yaml",),
        r"2 ratings and 1 preferences of 2 people; replaced by a later one 0\n[\s\S]*digest [0-9a-f]{64}",
        ("made/rated/collect_ratings",),
    ),
    Row("model fetch", ("model fetch models/base made/base",), r"made/base: complete", ("made/base/steerlm.json",)),
    Row("model show", ("model show models/policy",), r"attributes  0\.\.9: warm \(default 9\), brief \(default 2\)"),
    Row(
        "train",
        (f"train sft own.yaml {SHORT} --model models/base --data own/train.jsonl --output made/sft",),
        r"steps +1\n[\s\S]*model folder: made/sft",
        ("made/sft/steerlm.json",),
    ),
    Row(
        "annotate",
        ("annotate --input-file own/train.jsonl --output-file made/labeled.jsonl --model models/reward",),
        r"made/labeled\.jsonl: labeled 8 turns of 8 conversations",
        ("made/labeled.jsonl",),
    ),
    Row(
        "serve reward",
        (
            "serve reward models/reward --port 1424 &",
            "annotate --input-file own/val.jsonl --output-file made/served.jsonl --port 1424",
        ),
        r"made/served\.jsonl: labeled 4 turns of 4 conversations",
        ("made/served.jsonl",),
    ),
    Row(
        "serve generate",
        ("serve generate models/policy --port 1427 &", f"{ASK} --url http://127.0.0.1:1427"),
        r"warm:4,brief:2,bold:9\n",
    ),
    Row("ask", (f"{ASK} --model models/policy",), r"warm:4,brief:2,bold:9\n"),
    Row(
        "evaluate steering",
        (
            "evaluate steering --model models/policy --reward models/reward --questions questions.txt"
            " --held-out own/val.jsonl --max-tokens 2 --output made/report",
        ),
        r"of 8 questions, by the reward model:\n  warm +Spearman +-?\d\.\d\d [\s\S]*\nwarm +4 [\s\S]*report: made",
        ("made/report/evaluation.json", "made/report/report.html"),
    ),
    Row(
        "evaluate reward",
        ("evaluate reward --model models/reward --input-file own/val.jsonl",),
        r"Pearson[\s\S]*\nwarm +4 +\d+\.\d+",
    ),
    Row("plan", ("plan own.yaml --model base=models/base",), r"memory per GPU|checkpoint "),
    Row(
        "doctor",
        (f"doctor --recipe own.yaml {SHORT}",),
        r"ok +memory +[\s\S]*the recipe's trainings hold [\s\S]*ok +mlflow",
    ),
    Row(
        "preflight",
        ("preflight --set profile.store=made/store --write-mib 1",),
        r"host +GPUs +/dev/shm +ulimit -l +free +write\n +0 ",
        ("made/store/preflight/result.json",),
    ),
    Row(
        "run",
        (f"run own.yaml {SHORT} --stage prepare_data --store made/store",),
        r"prepare_data +run [\s\S]*1 stage in \d",
        ("made/store/prepare_data",),
    ),
    Row("store list", ("store list store",), r"prepare_data +new +complete [\s\S]*train_reward +begun +unfinished"),
    Row("store verify", ("store verify store",), r"2 artifacts are intact"),
    Row(
        "store rm",
        ("store rm store prepare_data/old", "store rm store prepare_data/old --delete"),
        r"prepare_data +old +complete .*  deleted\n.* freed\n",
    ),
    Row("store gc", ("store gc store --keep 1", "store gc store --keep 1 --delete"), r"train_reward +begun .* deleted"),
)
ELSEWHERE = {
    "chat": "tests/cli/test_chat.py::test_dials_are_turned_in_a_piped_chat",
    "model import": "tests/cli/test_model.py::test_import_and_export_give_the_folder_back",
    "model export": "tests/cli/test_model.py::test_import_and_export_give_the_folder_back",
}
"""Commands that need a process of their own or a person's lines, with the tests that run them to success."""
MODULES = {
    "steerlm.annotation.worker": "tests/cli/test_annotate.py::test_a_job_with_a_killed_worker_goes_on_in_one_process",
    "steerlm.cli": "tests/cli/test_main.py::test_help_is_quick_and_lists_every_command",
    "steerlm.cli.launch": "tests/jobs/test_preflight.py::test_a_launcher_runs_it_and_prints_the_report",
    "steerlm.evaluation.scoring_worker": "tests/evaluation/test_job_scorer.py",
    "steerlm.evaluation.worker": "tests/evaluation/test_answerers.py::test_a_real_job_answers_alike",
    "steerlm.jobs.kubernetes.mpi_launcher": "tests/jobs/kubernetes/test_mpi.py",
    "steerlm.jobs.kubernetes.mpi_worker": "tests/jobs/kubernetes/test_mpi.py",
    "steerlm.jobs.kubernetes.pod_entry": "tests/jobs/kubernetes/test_pod_entry.py",
    "steerlm.jobs.kubernetes.probe": "tests/jobs/kubernetes/test_probe.py::test_a_file_goes_from_pod_to_pod",
    "steerlm.jobs.kubernetes.reaper": "tests/jobs/kubernetes/test_reaper.py::test_what_is_missing_is_said",
    "steerlm.jobs.preflight_worker": "tests/jobs/test_preflight.py",
    "steerlm.jobs.worker": "tests/jobs/test_local.py",
    "steerlm.trainjob.token_index": "tests/cli/test_every_command.py::test_a_written_spec_is_indexed_by_its_program",
    "steerlm.trainjob.worker": "tests/trainjob/test_torchrun.py",
}
"""Programs that `python -m` or torchrun runs, with the tests that run them as processes."""


def commands() -> Iterator[str]:
    """Every command of the tree that `--help` shows, by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        if not hasattr(command, "commands"):
            yield " ".join(words)
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    group: Any = typer.main.get_command(main.app)
    for name in main.COMMANDS:
        context = typer.Context(group, obj=[name])
        yield from walk(group.get_command(context, name), (name,))


def test_no_command_is_forgotten() -> None:
    assert sorted(commands()) == sorted([*(row.command for row in ROWS), *ELSEWHERE])
    for row in ROWS:
        assert any(line.startswith(row.command) for line in row.lines), f"no line runs {row.command}"


def test_no_program_is_forgotten() -> None:
    programs = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "steerlm").rglob("*.py")
        if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert programs == set(MODULES)


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values(), *MODULES.values()}))
def test_the_tests_that_are_named_exist(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    world.build(folder)
    (folder / "made").mkdir()
    return folder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
def test_the_command_ends_well(row: Row, folder: Path) -> None:
    """Rows run in order; some take what earlier ones made."""
    shell = Shell()
    with working_in(folder):
        try:
            said = [shell.command(shlex.split(f"steerlm {line}")) for line in row.lines]
        finally:
            shell.stop()
    assert re.search(row.says, said[-1]), said[-1]
    for name in row.makes:
        assert (folder / name).exists(), f"{row.command} did not make {name}"


def test_a_written_spec_is_indexed_by_its_program(folder: Path) -> None:
    line = f"train sft own.yaml {SHORT} --model models/base --data own/train.jsonl --output made/planned"
    with working_in(folder):
        said = Shell().command(shlex.split(f"steerlm {line} --write-spec made/sft.json"))
        shutil.rmtree("made/planned.work")
        command = [sys.executable, "-m", "steerlm.trainjob.token_index", "made/sft.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "-m steerlm.trainjob.worker" in said
    assert done.returncode == 0, done.stderr
    assert list((folder / "made" / "planned.work").rglob("*.bin")), "the index is there again"
