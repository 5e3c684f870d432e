# SPDX-License-Identifier: Apache-2.0
"""Where `make demo` says its models lie, and who else says so."""

import re
from pathlib import Path

from demos.synthetic import MODELS, link_models
from tests.conftest import ROOT

SAID = re.compile(r"runs/demo/([\w.-]+\w)")


def test_links_lead_to_the_models_of_the_latest_run_wherever_the_folder_is(tmp_path: Path) -> None:
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


def test_every_example_names_what_the_demo_leaves() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "steerlm").rglob("*.py")]
    said = {name for file in files for name in SAID.findall(file.read_text(encoding="utf-8"))}
    assert {"policy", "reward"} <= said <= {*MODELS, "summary.json", "store"}
