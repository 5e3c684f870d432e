# SPDX-License-Identifier: Apache-2.0
"""A worker that writes down what a pod gives its processes."""

import getpass
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    (Path(json.loads(Path(sys.argv[1]).read_text())["work"]) / "created").touch()
    found = {"uid": os.getuid(), "user": getpass.getuser(), "home": str(Path.home()), **os.environ}
    sys.stdout.write(json.dumps(found) + "\n")
