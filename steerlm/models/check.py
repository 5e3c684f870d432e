# SPDX-License-Identifier: Apache-2.0
"""Compares the parts of a model folder with each other: config, headers of the weights, tokenizer, special ids.

Done by `model fetch` and before a training starts, so that nothing is found out after hours. Torch-free.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steerlm.errors import ModelError
from steerlm.models.folder import read_info
from steerlm.models.shape import ModelShape
from steerlm.models.tensors import SCORE, model_tensors, tensor_shapes
from steerlm.models.tokenizer import check_vocabulary, load_tokenizer

DTYPES = ("F64", "F32", "BF16", "F16")
UNUSED = "rotary_emb.inv_freq"
"""Ending of tensors that old folders hold and that follow from the config."""
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_folder_weights(folder: Path) -> None:
    """Compare the weights of a complete model folder with its config, reward heads with its attributes.

    Raises:
        ModelError: They do not belong together; the message names them.
    """
    info, shape = read_info(folder), ModelShape.from_folder(folder)
    reward = info.kind == "reward" and info.attributes is not None
    check_weights(folder, shape, len(info.attributes.names) if reward and info.attributes else None)


def check_weights(folder: Path, shape: ModelShape, outputs: int | None, *, initial: bool = False) -> None:
    """Compare the headers of a folder's weights with its config.

    Args:
        folder: The model folder.
        shape: Its shape.
        outputs: Width of the reward head, or None for an LM head.
        initial: The weights are to be trained further: those of another head are left out, a reward head may be absent.

    Raises:
        ModelError: A tensor is missing, has another shape or a dtype that is not a floating-point one, or the config
            has no place for it.
    """
    stored, expected = model_tensors(folder, shape), tensor_shapes(shape, outputs)
    if initial and SCORE not in stored:
        expected.pop(SCORE, None)
    for name, sizes in expected.items():
        if name not in stored:
            reward = " (a reward model has no LM head)" if SCORE in stored and name.startswith("lm_head") else ""
            raise ModelError(f"{folder}: weight {name} is missing, which its config.json implies{reward}")
        tensor = stored[name]
        if tensor.shape != sizes:
            raise ModelError(
                f"{tensor.file}: {name} has shape {list(tensor.shape)}, config.json implies {list(sizes)}; "
                "they are not of the same model"
            )
        if tensor.dtype not in DTYPES:
            raise ModelError(f"{tensor.file}: {name} is {tensor.dtype}; weights of {', '.join(DTYPES)} are read")
    heads = {f"{shape.family.weights.lm_head}.weight", SCORE} if initial or shape.tie_word_embeddings else set()
    surplus = [name for name in stored if name not in expected and name not in heads and not name.endswith(UNUSED)]
    if surplus:
        raise ModelError(
            f"{stored[surplus[0]].file}: {surplus[0]} has no place in the model that config.json describes "
            f"({len(surplus)} such tensors); they are not of the same model"
        )


def check_tokenizer(tokenizer: Path, model: Path | None, shape: ModelShape) -> None:
    """Compare a tokenizer folder with a model's vocabulary, and the special ids that the model's configs name.

    Raises:
        ModelError: The tokenizer has ids for which the embedding has no row, or a special id is not in the vocabulary.
    """
    check_vocabulary(load_tokenizer(tokenizer), shape.vocab_size, tokenizer)
    for path in (model / "config.json", model / "generation_config.json") if model else ():
        for key, token_id in _special_ids(path):
            if not -1 <= token_id < shape.vocab_size:  # Llama 1 writes -1 for none
                raise ModelError(f"{path}: {key} is {token_id}, the model's vocabulary has {shape.vocab_size} tokens")


def _special_ids(path: Path) -> Iterator[tuple[str, int]]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in SPECIAL:
        ids = config.get(key)
        for token_id in ids if isinstance(ids, Sequence) else () if ids is None else (ids,):
            yield key, int(token_id)
