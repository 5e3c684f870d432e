# SPDX-License-Identifier: Apache-2.0
"""A new source is one module and one entry of the table: commands, recipes and hints follow it."""

import re
import subprocess
import sys
from pathlib import Path

from steerlm.datasets.sources.registry import SOURCES
from tests.conftest import ROOT

NEW_SOURCE = """
import sys
from pathlib import Path
from typing import Annotated, Literal

from steerlm.datasets.sources import registry
from steerlm.datasets.sources.base import CommandOption, RawForm, SourceSettings, SourceType, has_keys
from steerlm.datasets.sources.rows import convert_rows, labeled_conversation, user_turn
from steerlm.records import Line


class PairsSource(SourceSettings):
    kind: Literal["pairs"] = "pairs"
    loud: Annotated[bool, CommandOption("Write capitals.", ("--loud",))] = False


class Pair(Line):
    q: str
    a: str


def prepare_pairs(settings, folder, *, schema, on_error="fail"):
    def convert(row, split):
        answer = row.a.upper() if settings.loud else row.a
        return split, [labeled_conversation([user_turn(row.q)], answer, f"{schema.names[0]}:1")]

    return convert_rows(settings, folder, Pair, convert, on_error)


registry.SOURCES["pairs"] = SourceType(
    PairsSource, prepare_pairs, summary="pairs", help="Pairs.",
    forms=(RawForm("pairs", has_keys("q", "a"), "pairs --source {file} --output_directory FOLDER"),),
)
registry.Source = registry.settings_union()

from steerlm.cli.main import call
from steerlm.recipe import PrepareSection

section = PrepareSection.model_validate({"sources": [{"kind": "pairs", "source": "pairs.jsonl"}]})
assert isinstance(section.sources[0], PairsSource) and isinstance(section.merge("sources").sources[0], PairsSource)
assert call(["data", "pairs", "-dir", "out", "--source", "pairs.jsonl", "--loud"]) == 0
sys.exit(call(["data", "check", "pairs.jsonl"]))
"""


def test_a_source_that_is_added_to_the_table_has_a_command_a_hint_and_a_place_in_recipes(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"q": "what", "a": "that"}\n')
    done = subprocess.run([sys.executable, "-c", NEW_SOURCE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "it looks like pairs: steerlm data pairs --source pairs.jsonl --output_directory FOLDER" in done.stderr
    assert '"THAT", "from": "Assistant", "label": "quality:1"' in (tmp_path / "out" / "train.jsonl").read_text()


def test_kinds_are_listed_nowhere_else() -> None:
    folder = ROOT / "steerlm" / "datasets" / "sources"
    own = {path.name for path in folder.glob("*.py")}
    assert list(SOURCES) == [source.kind for source in SOURCES.values()]
    listing = re.compile("|".join(f"[\"']{kind}[\"']" for kind in ("oasst", "helpsteer", "helpsteer2")))
    for path in [*(ROOT / "steerlm").rglob("*.py"), *(ROOT / "components").rglob("*.py")]:
        if not (path.parent == folder and path.name in own):
            assert not listing.search(path.read_text(encoding="utf-8")), f"{path} lists kinds of sources"


def test_recipes_load_without_heavy_libraries() -> None:
    program = (
        "import steerlm.recipe, sys; print([m for m in ('torch', 'numpy', 'pyarrow', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
