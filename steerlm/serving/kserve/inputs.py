# SPDX-License-Identifier: Apache-2.0
"""What a KServe v2 request asks to score: `sentences`, or `tokens` with `sequence_lengths`, as rows of token ids.

Source: behaviour spec 3.1. Upstream's server tokenises `sentences`, or takes `tokens` (padded on the right, whatever
with) and reads each row at the end of its `sequence_lengths`; only one of the two may be given here. `add_EOS` was
taken until upstream's v0.4.0: it put the end-of-text id behind the text. A reward model of ours is trained to be read
at the read-out mark, so a score behind it would be one of a place that was never trained: true is refused. Who has a
model that was trained so sends its `tokens`.
"""

import numpy as np
import numpy.typing as npt

from steerlm.errors import nearest
from steerlm.serving.errors import ApiError
from steerlm.serving.kserve.codec import InferRequest, InputTensor, booleans, integers, texts
from steerlm.serving.scoring import ScoringService

INPUTS = {
    "sentences": ("BYTES", [-1, 1]),
    "tokens": ("INT64", [-1, -1]),
    "sequence_lengths": ("INT64", [-1, 1]),
    "add_EOS": ("BOOL", [-1, 1]),
}
"""Datatype and shape of each; -1 is any size."""


def read_rows(asked: InferRequest, binary: dict[str, bytes], service: ScoringService) -> list[list[int]]:
    """The token ids of each text to score, at least one each; raises `ApiError` naming the input at fault."""
    inputs = {tensor.name: tensor for tensor in asked.inputs}
    if len(inputs) != len(asked.inputs):
        raise ApiError("an input is given twice")
    for name, tensor in inputs.items():
        _check(name, tensor)
    if "add_EOS" in inputs and any(booleans(inputs["add_EOS"], binary.get("add_EOS"))):
        raise ApiError(
            "add_EOS: a score is read at the end of the text itself, as it was trained; "
            "send 'tokens' to be scored at another id"
        )
    if ("sentences" in inputs) == ("tokens" in inputs):
        raise ApiError("give either 'sentences', BYTES [batch, 1], or 'tokens', INT64 [batch, length]")
    if ("sequence_lengths" in inputs) != ("tokens" in inputs):
        raise ApiError("'tokens' and 'sequence_lengths', INT64 [batch, 1], go together")
    given = inputs.get("sentences") or inputs["tokens"]
    limit = service.settings.score.max_texts
    if given.shape[0] > limit:
        raise ApiError(f"{given.shape[0]} texts at once; at most {limit} are taken")
    if "sentences" in inputs:
        return _sentences(texts(given, binary.get("sentences")), service)
    lengths = integers(inputs["sequence_lengths"], binary.get("sequence_lengths"))
    return _tokens(integers(given, binary.get("tokens")), lengths.reshape(-1), service.vocabulary_size)


def _check(name: str, tensor: InputTensor) -> None:
    if name not in INPUTS:
        raise ApiError(f"unknown input {name!r}{nearest(name, list(INPUTS))}; send texts as 'sentences'")
    datatype, shape = INPUTS[name]
    if tensor.datatype != datatype:
        raise ApiError(f"input {name!r} must be {datatype}, not {tensor.datatype!r}")
    if shape[1] == 1 and (len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1])):
        raise ApiError(f"input {name!r} must have shape [batch, 1], not {tensor.shape}")
    if shape[1] != 1 and len(tensor.shape) != 2:
        raise ApiError(f"input {name!r} must have shape [batch, length], not {tensor.shape}")


def _sentences(sentences: list[str], service: ScoringService) -> list[list[int]]:
    rows = service.encode(sentences)
    for index, row in enumerate(rows):
        if not row:
            raise ApiError(f"sentences[{index}] is empty: there is no token to read a score from")
    return rows


def _tokens(tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], vocabulary: int) -> list[list[int]]:
    """Rows without their padding, which is not looked at."""
    batch, width = tokens.shape
    if len(lengths) != batch:
        raise ApiError(f"{batch} rows of tokens, {len(lengths)} sequence_lengths")
    rows = []
    for index, (row, length) in enumerate(zip(tokens, lengths.tolist(), strict=True)):
        if not 1 <= length <= width:
            raise ApiError(f"sequence_lengths[{index}] is {length}; its row has 1 to {width} tokens")
        ids = row[:length]
        if (wrong := ids[(ids < 0) | (ids >= vocabulary)]).size:
            raise ApiError(f"tokens[{index}] has the id {wrong[0]}; the vocabulary has {vocabulary}")
        rows.append(ids.tolist())
    return rows
