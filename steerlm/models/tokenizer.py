# SPDX-License-Identifier: Apache-2.0
"""Tokenizer folders that give every reader the same ids.

The ids are those of `AutoTokenizer` on our own folder, never those of sentencepiece called directly: the usual ways of
loading a bare `tokenizer.model` disagree with each other (docs/upstream.md#tokenizers; with Llama 2's they differ from
sentencepiece's on texts with double spaces). A folder made here names the generic class that uses tokenizer.json
unchanged, so that transformers 4 and 5 and the engines on top of them do not rebuild parts of it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, ModelError, first_line
from steerlm.files import write_json
from steerlm.models.nemo import refuse_nemo
from steerlm.prompt import LABEL_MARK, TURN_MARK

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
CONFIG = "tokenizer_config.json"
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Names of the class that uses tokenizer.json unchanged."""
PROBE = "Round trip:  two spaces, a tab\tand Ünïcödé ✓ . Is n't it ?\n<extra_id_1>User\nquality:4,toxicity:0\n"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = 256
"""Number of ids after the ranks that Llama 3 reserves for control tokens."""
LLAMA3_RANKS = 128000


def load_tokenizer(folder: str | Path) -> Any:
    """Load the fast tokenizer of a model folder; every tokenizer is loaded by this. Raises `ModelError`."""
    check_tokenizer_folder(folder)
    try:
        kind = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8")).get("tokenizer_class")
        loader = _loader(kind in GENERIC)
        tokenizer = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise ModelError(f"{folder}: its tokenizer cannot be loaded ({first_line(error)})") from None
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer gives no character offsets; a tokenizer.json is needed")
    return tokenizer


def _loader(generic: bool) -> Any:
    """Return AutoTokenizer, or for a generic folder the class itself, which saves seconds of importing torch."""
    try:
        if generic:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
        from transformers import AutoTokenizer

        return AutoTokenizer
    except ImportError:
        raise InputError("tokenizers need transformers: pip install 'steerlm[models]'") from None


def check_tokenizer_folder(folder: str | Path) -> None:
    """Raise `ModelError` for a folder that cannot hold a tokenizer, without loading it."""
    refuse_nemo(folder)
    if not (Path(folder) / CONFIG).is_file():
        raise ModelError(f"{folder}: no {CONFIG}; make the folder with `steerlm model fetch`")


def check_vocabulary(tokenizer: Any, rows: int, place: str | Path) -> None:
    """Raise `ModelError` if a tokenizer has ids for which a model's embedding, of `rows` rows, has none.

    `place`: where the tokenizer is from.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"{place}: its tokenizer has {len(tokenizer)} tokens, the model's vocabulary {rows}: there is no row for "
            f"{token!r}, id {largest}; use the tokenizer that the model was trained with, or enlarge the model "
            "(transformers: resize_token_embeddings)"
        )


def turn_stop_id(tokenizer: Any) -> int | None:
    """Return the id of the next turn's mark after an answer if that is one token of its own, else None."""
    text = f"Fine.\n{TURN_MARK}"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start, _ = encoded["offset_mapping"][-1]
    whole = text[start:].strip() == TURN_MARK
    return int(encoded["input_ids"][-1]) if whole else None


