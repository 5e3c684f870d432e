# SPDX-License-Identifier: Apache-2.0
"""The examples of the documentation that use the models of `make demo`."""

import re

from steerlm.pipeline.results import MODELS, REPORT
from tests.conftest import ROOT

DEMO_PATH = re.compile(r"runs/demo/([\w.-]+\w)")


def test_examples_use_only_paths_that_the_demo_writes() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "steerlm").rglob("*.py")]
    mentioned = {name for file in files for name in DEMO_PATH.findall(file.read_text(encoding="utf-8"))}
    assert {"policy", "reward"} <= mentioned <= {*MODELS, REPORT, "summary.json", "store"}
