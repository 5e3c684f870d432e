# SPDX-License-Identifier: Apache-2.0
"""The documentation site builds from the repository's own pages, and a link that leads nowhere fails the build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in PAGES:
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


def test_the_site_builds_with_every_page(project: Path) -> None:
    done = build(project)
    assert done.returncode == 0, done.stderr
    site = project / "build" / "site"
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"contributing", "changelog"}
    assert {path.parent.name for path in site.glob("*/index.html")} >= pages
    assert "attributes.yaml</span>" in (site / "own-data" / "index.html").read_text(encoding="utf-8")
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorial/"' in start and 'href="contributing/"' in start and not (site / "site.py").exists()


@pytest.mark.parametrize("link", ["[nowhere](nowhere.md)", "[nothing](store.md#nothing)"])
def test_a_link_that_leads_nowhere_fails(project: Path, link: str) -> None:
    with open(project / "docs" / "store.md", "a", encoding="utf-8") as page:
        page.write(f"\n{link}\n")
    done = build(project)
    assert done.returncode != 0 and "store.md" in done.stderr
