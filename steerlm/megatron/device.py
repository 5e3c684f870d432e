# SPDX-License-Identifier: Apache-2.0
"""The device: the only file that names CUDA, and the layer that lets megatron-core run without it.

megatron-core names CUDA directly: the current device, literal device="cuda", tensor type names, streams, random state.
On a machine without CUDA each of those calls raises, so redirecting them to the CPU cannot change a program that works;
the one exception, `Tensor.type()`, only gains an extra equality. With CUDA nothing is replaced.
The call sites were traced in megatron-core 0.16.1; `fixes.check_version` refuses any other version.
"""

import contextlib
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.utils._device import _device_constructors

ACCELERATOR = "cuda"
_CPU = torch.device("cpu")
_FACTORIES = ("arange", "empty", "empty_like", "full", "ones", "ones_like", "tensor", "zeros", "zeros_like")


def on_accelerator() -> bool:
    """Return whether this process has a CUDA device."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """Return this process's device: the GPU of its LOCAL_RANK, or the CPU."""
    return torch.device(ACCELERATOR, torch.cuda.current_device()) if on_accelerator() else _CPU


def name() -> str:
    """Return the driver's name of this process's device, as "NVIDIA H100 80GB HBM3"; "cpu" without an accelerator."""
    return torch.cuda.get_device_name() if on_accelerator() else "cpu"


def backend() -> str:
    """Return the backend of the process groups."""
    return "nccl" if on_accelerator() else "gloo"


def host_buffer(like: torch.Tensor) -> torch.Tensor:
    """Return an uninitialized CPU tensor of `like`'s shape and dtype, page-locked if there is an accelerator."""
    return torch.empty(like.shape, dtype=like.dtype, device="cpu", pin_memory=on_accelerator())


def prepare(tensor_parallel: int) -> None:
    """Choose this process's device. Call it before any process group or model is made."""
    if tensor_parallel > 1:
        # The launcher sets it (jobs/environment.py); set here for other callers, before the first use of CUDA.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not on_accelerator():
        enable_cpu()
        return
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def synchronize() -> None:
    """Wait until this process's device has finished all queued work."""
    if on_accelerator():
        torch.cuda.synchronize()


class Stopwatch:
    """Measures the seconds that the device spends in `with` blocks; only `seconds` waits for the device.

    On a GPU by events in its stream, elsewhere by the clock.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __enter__(self) -> None:
        if on_accelerator():
            self._collect()
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        else:
            self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if on_accelerator():
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._started

    def seconds(self) -> float:
        """Return the seconds since the last call."""
        synchronize()
        self._collect()
        total, self._seconds = self._seconds, 0.0
        return total

    def _collect(self) -> None:
        """Add up the blocks that the device has finished."""
        while self._events and self._events[0][1].query():
            start, end = self._events.popleft()
            self._seconds += start.elapsed_time(end) / 1000


class _TypeName(str):
    """'torch.FloatTensor' that also equals 'torch.cuda.FloatTensor': the optimizers compare these strings."""

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or str.__eq__(self.replace("torch.", "torch.cuda.", 1), other)

    __hash__ = str.__hash__


class _Stream:
    """Nothing to wait for. Stays a class: libraries write `torch.cuda.Stream | None` in annotations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, other: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def synchronize(self) -> None: ...


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        target = kwargs.get("device")
        if target is not None and str(target).startswith(ACCELERATOR):
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    wrapper._redirected = True  # type: ignore[attr-defined]
    return wrapper


def enable_cpu() -> None:
    """Redirect megatron's CUDA calls to the CPU, in this process, once. Does nothing where CUDA is available."""
    if on_accelerator() or hasattr(torch.empty, "_redirected"):
        return
    from megatron.core.tensor_parallel import random as megatron_random

    def random_state(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_random_state(state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        torch.set_rng_state(state)

    # 1. The current device: gradient and pipeline buffers, outputs of collectives, flags of checkpoints.
    cuda: Any = torch.cuda
    cuda.current_device = lambda: _CPU
    # 2. Literal device="cuda": schedules, optimizers, clipping, tied embeddings. `with torch.device(...)` remembers the
    # factories when first used; remembered before they are wrapped, it keeps working (transformers loads models so).
    _device_constructors()
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *args, **kwargs: self
    # 3. Type names: optimizers, clipping.
    type_ = torch.Tensor.type
    tensor.type = lambda self, *args, **kwargs: (
        type_(self, *args, **kwargs) if args or kwargs else _TypeName(type_(self))
    )
    # 4. Streams and synchronization: pipeline communication, the checkpoint writer.
    cuda.synchronize = lambda *args: None
    cuda.Stream = _Stream
    cuda.current_stream = cuda.default_stream = lambda *args: _Stream()
    cuda.stream = lambda stream: contextlib.nullcontext()
    # 5. Random state: recomputation, sequence parallelism.
    megatron_random._get_cuda_rng_state = cuda.get_rng_state = random_state
    megatron_random._set_cuda_rng_state = set_random_state
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)
    # It warns if a forked CUDA state changes the CPU's; here the two are one.
    logging.getLogger(megatron_random.__name__).setLevel(logging.ERROR)
