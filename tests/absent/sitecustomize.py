# SPDX-License-Identifier: Apache-2.0
"""Python imports this as it starts where this folder is in PYTHONPATH: the packages in ABSENT are not installed."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

ABSENT = frozenset(os.environ["ABSENT"].split())


class PresentPackages(PathFinder):
    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname in ABSENT else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = PresentPackages
