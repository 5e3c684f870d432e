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
from steerlm.models.tokenizer import check_vocabulary
from steerlm.models.weights import folder_files

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
        ModelError: The folder is of the other kind, or its weights do not fit its config: transformers would initialize
            missing ones at random and drop surplus ones.
    """
    folder = Path(folder)
    info = read_info(folder)
    if head and (info.kind != "reward" or info.attributes is None):
        raise ModelError(f"{folder}: a {info.kind} model; a reward model was expected")
    if not head and info.kind == "reward":
        raise ModelError(f"{folder}: a reward model, which scores texts; a language model was expected")
    folder_files(folder)  # refuses a folder in which training or another engine would read other weights
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
    kinds = ("missing_keys", "mismatched_keys", "unexpected_keys")
    if wrong := [str(key) for kind in kinds for key in sorted(report[kind], key=str)]:
        raise ModelError(
            f"{folder}: weights are missing, of another shape, or have no place in the model of its config.json: "
            f"{', '.join(wrong[:3])}"
        )
    if info.kind == "policy":  # without the turn mark's id: here the mark is a stop string, with the newline before it
        model.generation_config.eos_token_id = model.config.eos_token_id
    longest: int = model.config.max_position_embeddings
    window = min(info.window or longest, longest)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, model.config.vocab_size, folder)
    return LoadedModel(folder, info, model.to(device).eval(), tokenizer, window, device)


def _dtype(dtype: Precision, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return torch.float32 if dtype == "fp32" else torch.bfloat16
