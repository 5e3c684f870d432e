# SPDX-License-Identifier: Apache-2.0
"""A worker writes its status, whatever else happens to it while it ends."""

import json
import subprocess
import sys
from pathlib import Path

MODULE = '''
import os, signal, time

def stop(number, frame):
    raise SystemExit(143)

class Broken(Exception):
    """Its process is terminated while the message is made, as torchrun does."""

    def __str__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return "broken"

signal.signal(signal.SIGTERM, stop)
raise Broken()
'''


def test_a_signal_does_not_prevent_the_status(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(MODULE)
    done = subprocess.run([sys.executable, "-m", "steerlm.jobs.worker", str(tmp_path), "broken"], cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads((tmp_path / "status-0.json").read_text()) == {
        "code": 1,
        "error": "Broken: broken",
        "final": False,
        "lost_peer": False,
    }
