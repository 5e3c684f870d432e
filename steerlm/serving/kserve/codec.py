# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire of the KServe v2 protocol: in JSON, or as bytes after a JSON header.

Implements the Open Inference Protocol and its binary tensor data extension (`Inference-Header-Content-Length`).
"""

import json
import math
import struct
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerlm.serving.errors import ApiError, validation_problem

HEADER_LENGTH = "inference-header-content-length"
Size = Annotated[int, Field(ge=0, le=1 << 31)]


class WireObject(BaseModel):
    """An object of the protocol. Unknown fields are refused: they could ask for another result."""

    model_config = ConfigDict(extra="forbid")


class TensorParameters(WireObject):
    """`binary_data_size`: bytes of an input after the header. `binary_data`: return an output as bytes."""

    binary_data_size: Size | None = None
    binary_data: bool | None = None


class InputTensor(WireObject):
    """An input; `data` is row by row, flat or nested, and absent if it is sent as bytes."""

    name: str
    datatype: str
    shape: list[Size] = Field(max_length=8)
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class RequestedOutput(WireObject):
    """An output to return."""

    name: str
    parameters: TensorParameters = TensorParameters()


class RequestParameters(WireObject):
    """`binary_data_output`: return outputs as bytes unless they say otherwise.

    The others are Triton's, about its queue and models with a state; they cannot change a score.
    """

    binary_data_output: bool = False
    sequence_id: Any = None
    sequence_start: Any = None
    sequence_end: Any = None
    priority: Any = None
    timeout: Any = None


class InferRequest(WireObject):
    """The JSON of an inference request."""

    id: str | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None
    parameters: RequestParameters = RequestParameters()

    def is_binary(self, output: RequestedOutput) -> bool:
        """Return whether an output is returned as bytes."""
        own = output.parameters.binary_data
        return self.parameters.binary_data_output if own is None else own


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, bytes]]:
    """Return the JSON part of a body, and the bytes of each binary input by name.

    Args:
        body: The body.
        header_length: The header `Inference-Header-Content-Length`; None for a body that is only JSON.

    Raises:
        ApiError: The body is not a valid request.
    """
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
            raise ApiError(f"{HEADER_LENGTH} must be a number of bytes, not {header_length!r}")
        size = int(header_length)
        if size > len(body):
            raise ApiError(f"{HEADER_LENGTH} is {size}, the body has {len(body)} bytes")
    try:
        request = InferRequest.model_validate_json(body[:size])
    except ValidationError as error:
        message, _ = validation_problem(error.errors()[0])
        raise ApiError(message) from None
    binary: dict[str, bytes] = {}
    start = size
    for tensor in request.inputs:
        length = tensor.parameters.binary_data_size
        if length is None:
            continue
        if start + length > len(body):
            raise ApiError(f"input {tensor.name!r}: {length} bytes announced, {len(body) - start} are left in the body")
        binary[tensor.name] = body[start : start + length]
        start += length
    if start != len(body):
        raise ApiError(f"the body has {len(body) - start} bytes more than its header announces")
    return request, binary


def texts(tensor: InputTensor, raw: bytes | None) -> list[str]:
    """Return the elements of a BYTES tensor as UTF-8 text."""
    if raw is None:
        values = list(_flat(tensor.data or []))
        if not all(isinstance(value, str) for value in values):
            raise ApiError(f"input {tensor.name!r}: BYTES data in JSON must be strings")
    else:
        values = [_utf8(tensor.name, element) for element in _elements(tensor.name, raw)]
    _check_count(tensor, len(values))
    return values


def booleans(tensor: InputTensor, raw: bytes | None) -> list[bool]:
    """Return the elements of a BOOL tensor."""
    values = list(_flat(tensor.data or [])) if raw is None else [byte != 0 for byte in raw]
    if not all(isinstance(value, bool) for value in values):
        raise ApiError(f"input {tensor.name!r}: BOOL data in JSON must be true or false")
    _check_count(tensor, len(values))
    return values


def integers(tensor: InputTensor, raw: bytes | None) -> npt.NDArray[np.int64]:
    """Return the elements of an INT64 tensor, in its shape."""
    if raw is None:
        values = list(_flat(tensor.data or []))
        if not all(type(value) is int and -(1 << 63) <= value < 1 << 63 for value in values):
            raise ApiError(f"input {tensor.name!r}: INT64 data in JSON must be integers of 64 bits")
        numbers = np.array(values, dtype=np.int64)
    elif len(raw) % 8:
        raise ApiError(f"input {tensor.name!r}: {len(raw)} bytes are not a whole number of INT64 values")
    else:
        numbers = np.frombuffer(raw, dtype="<i8").astype(np.int64)
    _check_count(tensor, len(numbers))
    return numbers.reshape(tensor.shape)


def write_response(head: dict[str, Any], outputs: list[tuple[str, npt.NDArray[Any], bool]]) -> tuple[bytes, int]:
    """Return the body of a response and the length of its JSON header.

    Args:
        head: Fields of the JSON beside the outputs.
        outputs: (name, fp32 or int32 values, whether as bytes). NaN is null in JSON, which cannot represent it.
    """
    tensors, tail = [], b""
    for name, values, binary in outputs:
        datatype = "FP32" if values.dtype == np.float32 else "INT32"
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            tensor["data"] = [value if math.isfinite(value) else None for value in values.ravel().tolist()]
        tensors.append(tensor)
    header = json.dumps({**head, "outputs": tensors}, allow_nan=False).encode()
    return header + tail, len(header)


def _flat(data: list[Any]) -> Iterator[Any]:
    # A stack, not recursion: the client decides the nesting.
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            yield value
        else:
            stack.pop()


def _elements(name: str, raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        if start + 4 > len(raw):
            raise ApiError(f"input {name!r}: the length of an element is cut off")
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4
        if start + length > len(raw):
            raise ApiError(f"input {name!r}: an element of {length} bytes is cut off")
        yield raw[start : start + length]
        start += length


def _utf8(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise ApiError(f"input {name!r}: an element is not UTF-8 at byte {error.start}") from None


def _check_count(tensor: InputTensor, count: int) -> None:
    if math.prod(tensor.shape) != count:
        raise ApiError(
            f"input {tensor.name!r}: shape {tensor.shape} needs {math.prod(tensor.shape)} values, not {count}"
        )
