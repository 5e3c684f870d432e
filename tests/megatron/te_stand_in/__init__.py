# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Transformer Engine, for tests on machines without a GPU.

`install()` puts packages named `transformer_engine` into `sys.modules`: the classes and functions that megatron-core
0.16.1 uses for our models, with the signatures, parameter names, attributes and states of Transformer Engine 2.11,
computed by plain torch. What megatron only imports is an empty class.

It shows that names, slices, arguments, communication, recomputation, where gradients go, and saving and loading fit
together. It cannot show anything about the kernels: their speed, their numbers, fp8, which attention backend is chosen
for a row, user buffers (`ub_*` arguments are accepted and ignored). Where the real thing leaves memory uninitialized,
the stand-in writes NaN, so that whoever reads it fails. `benchmarks/gpu.py` runs the real thing.
"""

import importlib.machinery
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import ModuleType
from typing import Any

VERSION = "2.11.0"


def process() -> ProcessPoolExecutor:
    """One new Python process that has Transformer Engine "installed": megatron decides at import which of its code
    uses it, so this process, where megatron may have been imported without, stays as it is.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=install)


def install() -> None:
    """To be called before megatron is imported."""
    if "megatron.core" in sys.modules:
        raise RuntimeError("megatron was already imported, without Transformer Engine")
    for name, contents in _modules().items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _modules() -> dict[str, dict[str, Any]]:
    """Contents by module name, parents first."""
    from tests.megatron.te_stand_in import attention, modules, optimizers

    def empty(*names: str) -> dict[str, type]:
        return {name: type(name, (), {}) for name in names}

    def not_in_use(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the stand-in has only what our models use")

    quantized = type("QuantizedTensor", (), {})
    float8 = type("Float8Tensor", (quantized,), {})
    fp8 = {**empty("FP8GlobalStateManager"), "fp8_autocast": not_in_use}
    routing = ("fused_topk_with_score_function", "fused_compute_score_for_moe_aux_loss", "fused_moe_aux_loss")
    return {
        "transformer_engine": {"__version__": VERSION},
        "transformer_engine.common": {},
        "transformer_engine.common.recipe": empty("DelayedScaling", "Format"),
        "transformer_engine.pytorch": {
            "Linear": modules.Linear,
            "LayerNormLinear": modules.LayerNormLinear,
            "RMSNorm": modules.RMSNorm,
            "DotProductAttention": attention.DotProductAttention,
            **empty("GroupedLinear", "LayerNorm"),
        },
        "transformer_engine.pytorch.distributed": {
            **empty("CudaRNGStatesTracker"),
            "activation_recompute_forward": not_in_use,
        },
        "transformer_engine.pytorch.float8_tensor": {"Float8Tensor": float8},
        "transformer_engine.pytorch.fp8": fp8,
        "transformer_engine.pytorch.module": {},
        "transformer_engine.pytorch.module.base": {
            "TransformerEngineBaseModule": modules.BaseModule,
            "get_dummy_wgrad": modules.get_dummy_wgrad,
        },
        "transformer_engine.pytorch.ops": empty("Sequential", "FusibleOperation"),
        "transformer_engine.pytorch.optimizers": {
            "FusedAdam": optimizers.FusedAdam,
            **empty("FusedSGD"),
            "multi_tensor_applier": optimizers.multi_tensor_applier,
            "multi_tensor_l2norm": optimizers.multi_tensor_l2norm,
            "multi_tensor_scale": optimizers.multi_tensor_scale,
        },
        "transformer_engine.pytorch.router": dict.fromkeys(routing, not_in_use),
        "transformer_engine.pytorch.tensor": {"QuantizedTensor": quantized, "Float8Tensor": float8},
    }
