# SPDX-License-Identifier: Apache-2.0
"""Answers options of NVIDIA's NeMo-Aligner scripts (`model.global_batch_size=128`) with the keys of this product.

The table is that of docs/tutorial.md; a test compares them.
"""

import re
from collections.abc import Sequence

from steerlm.errors import ConfigError

OPTION = re.compile(r"^\+{0,2}(?:model|trainer|exp_manager)(?:\.\w+)+(?==)")
LAYOUT = "profile.layouts.SECTION."
KEYS = {
    "num_nodes": f"{LAYOUT}nodes",
    "devices": f"{LAYOUT}devices",
    "tensor_model_parallel_size": f"{LAYOUT}tensor",
    "pipeline_model_parallel_size": f"{LAYOUT}pipeline",
    "sequence_parallel": f"{LAYOUT}sequence_parallel",
    "micro_batch_size": f"{LAYOUT}micro_batch",
    "activations_checkpoint_granularity": f"{LAYOUT}recompute",
    "activations_checkpoint_method": f"{LAYOUT}recompute",
    "activations_checkpoint_num_layers": f"{LAYOUT}recompute",
    "global_batch_size": "SECTION.global_batch",
    "max_steps": "SECTION.max_steps",
    "max_epochs": "SECTION.epochs",
    "encoder_seq_length": "SECTION.window",
    "seq_length": "SECTION.window",
    "max_seq_length": "SECTION.window",
    "precision": "SECTION.precision",
    "megatron_amp_O2": "SECTION.precision",
    "seed": "SECTION.seed",
    "lr": "SECTION.optimizer.lr",
    "min_lr": "SECTION.optimizer.min_lr",
    "warmup_steps": "SECTION.optimizer.warmup_steps",
    "constant_steps": "SECTION.optimizer.constant_steps",
    "betas": "SECTION.optimizer.betas",
    "eps": "SECTION.optimizer.eps",
    "weight_decay": "SECTION.optimizer.weight_decay",
    "gradient_clip_val": "SECTION.optimizer.clip",
    "val_check_interval": "SECTION.validate_every",
    "limit_val_batches": "SECTION.validation_batches",
    "save_interval": "SECTION.save_minutes",
    "save_top_k": "SECTION.keep",
    "save_best_model": "SECTION.export",
}
"""By the last part of an option; SECTION is `reward` or `sft`."""
TABLE = "docs/tutorial.md, From the tutorial's options to our keys"


def refuse_upstream_options(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` that names our key if a command line has an option of upstream's scripts.

    Such options stand alone, as hydra reads them, or behind `--set`.
    """
    for argument in arguments:
        option = OPTION.match(argument.removeprefix("--set="))
        if option is None:
            continue
        name = option[0].lstrip("+")
        key = KEYS.get(name.rpartition(".")[2])
        if key is None:
            raise ConfigError(f"{name} is an option of NeMo-Aligner's scripts; what stands for it here: {TABLE}")
        section = "reward" if "reward" in arguments else "sft" if "sft" in arguments else None
        ours = key.replace("SECTION", section) if section else f"{key}, SECTION being reward or sft"
        value = argument.partition(f"{option[0]}=")[2]
        written = f"--set {ours}={value}" if section and value and "precision" not in key else f"--set {ours}"
        raise ConfigError(f"{name} is an option of NeMo-Aligner's scripts; here: {written} ({TABLE})")
