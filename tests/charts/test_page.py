# SPDX-License-Identifier: Apache-2.0
"""docs/deployment.md: its release installs, its other values fit into it, its table is the script's."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.charts.render import Helm
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "deployment.md").read_text()


def test_the_values_of_the_page(helm: Helm, tmp_path: Path) -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    release, *more = [block for block in blocks if isinstance(block, dict)]
    assert len(more) == 3
    words: list[str] = []
    for number, values in enumerate((release, *more)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(values))
        words += ["--values", str(path)]
        # The scaler's page says what vLLM needs besides.
        helm.template(*words, "--set", "vllm.exposeMetrics=true")


def test_the_table_is_the_script_s() -> None:
    script = ROOT / "benchmarks" / "sizing.py"
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout in PAGE
