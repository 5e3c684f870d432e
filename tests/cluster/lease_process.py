# SPDX-License-Identifier: Apache-2.0
"""A launcher's process on a machine of its own: holds a key's lock in a store and finishes the key.

`python -m tests.cluster.lease_process STORE MACHINE`: prints `waits for ...` and `holds`; then answers the lines of its
input: `check`, `finish`. It ends with its input.
"""

import socket
import sys
from pathlib import Path

from steerlm.artifact import Store
from steerlm.errors import StorageError
from steerlm.jobs.kubernetes import lease


def say(*words: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{' '.join(words)}\n")
    sys.stdout.flush()


def main(folder: str, machine: str) -> None:
    """Hold the lock of the key `stage/key`. Times are short, so that a test can wait for a dead holder."""
    vars(socket)["gethostname"] = lambda: machine
    vars(lease).update(DURATION_SECONDS=8, RENEW_SECONDS=1.0, POLL_SECONDS=0.3, CONFIRMED_SECONDS=0.0)
    store = Store(Path(folder))
    with store.lock("stage", "key", lambda holder: say("waits for", holder)) as held:
        say("holds")
        for line in sys.stdin:
            try:
                if line == "check\n":
                    held.check()
                elif line == "retire\n":
                    held.retire()
                else:
                    store.begin("stage", "key", "data", {})
                    (store.folder("stage", "key") / "data" / "writer").write_text(machine)
                    store.finish("stage", "key", "data", None, {}, held=held)
                say("done")
            except StorageError as error:
                say("error:", str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
