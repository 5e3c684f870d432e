# SPDX-License-Identifier: Apache-2.0
"""Torch's flight recorder: the last collectives of every process group, in a file when one of them has timed out.

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
    """Tell torch to record, and where to write on a timeout; the file of this rank. Before any process group is made.

    What the environment sets already stays as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        "TORCH_FR_BUFFER_SIZE": "2000",  # collectives kept
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",  # on every rank, when it happens on one
        # The rank is appended. The second is the older name, which counts where torch does not know the first.
        "TORCH_FR_DUMP_TEMP_FILE": str(folder / "rank_"),
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(folder / "rank_"),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    return Path(f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{rank}")


def entered() -> int:
    """How many collectives this process has entered, over all its groups."""
    c10d: Any = torch._C._distributed_c10d
    trace = c10d._dump_nccl_trace_json if device.on_accelerator() else c10d._dump_fr_trace_json
    groups = json.loads(trace(includeCollectives=False))["pg_status"]
    return sum(max(0, int(group["last_enqueued_collective"])) for group in groups.values())


def dump(path: Path) -> None:
    """Write this rank's record; on an accelerator torch has done so, in the moment of the timeout."""
    if not device.on_accelerator():
        c10d: Any = torch._C._distributed_c10d
        path.write_bytes(c10d._dump_fr_trace())
