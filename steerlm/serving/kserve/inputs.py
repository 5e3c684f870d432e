# SPDX-License-Identifier: Apache-2.0
"""The inputs of a KServe v2 request, `sentences` or `tokens` with `sequence_lengths`, as rows of token ids.

Upstream's server (docs/upstream.md#annotation-protocol) tokenizes `sentences`, or takes `tokens` (padded on the right
with any id) and reads each row at its `sequence_lengths`. `add_EOS`, until upstream's v0.4.0, appended the end-of-text
id. True is refused here: our reward models are trained to be read at the read-out mark, and a score after it would come
from a position that was never trained. A client whose model was trained with the id sends it in `tokens`.
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
"""Datatype and shape of each input; -1 is any size."""


def read_rows(request: InferRequest, binary: dict[str, bytes], service: ScoringService) -> list[list[int]]:
    """Return the token ids of each text to score, at least one each.

    Args:
        request: The request.
        binary: The bytes of its binary inputs by name.
        service: Tokenizes texts.

    Raises:
        ApiError: An input is missing or invalid.
    """
    inputs = {tensor.name: tensor for tensor in request.inputs}
    if len(inputs) != len(request.inputs):
        raise ApiError("an input is given twice")
    for name, tensor in inputs.items():
        _check(name, tensor)
    if "add_EOS" in inputs and any(booleans(inputs["add_EOS"], binary.get("add_EOS"))):
        raise ApiError(
            "add_EOS must be false: a score is read at the end of the text itself, as in training; "
            "to read it at another id, send 'tokens'"
        )
    if ("sentences" in inputs) == ("tokens" in inputs):
        raise ApiError("give either 'sentences', BYTES [batch, 1], or 'tokens', INT64 [batch, length]")
    if ("sequence_lengths" in inputs) != ("tokens" in inputs):
        raise ApiError("'tokens' and 'sequence_lengths', INT64 [batch, 1], go together")
    tensor = inputs.get("sentences") or inputs["tokens"]
    limit = service.settings.score.max_texts
    if tensor.shape[0] > limit:
        raise ApiError(f"{tensor.shape[0]} texts at once; the limit is {limit}")
    if "sentences" in inputs:
        return _sentences(texts(tensor, binary.get("sentences")), service)
    lengths = integers(inputs["sequence_lengths"], binary.get("sequence_lengths"))
    return _tokens(integers(tensor, binary.get("tokens")), lengths.reshape(-1), service.vocabulary_size)


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
            raise ApiError(f"sentences[{index}] is empty; a score is read at its last token")
    return rows


def _tokens(tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], vocabulary: int) -> list[list[int]]:
    """Return rows without their padding, whose ids are not checked."""
    batch, width = tokens.shape
    if len(lengths) != batch:
        raise ApiError(f"{batch} rows of tokens, {len(lengths)} sequence_lengths")
    rows = []
    for index, (row, length) in enumerate(zip(tokens, lengths.tolist(), strict=True)):
        if not 1 <= length <= width:
            raise ApiError(f"sequence_lengths[{index}] is {length}; its row has 1 to {width} tokens")
        ids = row[:length]
        if (invalid := ids[(ids < 0) | (ids >= vocabulary)]).size:
            raise ApiError(f"tokens[{index}] has the id {invalid[0]}; the vocabulary has {vocabulary} ids")
        rows.append(ids.tolist())
    return rows
