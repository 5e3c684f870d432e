# SPDX-License-Identifier: Apache-2.0
"""Compressed request bodies (`Content-Encoding`), decompressed part by part up to a limit.

No maintained package for ASGI apps decompresses requests and bounds the output: this is zlib of the standard library.
"""

import zlib

from steerlm.serving.errors import ApiError

WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""zlib's `wbits` of each supported encoding. `deflate` is the zlib format (RFC 9110 8.4.1.2)."""


class Decompressor:
    """Decompresses one body."""

    def __init__(self, encoding: bytes) -> None:
        """Start a body in one of the encodings of `WINDOW_BITS`."""
        self._name, self._stream = encoding.decode(), zlib.decompressobj(WINDOW_BITS[encoding])

    def feed(self, part: bytes, limit: int, *, last: bool) -> bytes:
        """Return the decompressed bytes of a part of the body.

        Args:
            part: The next part.
            limit: Return at most this many bytes; the rest is lost. A caller that gets this many must refuse the body.
            last: Whether this is the last part.

        Raises:
            ApiError: If the body is damaged or incomplete.
        """
        try:
            decompressed = self._stream.decompress(part, limit)
        except zlib.error:
            raise ApiError(f"the body is not {self._name}, as its content-encoding says") from None
        if self._stream.unused_data:
            raise ApiError(f"there are bytes after the end of the {self._name} body")
        if last and len(decompressed) < limit and not self._stream.eof:
            raise ApiError(f"the {self._name} body is incomplete")
        return decompressed
