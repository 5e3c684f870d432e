# SPDX-License-Identifier: Apache-2.0
"""Compiles the pipelines to `pipelines/compiled/`: `python -m pipelines.compile`; a test compares them."""

from pathlib import Path

COMPILED = Path(__file__).resolve().parent / "compiled"


def compile_all(folder: Path) -> list[Path]:
    """Write one YAML file per pipeline to `folder` and return their paths."""
    from kfp import compiler
    from steerlm_kfp.pipelines.steerlm import steerlm

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "steerlm.yaml"
    compiler.Compiler().compile(steerlm, str(path))
    return [path]


if __name__ == "__main__":
    compile_all(COMPILED)
