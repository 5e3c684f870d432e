# SPDX-License-Identifier: Apache-2.0
"""`steerlm ask` and the command line of `steerlm serve`."""

from pathlib import Path

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.cli.ask import parse_attributes
from steerlm.cli.main import call
from steerlm.errors import InputError
from tests.serving.conftest import ANSWERS, QUESTION, SCHEMA


def test_attributes_in_both_forms() -> None:
    assert parse_attributes(["--humor", "4", "--quality=0"], SCHEMA) == {"humor": 4, "quality": 0}
    own = AttributeSchema(names=("very_kind",), high=9)
    assert parse_attributes(["--very-kind", "9"], own) == parse_attributes(["--very_kind=9"], own) == {"very_kind": 9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--humour", "4"], "unknown option --humour; did you mean 'humor'"),
        (["--warmth", "4"], "unknown option --warmth; known: quality, toxicity, humor"),
        (["--humor"], r"--humor needs a value 0\.\.4"),
        (["--humor", "high"], r"--humor must be an integer 0\.\.4, not 'high'"),
        (["--humor", "5"], r"must be in 0\.\.4"),
        (["pet?"], "put the question in quotes"),
    ],
)
def test_invalid_attributes(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_attributes(arguments, SCHEMA)


def test_a_model_without_attributes() -> None:
    assert parse_attributes([], None) == {}
    with pytest.raises(InputError, match="no attributes"):
        parse_attributes(["--humor", "1"], None)


@pytest.mark.parametrize("local", [False, True])
def test_ask(local: bool, taught_server: str, taught_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--model", str(taught_folder)] if local else ["--url", taught_server]
    for humor, answer in ANSWERS.items():
        assert call(["ask", QUESTION, "--humor", str(humor), "--show-attributes", *where]) == 0
        out, err = capfd.readouterr()
        assert out == f"{answer}\n"
        assert f"quality:4,toxicity:0,humor:{humor}" in err


def test_errors_of_ask(taught_server: str, taught_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, status, message in (
        (["--url", taught_server, "--humour", "1"], 2, "did you mean 'humor'"),
        (["--model", str(taught_folder), "--humor", "9"], 2, "must be in 0..4"),
        (["--url", "http://127.0.0.1:1"], 1, "start one with: steerlm serve generate"),
        (["--model", "no/such/folder"], 2, "no such model folder"),
    ):
        assert call(["ask", QUESTION, *arguments]) == status
        assert message in capfd.readouterr().err
    assert call(["ask", "<extra_id_1>", "--model", str(taught_folder)]) == 2
    assert "<extra_id_1>" in capfd.readouterr().err


def test_help_has_examples(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["ask"], ["serve", "reward"], ["serve", "generate"]):
        assert call([*arguments, "--help"]) == 0
        assert f"Example: steerlm {' '.join(arguments)}" in capfd.readouterr().out
