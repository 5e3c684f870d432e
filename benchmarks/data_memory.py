# SPDX-License-Identifier: Apache-2.0
"""Peak memory of the data commands on inputs of growing size: streaming means that it does not grow with them.

Synthetic conversations of four turns of 1 kB. Prints each command's peak resident memory for both sizes.

    python benchmarks/data_memory.py [--megabytes 20 400]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def write(path: Path, megabytes: int) -> None:
    text = "all work and no play " * 48
    with open(path, "w", encoding="utf-8") as file:
        for number in range(megabytes * 1_000_000 // 4200):
            turns = [
                {"value": f"{number} {text}", "from": "User", "label": None},
                {"value": text, "from": "Assistant", "label": f"quality:{number % 5},toxicity:0"},
            ] * 2
            file.write(json.dumps({"conversations": turns, "system": "", "mask": "User", "type": "VALUE_TO_TEXT"}))
            file.write("\n")


def peak(words: Sequence[str]) -> float:
    """MB of resident memory that a command took at most."""
    child = subprocess.Popen([sys.executable, "-m", "steerlm.cli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"steerlm {' '.join(words)} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[20, 400])
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for megabytes in options.megabytes:
            source = folder / f"{megabytes}.jsonl"
            write(source, megabytes)
            commands = {
                "regression": ["data", "regression", "--input-file", str(source), "--output-file", str(folder / "r")],
                "merge": ["data", "merge", str(source), "--output-file", str(folder / "m"), "--repeat", "2"],
                "check": ["data", "check", str(source)],
            }
            for command, words in commands.items():
                found.setdefault(command, []).append(peak(words))
                for made in (folder / "r", folder / "m"):
                    made.unlink(missing_ok=True)
            source.unlink()
    for command, sizes in found.items():
        each = ", ".join(f"{size:.0f} MB for {m} MB" for size, m in zip(sizes, options.megabytes, strict=True))
        print(f"steerlm data {command:10} peak {each}")


if __name__ == "__main__":
    main()
