# SPDX-License-Identifier: Apache-2.0
"""Answers NVIDIA's NeMo-Aligner scripts and their options (`model.global_batch_size=128`) with those of this product.

The table of keys is that of docs/tutorial.md; a test compares them.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath

from steerlm.errors import ConfigError

OPTION = re.compile(r"^\+{0,2}(?:(?:model|trainer|exp_manager|inference)(?:\.\w+)+|(?:rm|gpt)_model_file)(?==)")
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
SCRIPTS = {
    "preprocess_openassistant_data": "steerlm data oasst --output_directory FOLDER",
    "preprocess_helpsteer_data": "steerlm data helpsteer --output_directory FOLDER",
    "preprocess_helpsteer2_data": "steerlm data helpsteer2 --output_directory FOLDER",
    "process_to_regression_format": "steerlm data regression --input-file FILE --output-file FILE",
    "attribute_annotate": "steerlm annotate --input-file FILE --output-file FILE --port 1424",
    "train_reward_model": "steerlm train reward RECIPE --model FOLDER --data FILE --output FOLDER",
    "serve_reward_model": "steerlm serve reward FOLDER --port 1424",
    "train_gpt_sft": "steerlm train sft RECIPE --model FOLDER --data FILE --output FOLDER",
    "megatron_gpt_eval": "steerlm serve generate FOLDER --port 1427",
    "convert_llama_hf_to_nemo": "steerlm model fetch SOURCE FOLDER",
}
"""Upstream's script -> the command that does the same."""
TABLE = "docs/tutorial.md, From the tutorial's options to our keys"


def refuse_upstream_scripts(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` that names our command if a command line begins with one of upstream's scripts."""
    for word in [argument for argument in arguments if not argument.startswith("-")][:2]:
        if command := SCRIPTS.get(PurePath(word).name.removesuffix(".py")):
            raise ConfigError(f"{word} is a script of NeMo-Aligner or NeMo; here: {command} (docs/tutorial.md)")


def refuse_upstream_options(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` that names our key if a command line has an option of upstream's scripts.

    Such options stand alone, as hydra reads them, or behind `--set`.
    """
    serving = "serve" in arguments[:1]
    for argument in arguments:
        option = OPTION.match(argument.removeprefix("--set="))
        if option is None:
            continue
        name = option[0].lstrip("+")
        if serving:
            raise ConfigError(
                f"{name} is an option of NeMo-Aligner's scripts; here: steerlm serve reward|generate FOLDER "
                f"--port 1424 ({TABLE})"
            )
        key = KEYS.get(name.rpartition(".")[2])
        if key is None:
            raise ConfigError(f"{name} is an option of NeMo-Aligner's scripts; what stands for it here: {TABLE}")
        section = "reward" if "reward" in arguments else "sft" if "sft" in arguments else None
        ours = key.replace("SECTION", section) if section else f"{key}, SECTION being reward or sft"
        value = argument.partition(f"{option[0]}=")[2]
        written = f"--set {ours}={value}" if section and value and "precision" not in key else f"--set {ours}"
        raise ConfigError(f"{name} is an option of NeMo-Aligner's scripts; here: {written} ({TABLE})")
