# SPDX-License-Identifier: Apache-2.0
"""Train the world's tokenizer with SentencePiece and write it as a Hugging Face tokenizer folder.

SentencePiece only selects the pieces. `tokenizer.json` is built from them and defines the ids, because libraries that
load a SentencePiece file directly disagree on its ids. Markers, newline, role names, `name:` and the sentences of the
system prompt are single pieces. Unknown characters are encoded as bytes, so decode(encode(text)) == text for any text.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from steerlm.errors import InputError
from steerlm.files import write_json
from steerlm.prompt import ASSISTANT, MARKS, SYSTEM_PROMPT, USER

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
UNUSED_LOGPROB = -1e4
"""Log-probability of the unused pieces, low enough that no segmentation contains one."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's symbol for a space."""


def write_tokenizer(folder: Path, texts: Iterable[str], names: Sequence[str], vocab_size: int) -> None:
    """Train a tokenizer and write a folder that AutoTokenizer loads.

    Args:
        folder: Output folder.
        texts: Documents and turns, without the template.
        names: Names of the attributes.
        vocab_size: Exact size of the vocabulary.

    Raises:
        InputError: The texts do not allow a vocabulary of this size.
    """
    sentences = re.split(r"(?<=\.)(?= )", SYSTEM_PROMPT)
    symbols = [*MARKS, "\n", "System", USER, ASSISTANT, *(f"{name}:" for name in names), *sentences]
    _save(_train(texts, symbols, vocab_size), symbols, folder)


def _train(texts: Iterable[str], symbols: Sequence[str], vocab_size: int) -> list[tuple[str, float]]:
    """Return the pieces and their log-probabilities in id order.

    Punctuation is split off before training; otherwise the pieces of a word would depend on the mark that follows it.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for part in re.findall(r" ?\w+|[^\w\s]+", text)),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            user_defined_symbols=list(symbols),
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            required_chars="0123456789",
            byte_fallback=True,
            character_coverage=1.0,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            pad_id=3,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(f"a tokenizer of {vocab_size} pieces cannot be trained on this text: {error}") from None
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.get_piece_size())]
    # SentencePiece may find fewer pieces; pad to the vocabulary size that the model's shape expects.
    return pieces + [(f"<unused_{i}>", UNUSED_LOGPROB) for i in range(vocab_size - len(pieces))]


def _save(pieces: list[tuple[str, float]], symbols: Sequence[str], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    tokenizer: Any = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (UNK, BOS, EOS, PAD)])
    # Not special: decoding with skip_special_tokens must keep the newlines, and servers must see the stop mark.
    tokenizer.add_tokens([AddedToken(s, special=False, normalized=False) for s in symbols])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": UNK, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    # The class name that transformers 4, which some engines use, and 5 both support.
    loader = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**loader, **names})
