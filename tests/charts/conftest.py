# SPDX-License-Identifier: Apache-2.0
"""The programs that these tests run, as `make test-charts` builds them; without them the tests are skipped."""

import os
from pathlib import Path

import pytest

from tests.charts.render import Helm


def named(variable: str) -> Path:
    """The path in an environment variable."""
    if not os.environ.get(variable):
        pytest.skip(f"set {variable}: make test-charts")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(named("STEERLM_HELM"))


@pytest.fixture(scope="session")
def helm_docs() -> Path:
    return named("STEERLM_HELM_DOCS")


@pytest.fixture(scope="session")
def kubeconform() -> list[str]:
    """The command that checks manifests on its standard input."""
    location = f"{named('STEERLM_SCHEMAS')}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    return [str(named("STEERLM_KUBECONFORM")), "-strict", "-summary", "-schema-location", location, "-"]
