# SPDX-License-Identifier: Apache-2.0
"""The bases have every package that their extras ask for, so that no image lacks one when it runs."""

import re
import tomllib

import pytest

from images.lock import EXTRAS, requirements_file
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def asked(extra: str) -> set[str]:
    """Names of the packages of an extra, those of the extras that it names included."""
    names: set[str] = set()
    for wanted in PROJECT["optional-dependencies"][extra]:
        if inner := re.match(r"steerlm\[([\w,]+)\]", wanted):
            names |= {name for one in inner[1].split(",") for name in asked(one)}
        else:
            names.add(re.split(r"[\[<>=!;~ ]", wanted)[0].lower().replace("_", "-"))
    return names


@pytest.mark.parametrize("base", EXTRAS)
def test_a_base_has_what_its_extras_ask_for(base: str) -> None:
    lines = requirements_file(base).read_text(encoding="utf-8").splitlines()
    present = {line.partition("==")[0].lower() for line in lines if "==" in line}
    plain = {re.split(r"[\[<>=]", wanted)[0].lower() for wanted in PROJECT["dependencies"]}
    wanted = plain.union(*(asked(extra) for extra in EXTRAS[base]))
    assert wanted - present == set(), "make lock"
