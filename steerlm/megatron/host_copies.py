# SPDX-License-Identifier: Apache-2.0
"""Copies of the training state in host memory, so that a file of it can be written while training goes on."""

from collections.abc import Mapping

import torch

from steerlm.megatron import device


class HostCopies:
    """Host buffers by name, kept from save to save: page-locked where there is an accelerator, which makes the copy
    run at the bus's speed and allocating them expensive."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies of `tensors` on the CPU, which the next call overwrites."""
        for name, tensor in tensors.items():
            if name not in self._buffers:
                self._buffers[name] = device.host_buffer(tensor)
            self._buffers[name].copy_(tensor, non_blocking=True)
        device.synchronize()
        return self._buffers
