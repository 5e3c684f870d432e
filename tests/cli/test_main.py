# SPDX-License-Identifier: Apache-2.0
"""The command as a user meets it: quick help, usage errors, one line per error, exit statuses."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import typer

from steerlm.cli import main
from steerlm.errors import InputError, Interrupted, SteerLMError


def steerlm(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "steerlm.cli", *args], capture_output=True, text=True, check=False)


def test_help_is_quick_and_lists_every_command() -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        out = steerlm("--help")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.5
    assert out.returncode == 0
    assert all(f"  {name} " in out.stdout for name in main.COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from steerlm.cli.main import call; call(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "yaml", "kfp", "mlflow", "transformers", "fastapi"}


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.call([name, "--help"]) == 0
    assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["data"], ["model"], ["serve"], ["evaluate"], ["store"]])
def test_the_line_of_a_command_is_a_whole_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.call([*words, "--help"]) == 0
    shown = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert len(shown) > 1
    assert all(line.endswith(".") and not line.endswith("...") for line in shown), shown


def test_a_program_without_arguments_of_its_own_can_call_a_command() -> None:
    code = "from steerlm.cli.main import call; call(['data', 'oasst', '--help'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--output_directory" in out


def test_an_unknown_command_is_a_usage_error() -> None:
    out = steerlm("trane")
    assert out.returncode == 2
    assert "trane" in out.stderr
    assert "Traceback" not in out.stderr


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command that raises what the list holds."""
    what: list[BaseException] = []
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise what[0]

    module = type(sys)("steerlm_test_command")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "steerlm_test_command", module)
    monkeypatch.setitem(main.COMMANDS, "fail", ("steerlm_test_command", "Fails."))
    yield what


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("data.jsonl:3: no text"), 2),
        (SteerLMError("the disk is full"), 1),
        (Interrupted("saved at step 3"), 143),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oops"), 1),
    ],
)
def test_errors_are_one_line_with_their_status(
    raising: list[BaseException], error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    raising.append(error)
    assert main.call(["fail"]) == status
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_debug_shows_the_traceback(raising: list[BaseException]) -> None:
    raising.append(InputError("x"))
    with pytest.raises(InputError):
        main.call(["--debug", "fail"])
