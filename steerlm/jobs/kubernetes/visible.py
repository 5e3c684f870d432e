# SPDX-License-Identifier: Apache-2.0
"""The list of the files that a job has written, by which its launcher knows that it sees all of them.

A shared file system may show a file to another machine seconds after it was written. So a job ends by writing
`files.json` into its attempt's folder, and the launcher, which seals the result, first waits for these files.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

from steerlm.checksums import FileDigest
from steerlm.errors import StorageError
from steerlm.files import write_json

FILES = "files.json"
POLL_SECONDS = 0.5
NAMED = 3
"""Most files that a message names."""


def write_file_list(attempt_folder: Path, files: Mapping[str, FileDigest]) -> None:
    """Write the list. `files`: size and checksum by path relative to the job's output; `..` leads out of it."""
    write_json(attempt_folder / FILES, {name: dataclasses.asdict(files[name]) for name in sorted(files)})


def wait_until_visible(attempt_folder: Path, root: Path, timeout: float) -> dict[str, FileDigest]:
    """Wait until all files of an attempt's list are seen here with the size that was written; return the list.

    Checksums are not compared: the store does that when it seals them.

    Args:
        attempt_folder: Has the list.
        root: The job's output, to which the list's paths are relative.
        timeout: In seconds.

    Raises:
        StorageError: The list or some of its files are not there in time; the message names them.
    """
    end = time.monotonic() + timeout
    while True:
        listed = _read(attempt_folder / FILES)
        problems = [f"{FILES} of {attempt_folder}"] if listed is None else _problems(root, listed)
        if listed is not None and not problems:
            return listed
        if time.monotonic() >= end:
            more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
            raise StorageError(
                f"{root}: {'; '.join(problems[:NAMED])}{more} not visible {timeout:g} seconds after the job ended; "
                "check the workspace's file system, then run the same command again"
            )
        time.sleep(POLL_SECONDS)


def _read(path: Path) -> dict[str, FileDigest] | None:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return {name: FileDigest(**digest) for name, digest in listed.items()}


def _problems(root: Path, listed: Mapping[str, FileDigest]) -> list[str]:
    problems = []
    for name, digest in listed.items():
        try:
            size = (root / name).stat().st_size
        except OSError:
            problems.append(name)
            continue
        if size != digest.size:
            problems.append(f"{name} ({size} of {digest.size} bytes)")
    return problems
