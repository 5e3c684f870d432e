# SPDX-License-Identifier: Apache-2.0
"""A minimal worker: counts to the `steps` of its spec in a file, as training would step, and fails on request."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from steerlm.errors import TrainingError


def log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    counter = Path(spec["work"]) / f"step-{os.environ.get('RANK', '0')}"
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    step = int(counter.read_text()) if counter.exists() else 0
    log(f"starts at step {step}")
    while step < spec["steps"]:
        if signals:
            counter.write_text(str(step))
            return 143
        step += 1
        log(f"step {step}/{spec['steps']}")
        if step == spec.get("fail_at") and os.environ.get("RANK", "0") == "0":
            raise TrainingError("the loss is not finite")
        if step == spec.get("die_at") and os.environ.get("RANK", "0") == "0":
            counter.write_text(str(step))
            os.kill(os.getpid(), signal.SIGKILL)
        if step == spec.get("hang_at"):
            time.sleep(60)
        time.sleep(spec.get("pause", 0.0))
    counter.write_text(str(step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
