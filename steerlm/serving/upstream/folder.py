# SPDX-License-Identifier: Apache-2.0
"""What is read of a model folder whose weights another server runs: attributes, tokenizer, window, end-of-text ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.errors import ModelError
from steerlm.models.folder import ModelInfo, load_tokenizer, read_info


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A model folder without its weights.

    Attributes:
        name: Of the folder.
        info: Its steerlm.json.
        tokenizer: The transformers tokenizer.
        window: Tokens of a text at most.
        vocabulary_size: Number of token ids that are a token; the embedding may be padded beyond it.
        end_ids: The end-of-text ids, of generation_config.json, else of config.json. A policy's are config.json's: the
            turn mark, which the other file may have too, is a stop string, with the newline before it.
    """

    name: str
    info: ModelInfo
    tokenizer: Any
    window: int
    vocabulary_size: int
    end_ids: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> "FolderFacts":
        """Read a folder.

        Raises:
            ModelError: A file is missing or cannot be read.
        """
        info, config = read_info(folder), _json(folder / "config.json")
        try:
            positions, vocabulary = int(config["max_position_embeddings"]), int(config["vocab_size"])
        except (KeyError, TypeError, ValueError):
            place = folder / "config.json"
            raise ModelError(f"{place}: max_position_embeddings and vocab_size are needed") from None
        tokenizer = load_tokenizer(folder)
        generation = folder / "generation_config.json"
        ids = _json(generation).get("eos_token_id") if info.kind != "policy" and generation.exists() else None
        if ids is None:
            ids = config.get("eos_token_id")
        return cls(
            name=folder.resolve().name,
            info=info,
            tokenizer=tokenizer,
            window=min(info.window or positions, positions),
            vocabulary_size=min(len(tokenizer), vocabulary),
            end_ids=() if ids is None else (ids,) if isinstance(ids, int) else tuple(ids),
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(read, dict):
        raise ModelError(f"{path}: a JSON object was expected")
    return read
