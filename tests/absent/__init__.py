# SPDX-License-Identifier: Apache-2.0
"""Processes that find some packages as little as where they are not installed."""

import os
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT


def without(*packages: str) -> Mapping[str, str]:
    """This process' environment for one in which these packages cannot be imported, nor found."""
    return {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}", "ABSENT": " ".join(packages)}
