# SPDX-License-Identifier: Apache-2.0
"""Seconds until `steerlm --help` and a command's help have been printed: the median of some runs, each a new process.

python benchmarks/startup.py [--runs 15]
"""

import argparse
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    for words in (["--help"], ["annotate", "--help"], ["run", "--help"]):
        seconds = []
        for _ in range(options.runs + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "steerlm.cli", *words], capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        print(f"steerlm {' '.join(words):16} {statistics.median(seconds[1:]):.2f} s, slowest {max(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
