# SPDX-License-Identifier: Apache-2.0
"""Load a model folder for inference on this machine's accelerator or CPU.

Imports transformers and torch, so it is imported only where a model runs in this process. A model that does not fit one
device needs a server, or a job's workers (`megatron/scoring.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, ModelError
from steerlm.inference.config import Precision
from steerlm.models.folder import ModelInfo, load_tokenizer, read_info

try:
    import torch
    import transformers
except ImportError as error:
    raise InputError(f"running a model needs {error.name}: pip install 'steerlm[models]'") from None

transformers.utils.logging.disable_progress_bar()  # its bar of every tensor that is loaded


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model folder.

    Attributes:
        folder: Where it was loaded from.
        info: Its steerlm.json.
        model: The transformers model, in evaluation mode.
        tokenizer: The transformers tokenizer.
        window: Tokens of a text at most.
        device: Of the model and its inputs.
    """

    folder: Path
    info: ModelInfo
    model: Any
    tokenizer: Any
    window: int
    device: torch.device


def load(folder: str | Path, *, head: bool, dtype: Precision = "auto") -> LoadedModel:
    """Load a folder as a reward model (`head`) or as a language model.

    Raises:
        ModelError: The folder is of the other kind, or its weights are incomplete: transformers would initialize the
            missing ones at random.
    """
    folder = Path(folder)
    info = read_info(folder)
    if head and (info.kind != "reward" or info.attributes is None):
        raise ModelError(f"{folder}: a {info.kind} model; a reward model was expected")
    if not head and info.kind == "reward":
        raise ModelError(f"{folder}: a reward model, which scores texts; a language model was expected")
    auto = transformers.AutoModelForSequenceClassification if head else transformers.AutoModelForCausalLM
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model, report = auto.from_pretrained(
        folder,
        dtype=_dtype(dtype, device),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    gaps = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if gaps:
        raise ModelError(f"{folder}: weights are missing or of another shape: {', '.join(gaps[:3])}")
    longest: int = model.config.max_position_embeddings
    window = min(info.window or longest, longest)
    return LoadedModel(folder, info, model.to(device).eval(), load_tokenizer(folder), window, device)


def _dtype(dtype: Precision, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return torch.float32 if dtype == "fp32" else torch.bfloat16
