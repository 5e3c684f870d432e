# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.charts.render`: writes the chart's README, and what each of its `ci/*-values.yaml` becomes."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

CHART = ROOT / "charts" / "steerlm-serving"
GOLDEN = ROOT / "tests" / "charts" / "golden"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
LICENSE = "# SPDX-License-Identifier: Apache-2.0\n"
PROMETHEUS = ("--api-versions", "monitoring.coreos.com/v1")


@dataclass(frozen=True)
class Helm:
    program: Path

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *words], input=stdin, capture_output=True, text=True)

    def template(self, *words: str) -> str:
        """Manifests of the release `steerlm` in the namespace `serving`."""
        done = self.run("template", "steerlm", str(CHART), "--namespace", "serving", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def case(self, name: str) -> str:
        """Manifests of one of `ci/`. Prometheus' kinds, and so its objects, exist for `everything` only."""
        words = PROMETHEUS if name == "everything" else ()
        return LICENSE + self.template("--values", str(values(name)), *words)

    def refuse(self, *words: str) -> str:
        """What Helm says to values that it must refuse."""
        done = self.run("template", "steerlm", str(CHART), "--namespace", "serving", *words)
        assert done.returncode != 0, done.stdout
        return done.stderr


def values(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


def readme(helm_docs: Path) -> str:
    """The README, of which the table is made from values.yaml."""
    words = ["--dry-run", "--log-level", "warning", "--sort-values-order", "file", "--chart-search-root", str(CHART)]
    done = subprocess.run([helm_docs, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    helm = Helm(Path(os.environ["STEERLM_HELM"]))
    for name in CASES:
        (GOLDEN / f"{name}.yaml").write_text(helm.case(name), encoding="utf-8")
    (CHART / "README.md").write_text(readme(Path(os.environ["STEERLM_HELM_DOCS"])), encoding="utf-8")


if __name__ == "__main__":
    main()
