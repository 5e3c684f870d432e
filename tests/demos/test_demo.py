# SPDX-License-Identifier: Apache-2.0
"""The links to the models of `make demo`, and the examples that use them."""

import re
from pathlib import Path

from demos.synthetic import MODELS, link_models
from tests.conftest import ROOT

DEMO_PATH = re.compile(r"runs/demo/([\w.-]+\w)")


def test_links_point_to_the_latest_models_even_after_the_folder_moves(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    for key in ("old", "new"):
        folder = output / "store" / "train_sft" / key / "policy"
        folder.mkdir(parents=True)
        (folder / "steerlm.json").write_text(key)
        link_models(output, {"policy": str(folder)})
    assert (output / "policy" / "steerlm.json").read_text() == "new"
    output.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "policy" / "steerlm.json").read_text() == "new"
    # The server's model id is the resolved folder's name.
    assert (tmp_path / "moved" / "policy").resolve().name == "policy"


def test_examples_use_only_paths_that_the_demo_writes() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "steerlm").rglob("*.py")]
    mentioned = {name for file in files for name in DEMO_PATH.findall(file.read_text(encoding="utf-8"))}
    assert {"policy", "reward"} <= mentioned <= {*MODELS, "summary.json", "store"}
