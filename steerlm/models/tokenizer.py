"""Tokenizer folders: what a folder needs so that every reader of it gets the same ids.

The ids are those of `AutoTokenizer` on our own folder, never those of sentencepiece called directly: the usual ways of
loading a bare `tokenizer.model` disagree with each other (decisions, "Environment and tokenizers"; with Llama 2's they
differ from sentencepiece's on texts with double spaces).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from steerlm.errors import ModelError

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
PROBE = "Round trip:  two spaces, a tab\tand Ünïcödé ✓.\n<extra_id_1>User\nquality:4,toxicity:0\n"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = 256
"""Ids after the ranks that Llama 3 reserves for control tokens."""


def load_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer of a model folder; the only way a tokenizer is loaded anywhere."""
    from transformers import AutoTokenizer

    if not (Path(folder) / "tokenizer_config.json").is_file():
        raise ModelError(f"{folder}: no tokenizer_config.json; make the folder with `steerlm model fetch`")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer gives no character offsets; a tokenizer.json is needed")
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer of `source` (a folder, or a bare `tokenizer.model` of Llama 2 or Llama 3) into `folder`.

    Raises `ModelError` if there is none or if text does not survive encoding and decoding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = [source / name for name in FILES if (source / name).is_file()] if source.is_dir() else []
    if source.is_file():
        _convert(source, folder)
    elif any(p.name == "tokenizer.json" for p in present):
        for path in present:
            if path.resolve() != (folder / path.name).resolve():
                shutil.copyfile(path, folder / path.name)
        if not (folder / "tokenizer_config.json").exists():
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')
    elif any(p.name == "tokenizer.model" for p in present):
        _convert(source / "tokenizer.model", folder)
    else:
        raise ModelError(f"{source}: no tokenizer.json and no tokenizer.model")
    tokenizer = load_tokenizer(folder)
    back = tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    if back != PROBE:
        raise ModelError(f"{source}: its tokenizer loses text: {PROBE!r} comes back as {back!r}")


def _convert(model: Path, folder: Path) -> None:
    """A bare tokenizer.model: sentencepiece's protobuf, or tiktoken's ranks (text: base64, space, rank)."""
    head = model.read_bytes()[:64]
    if head.isascii() and b" 0\n" in head:
        from tokenizers import AddedToken
        from transformers import PreTrainedTokenizerFast
        from transformers.convert_slow_tokenizer import TikTokenConverter

        named = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 9: "<|eot_id|>"}
        special = [named.get(i, f"<|reserved_special_token_{i}|>") for i in range(LLAMA3_SPECIAL)]
        raw = TikTokenConverter(str(model), pattern=LLAMA3_SPLIT, extra_special_tokens=special).converted()
        raw.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=raw, bos_token=named[0], eos_token=named[1], clean_up_tokenization_spaces=False
        )
    else:
        from transformers import AutoTokenizer

        shutil.copyfile(model, folder / "tokenizer.model")
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
        fast = AutoTokenizer.from_pretrained(str(folder))
    fast.save_pretrained(str(folder))
