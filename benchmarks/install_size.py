# SPDX-License-Identifier: Apache-2.0
"""Size of an installation per extra: packages, and MB of their files, each in a new environment.

`python benchmarks/install_size.py [EXTRA ...]`. Needs uv and the package index; uses constraints.txt. A file that is
linked from uv's cache counts in full.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("", "data", "report", "pipeline", "gateway", "models", "serve", "train", "all", "dev")


def measure(extra: str, folder: Path) -> tuple[int, float]:
    """Install `.[extra]` into a new environment; return the number of packages and their MB."""
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    install = ["uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), target]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt")], check=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    size = sum(path.lstat().st_size for path in packages.rglob("*") if path.is_file())
    return len(list(packages.glob("*.dist-info"))), size / 1e6


def main() -> None:
    print("| installed | packages | MB |\n|---|---|---|")
    for extra in sys.argv[1:] or EXTRAS:
        with tempfile.TemporaryDirectory() as folder:
            count, size = measure(extra, Path(folder) / "env")
        print(f"| `{f'.[{extra}]' if extra else '.'}` | {count} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
