# SPDX-License-Identifier: Apache-2.0
"""Writes the Python packages of each base image to `images/base/*/requirements.txt`: `make lock`.

The versions are those of constraints.txt. A base is built anew when its own list changes, and not when a tool of the
developers does: its layer is large.
"""

import subprocess
import sys
from pathlib import Path

IMAGES = Path(__file__).resolve().parent
ROOT = IMAGES.parent
_COMPUTING = ("train", "serve", "report", "pipeline", "cluster")
EXTRAS = {"cpu": _COMPUTING, "gpu": _COMPUTING, "launcher": ("launcher", "gateway")}
"""The extras of pyproject.toml that each base has."""
PYTHON = {"cpu": "3.11", "gpu": "3.12", "launcher": "3.11"}
"""The version of Python of each base."""
HEADER = "# SPDX-License-Identifier: Apache-2.0\n# The Python packages of this base. Made by: make lock\n"


def requirements_file(base: str) -> Path:
    """Return the list of a base's packages."""
    return IMAGES / "base" / base / "requirements.txt"


def resolve(base: str) -> str:
    """Return the exact versions of a base's packages, one per line. Asks the package index."""
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--no-emit-index-url"]
    command += ["--no-emit-package", "steerlm", "--python-version", PYTHON[base], "-c", str(ROOT / "constraints.txt")]
    command += [argument for extra in EXTRAS[base] for argument in ("--extra", extra)]
    command.append(str(ROOT / "pyproject.toml"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: the packages of base {base} cannot be resolved:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    for base in EXTRAS:
        requirements_file(base).write_text(HEADER + resolve(base), encoding="utf-8")
