# SPDX-License-Identifier: Apache-2.0
"""Each component's `metadata.yaml` and OWNERS obey the rules of kubeflow/pipelines-components' validator."""

import re
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

REQUIRED = ["name", "stability", "dependencies", "lastVerified"]
OPTIONAL = {"tags", "ci", "links"}
VERSION = re.compile(r"(==|>=|<=)?\d+\.\d+\.\d+(-[\w.]+)?(\+[\w.]+)?")
FOLDERS = sorted(path.parent for path in (ROOT / "components").glob("*/component.py"))
REPOSITORY = "https://github.com/steerlm/steerlm/blob/main/"


def metadata(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_fields_are_the_validators(folder: Path) -> None:
    fields = metadata(folder)
    assert [name for name in fields if name not in OPTIONAL] == REQUIRED, "in this order, and no other field"
    assert fields["name"] == folder.name
    assert fields["stability"] in ("experimental", "alpha", "beta", "stable")
    assert all(isinstance(tag, str) for tag in fields["tags"])
    assert fields["ci"].keys() == {"skip_dependency_probe"}
    assert isinstance(fields["ci"]["skip_dependency_probe"], bool)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_dependencies_have_names_and_semantic_versions(folder: Path) -> None:
    dependencies = metadata(folder)["dependencies"]
    assert {"kubeflow"} <= dependencies.keys() <= {"kubeflow", "external_services"}
    assert "Pipelines" in [one["name"] for one in dependencies["kubeflow"]]
    for one in (one for several in dependencies.values() for one in several):
        assert one.keys() == {"name", "version"}
        assert VERSION.fullmatch(one["version"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_date_of_the_last_check_is_an_instant(folder: Path) -> None:
    """The validator also refuses one that is a year old, which is no reason for this test to fail."""
    verified = metadata(folder)["lastVerified"]
    assert isinstance(verified, datetime)
    assert verified.utcoffset() == timedelta(0)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_links_lead_to_files_of_the_repository(folder: Path) -> None:
    links = metadata(folder)["links"]
    assert links["source"] == f"{REPOSITORY}steerlm/stages/{folder.name}.py"
    for address in links.values():
        assert (ROOT / address.removeprefix(REPOSITORY)).is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_owners_have_an_approver(folder: Path) -> None:
    lines = (folder / "OWNERS").read_text(encoding="utf-8").splitlines()
    assert any(
        line.startswith("approvers:") and after.strip().startswith("- ") and len(after.strip()) > 2
        for line, after in pairwise(lines)
    )
    assert yaml.safe_load("\n".join(lines)).keys() == {"approvers", "reviewers"}
