# SPDX-License-Identifier: Apache-2.0
"""docs/laptop.md: every figure is printed by the command above it."""

from pathlib import Path

from tests.conftest import ROOT
from tests.docs.shell import Shell, blocks, working_in

DOCUMENT = ROOT / "docs" / "laptop.md"


def test_every_figure_is_what_the_command_prints(tmp_path: Path) -> None:
    shell = Shell(words={}, added={})
    with working_in(tmp_path):
        try:
            shell.run(DOCUMENT)
        finally:
            shell.stop()
    assert [block.language for block in blocks(DOCUMENT)].count("text") == 4


def test_the_ratio_of_work_is_that_of_the_printed_flops() -> None:
    text = DOCUMENT.read_text()
    assert "3.34e+14 FLOPs" in text and "`4.68e+10 FLOPs`" in text and round(3.34e14 / 4.68e10, -3) == 7000