def copy_tokenizer(source: Path, folder: Path, *, plain: bool = False, left: bool = False) -> None:
    """Copy the tokenizer of `source` (a folder, or a bare `tokenizer.model` of Llama 2 or Llama 3) to `folder`.

    Copying a copy changes nothing.

    Args:
        source: Where the tokenizer is.
        folder: Where it is written.
        plain: For texts of the SteerLM template. The tokenizer then adds no BOS or EOS by itself, as training adds none
            (a stock server would, to texts sent as strings), and has a padding token that no text ends with.
        left: Pad on the left, as generation needs.

    Raises:
        ModelError: There is no tokenizer, or text changes when it is encoded and decoded.
    """
    if not source.is_file() and not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{source}: no tokenizer.json and no tokenizer.model")
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() != folder.resolve():
        for path in (folder / name for name in FILES):  # of another tokenizer, or links to another folder's files
            if path.resolve() != source.resolve():
                path.unlink(missing_ok=True)
            if source.is_dir() and (source / path.name).is_file():
                shutil.copyfile(source / path.name, path)
    if not (folder / "tokenizer.json").is_file():
        _unpack(source if source.is_file() else folder / "tokenizer.model", folder)
    if not (folder / CONFIG).is_file():
        write_json(folder / CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer = load_tokenizer(folder)
    before = tokenizer(PROBE, add_special_tokens=not plain)["input_ids"]
    _settle(tokenizer, folder, plain=plain, left=left)
    _check(source, load_tokenizer(folder), before)


def pad_id(tokenizer: Any) -> int:
    """Return an id that no text of the template ends with; the tokenizer's own padding id if possible.

    Stock engines read a reward model at the last token that is not padding, and every text ends in the read-out mark.
    """
    last = tokenizer(f"Fine.\n{LABEL_MARK}", add_special_tokens=False)["input_ids"][-1]
    for name in ("pad", "unk", "bos", "eos"):
        token_id = getattr(tokenizer, f"{name}_token_id")
        if token_id is not None and token_id != last:
            return int(token_id)
    return 0 if last else 1


def _settle(tokenizer: Any, folder: Path, *, plain: bool, left: bool) -> None:
    """Save the tokenizer in the form that every reader uses unchanged."""
    if plain and tokenizer.pad_token_id is None:
        token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer))
        if token in tokenizer.all_special_tokens:  # otherwise it encodes text and must remain ordinary
            tokenizer.pad_token = token
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer.json"
    backend: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) | {"padding": None, "truncation": None}
    backend["post_processor"] = _post_processor(backend["post_processor"], plain)
    # Formatted as the library does, so that it writes the same file again.
    path.write_text(json.dumps(backend, indent=2, ensure_ascii=False), encoding="utf-8")
    settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "name_or_path", "add_bos_token", "add_eos_token", "auto_map"):
        settings.pop(key, None)
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    # transformers 5 writes a list under this name, transformers 4 reads a mapping; both know the older name.
    if isinstance(others := settings.get("extra_special_tokens"), list):
        del settings["extra_special_tokens"]
        kept = {t["content"] if isinstance(t, dict) else t for t in others} - set(tokenizer.special_tokens_map.values())
        if kept:
            settings["additional_special_tokens"] = sorted(kept)
    for stale in ("special_tokens_map.json", "added_tokens.json"):  # their content is in the two files above
        (folder / stale).unlink(missing_ok=True)
    if left:
        settings["padding_side"] = "left"
    write_json(folder / CONFIG, dict(sorted(settings.items())))


def _post_processor(processor: dict[str, Any] | None, plain: bool) -> dict[str, Any] | None:
    """Return a post-processor that does not trim offsets, as learned spans come from them; `plain`: nor adds tokens."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        parts = [_post_processor(part, plain) for part in processor["processors"]]
        kept = [part for part in parts if part]
        return processor | {"processors": kept} if kept else None
    if processor["type"] == "ByteLevel":
        return processor | {"trim_offsets": False}
    return None if plain or not processor.get("special_tokens", True) else processor  # one that adds nothing: None


def _check(source: Path, tokenizer: Any, before: list[int]) -> None:
    encoded = tokenizer(PROBE, add_special_tokens=False, return_offsets_mapping=True)
    back = tokenizer.decode(encoded["input_ids"])
    if back != PROBE:
        raise ModelError(f"{source}: its tokenizer loses text: {PROBE!r} comes back as {back!r}")
    if tokenizer(PROBE)["input_ids"] != before:
        raise ModelError(f"{source}: its tokenizer depends on more than tokenizer.json; save it as a fast tokenizer")
    missed = set(range(len(PROBE))).difference(*(range(start, end) for start, end in encoded["offset_mapping"]))
    if missed:
        raise ModelError(f"{source}: its tokenizer gives no token the offsets of {PROBE[min(missed)]!r}")


def _unpack(model: Path, folder: Path) -> None:
    """Convert a bare tokenizer.model: sentencepiece's protobuf, or tiktoken's ranks (text: base64, space, rank)."""
    head = model.read_bytes()[:64]
    if head.isascii() and b" 0\n" in head:
        _tiktoken(model).save_pretrained(str(folder))
        return
    if model.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(model, folder / "tokenizer.model")
    if not (folder / CONFIG).is_file():  # without it no reader puts the space before the first word
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        write_json(folder / CONFIG, config)
    load_tokenizer(folder).save_pretrained(str(folder))


def _tiktoken(model: Path) -> Any:
    """Build Llama 3's tokenizer; the control tokens follow the ranks, named as in its reference implementation."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with open(model, "rb") as file:
        ranks = sum(1 for _ in file)
    if ranks != LLAMA3_RANKS:
        raise ModelError(f"{model}: {ranks} ranks; only Llama 3's {LLAMA3_RANKS} are known, give a tokenizer.json")
    named = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>"}
    named[9] = "<|eot_id|>"
    special = [named.get(i, f"<|reserved_special_token_{i}|>") for i in range(LLAMA3_SPECIAL)]
    raw = TikTokenConverter(str(model), pattern=LLAMA3_SPLIT, extra_special_tokens=special).converted()
    raw.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=named[0], eos_token=named[1])
