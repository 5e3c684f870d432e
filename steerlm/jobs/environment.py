# SPDX-License-Identifier: Apache-2.0
"""The environment variables that a training's processes start with: one table, with the reason for each.

They must be there before torch, CUDA or NCCL are initialized, so whoever starts the processes sets them: a back end of
this library, or a user with the command that `steerlm train --write-spec` prints. What the user has set is kept.
Torch-free.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steerlm.training.layout import LayoutSettings


@dataclass(frozen=True, slots=True)
class Variable:
    """`applies`: to which layouts. `older_name`: one that is read too; if the user set that, this one is not set."""

    name: str
    value: str
    reason: str
    applies: Callable[[LayoutSettings], bool] = lambda layout: True
    older_name: str | None = None


VARIABLES = (
    Variable(
        "PYTORCH_ALLOC_CONF",
        "expandable_segments:True",
        "Rows have another length every step; memory that grows in place does not fragment (as Megatron-Bridge).",
        older_name="PYTORCH_CUDA_ALLOC_CONF",
    ),
    Variable(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "Megatron relies on one hardware queue to start the collectives of tensor and sequence parallelism before the "
        "computation they overlap with. CUDA reads it when it is initialized. NVIDIA sets 32 on Blackwell.",
        applies=lambda layout: layout.tensor > 1,
    ),
    Variable(
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "3",
        "On an error or a timeout end the process without waiting for an abort of the communicator, which may hang and "
        "which loses the flight recorder's dump. torch's default, but torchrun sets 1 (torchtitan sets 3 too).",
        applies=lambda layout: layout.processes > 1,
    ),
    Variable(
        "TOKENIZERS_PARALLELISM",
        "false",
        "The launcher has tokenized the data; the processes of a node must not each start as many threads as it has "
        "cores.",
    ),
)
"""Not set, as the defaults are right: TORCH_NCCL_AVOID_RECORD_STREAMS (torch's default now, and deprecated), NCCL_*
(NCCL finds transports, interfaces and NVLink SHARP by itself; a cluster that needs other values sets them)."""


def variables(layout: LayoutSettings) -> dict[str, str]:
    """The variables for a layout, by name."""
    return {variable.name: variable.value for variable in VARIABLES if variable.applies(layout)}


def added_to(environment: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """`environment` with those of `wanted` that it does not set, under this or an older name."""
    set_by_user = {
        variable.name for variable in VARIABLES if variable.older_name and variable.older_name in environment
    }
    return {**{name: value for name, value in wanted.items() if name not in set_by_user}, **environment}
