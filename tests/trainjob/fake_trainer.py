# SPDX-License-Identifier: Apache-2.0
"""Replaces the training worker where only the code around it is tested: copies its spec and writes a result."""

import json
import shutil
import sys
from pathlib import Path

from steerlm.errors import TrainingError

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    output = Path(spec["output"])
    if (output.parent / "fail").exists():
        raise TrainingError("a file requests failure")
    for step, loss in enumerate((1.0, 0.5, 0.3), 1):
        sys.stdout.write(f"12:00:00 INFO fake step {step}/3 loss={loss}\n")
    shutil.copyfile(sys.argv[1], output / "spec.json")
    (Path(spec["work"]) / "result.json").write_text(json.dumps({"steps": 3, "metrics": {"loss": 0.5}}))
