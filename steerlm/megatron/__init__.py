# SPDX-License-Identifier: Apache-2.0
"""Training on megatron-core: the only package that imports megatron, and the only one that names CUDA (`device.py`).

It implements `training.engine.Engine` with tensor, sequence, pipeline and data parallelism, distributed checkpoints,
and the mapping of Hugging Face weights to all of these. Datasets, objectives and pipelines are defined elsewhere.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from steerlm.errors import InputError
from steerlm.megatron import device

# Without Transformer Engine and Apex megatron warns five times per process that it falls back to torch, which is
# intended here; and it uses deprecated names of torch.distributed.
warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(megatron|torch\.distributed)\.")


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Make `torch.compile` return its argument while megatron is imported.

    Without an accelerator none of megatron's compiled fusions is used, and decorating the first one loads the whole
    compiler: 4 of the 8 seconds of a process's imports.
    """

    def plain(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        return function if function is not None else plain

    compiler, torch.compile = torch.compile, plain  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler


try:
    with contextlib.nullcontext() if device.on_accelerator() else _without_compiler():
        import megatron.core.models.gpt.gpt_layer_specs
        import megatron.core.optimizer
        import megatron.core.pipeline_parallel  # noqa: F401
except ModuleNotFoundError as error:
    raise InputError(f"training needs {error.name}, which is not installed; pip install 'steerlm[train]'") from None
