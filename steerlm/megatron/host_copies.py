# SPDX-License-Identifier: Apache-2.0
"""Copies of the training state in host memory, which can be written to a file while training continues."""

from collections.abc import Mapping

import torch

from steerlm.megatron import device


class HostCopies:
    """Host buffers by name, reused from one save to the next.

    With an accelerator they are page-locked: copies run at the speed of the bus, and allocation is expensive.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return copies of `tensors` on the CPU; the next call overwrites them."""
        for name, tensor in tensors.items():
            if name not in self._buffers:
                self._buffers[name] = device.host_buffer(tensor)
            self._buffers[name].copy_(tensor, non_blocking=True)
        device.synchronize()
        return self._buffers
