# SPDX-License-Identifier: Apache-2.0
"""A worker that leaves a process behind, which ends, and waits until process 1 has reaped it."""

import os
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    left = subprocess.run(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
    orphan = Path("/proc") / left.stdout.decode().strip()
    end = time.monotonic() + 60
    while orphan.exists():
        if time.monotonic() > end or os.getppid() != 1:
            sys.exit(3)
        time.sleep(0.05)
