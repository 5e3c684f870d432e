# SPDX-License-Identifier: Apache-2.0
"""NeMo checkpoints, which are not read: recognized wherever a model folder is expected, and how they are converted."""

from pathlib import Path

from steerlm.errors import ModelError

CONVERT = (
    "convert it with NeMo's scripts/checkpoint_converters/convert_llama_nemo_to_hf.py --input_name_or_path {place} "
    "--hf_input_path HF_FOLDER_OF_THE_BASE --hf_output_path OUT (docs/models.md#nemo-checkpoints)"
)
EXPORT = (
    "convert it with NeMo 2's `nemo llm export path={place} target=hf output_path=OUT` "
    "(docs/models.md#nemo-checkpoints)"
)


def refuse_nemo(place: str | Path) -> None:
    """Raise `ModelError` for a `.nemo` file, an unpacked one or a NeMo 2 checkpoint; `place`: a path or an address."""
    path, wanted = Path(place), "a model folder in Hugging Face's format is wanted"
    if str(place).rstrip("/").endswith(".nemo"):
        kind = "a .nemo file: NeMo's archive of model_config.yaml and Megatron weights"
    elif (path / "model_config.yaml").is_file() and (path / "model_weights").exists():
        kind = "an unpacked .nemo file, with NeMo's model_config.yaml and Megatron weights"
    elif (path / "context").is_dir() and (path / "weights").is_dir():
        raise ModelError(f"{place}: a NeMo 2 checkpoint; {wanted}: {EXPORT.format(place=place)}")
    else:
        return
    raise ModelError(f"{place}: {kind}; {wanted}: {CONVERT.format(place=place)}")
