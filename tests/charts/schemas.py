# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.charts.schemas FOLDER`: schemas of Kubernetes and of CRDs for kubeconform, without a cluster."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.schemas import write_definitions
from tests.conftest import ROOT

MODULES = ROOT / "tests" / "charts" / "modules.txt"
Json = dict[str, Any]


def files() -> Iterator[Path]:
    """The files of `modules.txt` in Go's module cache, downloaded if need be."""
    for line in MODULES.read_text().splitlines():
        if not line.startswith("#"):
            module, version, file = line.split()
            command = ["go", "mod", "download", "-json", f"{module}@{version}"]
            done = subprocess.run(command, capture_output=True, text=True, cwd="/")
            answer = json.loads(done.stdout or "{}")
            if "Dir" not in answer:
                sys.exit(f"{module}@{version}: {answer.get('Error') or done.stderr}")
            yield Path(answer["Dir"]) / file


def definitions(path: Path) -> Json:
    """OpenAPI's definitions in a swagger.json or a CRD."""
    if path.suffix == ".json":
        found: Json = json.loads(path.read_text())["definitions"]
        return found
    (crd,) = (one for one in yaml.safe_load_all(path.read_text()) if one)
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
    return {
        f"{group}.{version['name']}.{kind}": {
            **version["schema"]["openAPIV3Schema"],
            "x-kubernetes-group-version-kind": [{"group": group, "version": version["name"], "kind": kind}],
        }
        for version in crd["spec"]["versions"]
    }


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in files():
        assert write_definitions(definitions(path), folder)


if __name__ == "__main__":
    main()
