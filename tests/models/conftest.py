# SPDX-License-Identifier: Apache-2.0
"""A tokenizer trained here and tiny models around it, made into folders as training makes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from steerlm.attributes import AttributeSchema
from steerlm.models.folder import ModelInfo, finish_folder
from steerlm.models.shape import ModelShape
from steerlm.prompt import SYSTEM_PROMPT
from tests.byte_tokenizer import byte_level_bpe

OWN = AttributeSchema(names=("warmth", "plain-speech", "wit"), low=0, high=9, defaults={"wit": 3})
"""Three attributes of one's own, on a range of one's own."""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE of 320 pieces, with BOS put in front of every text as Llama's tokenizers do."""
    raw = byte_level_bpe([SYSTEM_PROMPT, "User\nAssistant\nSystem\n"], 320, ["<s>", "</s>"])
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{{ 'of the base model' }}"
    fast.save_pretrained(folder)
    (folder / "LICENSE").write_text("Hand me on.\n")
    return folder


def config(family: str = "llama", **more: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return AutoConfig.for_model(family, **sizes | more)


Make = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path, tokenizer_folder: Path) -> Make:
    """Weights of a fresh model, as a trainer leaves them, and everything else of a folder around them."""

    def make(info: ModelInfo, name: str = "model", **more: Any) -> Path:
        torch.manual_seed(5)
        heads = len(info.attributes.names) if info.kind == "reward" and info.attributes else 0
        kind = AutoModelForSequenceClassification if heads else AutoModelForCausalLM
        labels: dict[str, Any] = {"num_labels": heads} if heads else {}
        model = kind.from_config(config(**more, **labels))
        folder = tmp_path / name
        model.save_pretrained(folder)
        shape = ModelShape.from_folder(folder)
        for path in folder.iterdir():
            if path.suffix != ".safetensors":
                path.unlink()
        finish_folder(folder, shape=shape, tokenizer_from=tokenizer_folder, info=info, dtype="float32")
        return folder

    return make
