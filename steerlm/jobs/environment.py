# SPDX-License-Identifier: Apache-2.0
"""The environment variables that training processes start with: one table, with the reason for each.

torch, CUDA and NCCL read them when they are initialized, so a back end sets them before it starts the processes, and
the command that `steerlm train --write-spec` prints contains them. Values that the user has set are kept. Torch-free.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steerlm.training.layout import LayoutSettings


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable.

    Attributes:
        applies: Whether a layout needs it.
        older_name: Another name that is still read; if the user has set that one, this one is not set.
    """

    name: str
    value: str
    reason: str
    applies: Callable[[LayoutSettings], bool] = lambda layout: True
    older_name: str | None = None


VARIABLES = (
    Variable(
        "PYTORCH_ALLOC_CONF",
        "expandable_segments:True",
        "Row lengths change every step; memory that grows in place does not fragment (as in Megatron-Bridge).",
        older_name="PYTORCH_CUDA_ALLOC_CONF",
    ),
    Variable(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "Megatron relies on one hardware queue to start the collectives of tensor and sequence parallelism before the "
        "computation they overlap with. NVIDIA sets 32 on Blackwell.",
        applies=lambda layout: layout.tensor > 1,
    ),
    Variable(
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "3",
        "On an error or a timeout, end the process without waiting for the communicator to abort, which may hang and "
        "loses the flight recorder's dump. torch's default, but torchrun sets 1 (torchtitan sets 3 too).",
        applies=lambda layout: layout.processes > 1,
    ),
    Variable(
        "TOKENIZERS_PARALLELISM",
        "false",
        "The launcher has tokenized the data; the processes of a node must not each start as many threads as it has "
        "cores.",
    ),
)
"""Not set, because the defaults are right: TORCH_NCCL_AVOID_RECORD_STREAMS (now torch's default, and deprecated) and
NCCL_* (NCCL detects transports, interfaces and NVLink SHARP; a cluster that needs other values sets them)."""


def variables(layout: LayoutSettings) -> dict[str, str]:
    """Return the variables for a layout, by name."""
    return {variable.name: variable.value for variable in VARIABLES if variable.applies(layout)}


def added_to(environment: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` plus the `defaults` that it does not set under their own or an older name."""
    set_by_user = {
        variable.name for variable in VARIABLES if variable.older_name and variable.older_name in environment
    }
    return {**{name: value for name, value in defaults.items() if name not in set_by_user}, **environment}


def process_environment(defaults: Mapping[str, str], threads: int | None, devices: int) -> dict[str, str]:
    """Return the environment of the `devices` processes of a machine: this process's, the defaults, the threads.

    `threads`: CPU threads per process; None divides the machine's cores among its processes.
    """
    return {
        **added_to(os.environ, defaults),
        "OMP_NUM_THREADS": str(threads or max(1, (os.cpu_count() or 1) // devices)),
        "PYTHONUNBUFFERED": "1",
    }
