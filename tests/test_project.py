# SPDX-License-Identifier: Apache-2.0
"""Rules of the project that no tool checks: license headers, one name per class, one version everywhere."""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import yaml

import steerlm
from tests.conftest import ROOT

FOLDERS = ("steerlm", "steerlm_kfp", "components", "pipelines", "images", "demos", "benchmarks", "tests", ".github")
SUFFIXES = {".py", ".sh", ".yaml", ".yml"}


def test_every_source_file_names_its_license() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    files += [ROOT / name for name in ("Makefile", "pyproject.toml", "mkdocs.yml", ".importlinter", ".ci/run")]
    assert len(files) > 400
    compiled = ROOT / "pipelines" / "compiled"
    bare = [
        str(path.relative_to(ROOT))
        for path in files
        if path.parent != compiled and "SPDX-License-Identifier: Apache-2.0" not in head(path)
    ]
    assert bare == []


def test_no_class_name_occurs_twice_in_the_library() -> None:
    """A name in a traceback or an import must say which class it is."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "steerlm").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 200
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest and newest[1] == citation["version"] == steerlm.__version__


def test_the_supported_versions_of_python_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]},<3.{int(named[-1][2:]) + 1}"


def head(path: Path) -> str:
    return "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:2])
