# SPDX-License-Identifier: Apache-2.0
"""Tokenizer folders: what a folder needs so that every reader of it gets the same ids.

The ids are those of `AutoTokenizer` on our own folder, never those of sentencepiece called directly: the usual ways of
loading a bare `tokenizer.model` disagree with each other (decisions, "Environment and tokenizers"; with Llama 2's they
differ from sentencepiece's on texts with double spaces). A folder made here names the generic class that takes
tokenizer.json as it stands, so that transformers 4 and 5 and the engines on top of them do not rebuild parts of it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, ModelError, first_line
from steerlm.files import write_json
from steerlm.prompt import LABEL_MARK

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
"""Names of the class that takes tokenizer.json as it stands."""
PROBE = "Round trip:  two spaces, a tab\tand Ünïcödé ✓ . Is n't it ?\n<extra_id_1>User\nquality:4,toxicity:0\n"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = 256
"""Ids after the ranks that Llama 3 reserves for control tokens."""
LLAMA3_RANKS = 128000


def load_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer of a model folder; the only way a tokenizer is loaded anywhere. Raises `ModelError`."""
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
    """AutoTokenizer, or the class that it finds for a generic folder: which spares seconds of importing torch."""
    try:
        if generic:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
        from transformers import AutoTokenizer

        return AutoTokenizer
    except ImportError:
        raise InputError("tokenizers need transformers: pip install 'steerlm[models]'") from None


def check_tokenizer_folder(folder: str | Path) -> None:
    """Raises `ModelError` for a folder that cannot hold a tokenizer; loads nothing."""
    if not (Path(folder) / CONFIG).is_file():
        raise ModelError(f"{folder}: no {CONFIG}; make the folder with `steerlm model fetch`")


def copy_tokenizer(source: Path, folder: Path, *, plain: bool = False, left: bool = False) -> None:
    """Put the tokenizer of `source` (a folder, or a bare `tokenizer.model` of Llama 2 or Llama 3) into `folder`.

    `plain`: for texts of the SteerLM template. The tokenizer then adds no BOS or EOS by itself, as training adds none
    (a stock server would, to texts sent as strings), and has a padding token no text ends with. `left`: pads on the
    left, as generation needs. Copying what was copied changes nothing. Raises `ModelError` if there is no tokenizer or
    text does not survive encoding and decoding.
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
    """An id no text of the template ends with, the tokenizer's own padding id if it will do.

    Stock engines read a reward model at the last token that is not padding, and every text ends in the read-out mark.
    """
    last = tokenizer(f"Fine.\n{LABEL_MARK}", add_special_tokens=False)["input_ids"][-1]
    for name in ("pad", "unk", "bos", "eos"):
        found = getattr(tokenizer, f"{name}_token_id")
        if found is not None and found != last:
            return int(found)
    return 0 if last else 1


def _settle(tokenizer: Any, folder: Path, *, plain: bool, left: bool) -> None:
    """Save the tokenizer in the form that every reader takes as it stands."""
    if plain and tokenizer.pad_token_id is None:
        token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer))
        if token in tokenizer.all_special_tokens:  # else it stands for text and must go on doing so
            tokenizer.pad_token = token
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer.json"
    backend: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) | {"padding": None, "truncation": None}
    backend["post_processor"] = _post_processor(backend["post_processor"], plain)
    # Written as the library writes it, so that it makes the same file of it again.
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
    for stale in ("special_tokens_map.json", "added_tokens.json"):  # said again in the two files above
        (folder / stale).unlink(missing_ok=True)
    if left:
        settings["padding_side"] = "left"
    write_json(folder / CONFIG, dict(sorted(settings.items())))


def _post_processor(found: dict[str, Any] | None, plain: bool) -> dict[str, Any] | None:
    """Without trimming offsets, from which the learned spans come; `plain`: without adding tokens."""
    if found is None:
        return None
    if found["type"] == "Sequence":
        parts = [_post_processor(part, plain) for part in found["processors"]]
        kept = [part for part in parts if part]
        return found | {"processors": kept} if kept else None
    if found["type"] == "ByteLevel":
        return found | {"trim_offsets": False}
    return None if plain or not found.get("special_tokens", True) else found  # one that adds nothing is as none


def _check(source: Path, tokenizer: Any, before: list[int]) -> None:
    encoded = tokenizer(PROBE, add_special_tokens=False, return_offsets_mapping=True)
    back = tokenizer.decode(encoded["input_ids"])
    if back != PROBE:
        raise ModelError(f"{source}: its tokenizer loses text: {PROBE!r} comes back as {back!r}")
    if tokenizer(PROBE)["input_ids"] != before:
        raise ModelError(f"{source}: its tokenizer depends on more than tokenizer.json; save it as a fast tokenizer")
    missed = set(range(len(PROBE))).difference(*(range(start, end) for start, end in encoded["offset_mapping"]))
    if missed:
        raise ModelError(f"{source}: its tokenizer says of no token where {PROBE[min(missed)]!r} comes from")


def _unpack(model: Path, folder: Path) -> None:
    """A bare tokenizer.model: sentencepiece's protobuf, or tiktoken's ranks (text: base64, space, rank)."""
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
    """Llama 3's tokenizer; its reference implementation names the control tokens after the ranks."""
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
