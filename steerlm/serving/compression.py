# SPDX-License-Identifier: Apache-2.0
"""Compressed request bodies (`Content-Encoding`), unpacked part by part and never beyond the room there is.

Knows bytes and how they are packed; nothing of requests. Packages that unpack requests before an ASGI app exist, but
none that is kept and bounds what comes out: this is zlib of the standard library.
"""

import zlib

from starlette.exceptions import HTTPException

WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""For zlib. `deflate` is the zlib format (RFC 9110 8.4.1.2)."""


class Unpacker:
    """One body of one of the encodings of `WINDOW_BITS`; raises `HTTPException` (400) if it is broken."""

    def __init__(self, encoding: bytes) -> None:
        self._name, self._stream = encoding.decode(), zlib.decompressobj(WINDOW_BITS[encoding])

    def take(self, part: bytes, room: int, *, last: bool) -> bytes:
        """What `part` unpacks to, at most `room` bytes: as many mean that there may be more, which is lost."""
        try:
            unpacked = self._stream.decompress(part, room)
        except zlib.error:
            raise HTTPException(400, f"the body is not {self._name}, as its content-encoding says") from None
        if self._stream.unused_data:
            raise HTTPException(400, f"bytes stand behind the end of the {self._name} body")
        if last and len(unpacked) < room and not self._stream.eof:
            raise HTTPException(400, f"the {self._name} body ends in the middle")
        return unpacked
