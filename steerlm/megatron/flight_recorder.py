# SPDX-License-Identifier: Apache-2.0
"""Torch's flight recorder: it writes the last collectives of every process group to a file when one times out.

`python -m torch.distributed.flight_recorder.fr_trace FOLDER -p rank_` reads the files of all ranks.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from steerlm.megatron import device

FOLDER = "flight_recorder"


def prepare(folder: Path, rank: int) -> Path:
    """Let torch record, and write to `folder` on a timeout; return this rank's file. Call before any group is made.

    Variables that the environment sets already are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        "TORCH_FR_BUFFER_SIZE": "2000",  # collectives kept
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",  # on every rank if it happens on one
        # The rank is appended. The second is the name in older versions of torch.
        "TORCH_FR_DUMP_TEMP_FILE": str(folder / "rank_"),
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(folder / "rank_"),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    return Path(f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{rank}")


def entered() -> int:
    """Return the number of collectives that this process has entered, over all its groups."""
    c10d: Any = torch._C._distributed_c10d
    trace = c10d._dump_nccl_trace_json if device.on_accelerator() else c10d._dump_fr_trace_json
    groups = json.loads(trace(includeCollectives=False))["pg_status"]
    return sum(max(0, int(group["last_enqueued_collective"])) for group in groups.values())


def dump(path: Path) -> None:
    """Write this rank's record; on an accelerator torch writes it at the timeout."""
    if not device.on_accelerator():
        c10d: Any = torch._C._distributed_c10d
        path.write_bytes(c10d._dump_fr_trace())
