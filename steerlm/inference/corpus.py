# SPDX-License-Identifier: Apache-2.0
"""A conversations file read block by block: which turns are to be scored, as which texts, and where the block ends.

A block is what is sorted by length and scored together, and what a restart repeats. Its ends depend on the file and
the settings only, so an interrupted run forms the same batches as one that was never stopped. Knows no model.
"""

import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict

from steerlm.errors import InputError, RecordError
from steerlm.files import open_text
from steerlm.inference.config import AnnotateSettings
from steerlm.inference.journal import Reject
from steerlm.prompt import render_readout
from steerlm.records import Conversation, Turn, parse_line

BLOCK_CHARACTERS = 8_000_000
"""A block of very long texts ends here before `look_ahead` does."""


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to score: `conversation` and `turn` are indices, `line` is where it stands in the file."""

    conversation: int
    turn: int
    line: int
    text: str


class Place(BaseModel):
    """Where a block lies, so that another process reads it without reading what stands before it.

    Lines `first` (counted from 0) to `lines` (exclusive), from byte `offset` of the unpacked file on; `digest` is the
    sha256 of these lines alone, `sha256` that of the file from its start to the end of the block.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int
    lines: int
    offset: int
    digest: str
    sha256: str


@dataclass(slots=True)
class Block:
    """Consecutive lines. `lines` and `sha256` describe the file from its start to the end of this block."""

    conversations: list[Conversation] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    lines: int = 0
    sha256: str = ""


class Corpus:
    """A conversations file (`.jsonl` or `.jsonl.gz`). Use as a context manager."""

    def __init__(self, path: str | Path, options: AnnotateSettings) -> None:
        self.path, self._options = Path(path), options
        self._file = open_text(path)
        self._hash = hashlib.sha256()
        self._digest = hashlib.sha256()
        """Of the lines since the last block began, where that is asked for."""
        self.lines = self._bytes = 0
        self._lines = self._read(self._file.buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Of the lines read so far."""
        return self._hash.hexdigest()

    def skip(self, lines: int) -> None:
        """Read over lines that are done; stops at the end of the file."""
        while self.lines < lines and next(self._lines, None) is not None:
            pass

    def at_end(self) -> bool:
        """Whether no line is left (reads one to know)."""
        return next(self._lines, None) is None

    def blocks(self) -> Iterator[Block]:
        """The lines not read yet, in blocks. A bad line raises `RecordError`, or becomes a reject of its block."""
        block, first, characters = Block(), self.lines, 0
        for line in self._lines:
            characters += self._add(line, block)
            full = max(self.lines - first, len(block.requests)) >= self._options.look_ahead
            if full or characters >= BLOCK_CHARACTERS:
                yield self._ended(block)
                block, first, characters = Block(), self.lines, 0
        if self.lines > first:
            yield self._ended(block)

    def places(self) -> Iterator[Place]:
        """Where each block of the lines not read yet lies. Raises as `blocks`."""
        first, offset, self._digest = self.lines, self._bytes, hashlib.sha256()
        for block in self.blocks():
            digest = self._digest.hexdigest()
            yield Place(first=first, lines=block.lines, offset=offset, digest=digest, sha256=block.sha256)
            first, offset, self._digest = self.lines, self._bytes, hashlib.sha256()

    def block(self, place: Place) -> Block:
        """The block at `place`. Raises `InputError` if other lines lie there by now."""
        self._file.buffer.seek(place.offset)
        self.lines, self._digest = place.first, hashlib.sha256()
        block = Block(lines=place.lines, sha256=place.sha256)
        for line in itertools.islice(self._lines, place.lines - place.first):
            self._add(line, block)
        if self._digest.hexdigest() != place.digest:
            raise InputError(f"{self.path}: lines {place.first + 1} to {place.lines} changed while they were annotated")
        return block

    def _add(self, line: bytes, block: Block) -> int:
        """Put a line into a block; how many characters it adds to what the block holds."""
        if not line.strip():
            return 0
        try:
            conversation = self._parse(line)
        except RecordError as error:
            if self._options.on_error == "stop":
                raise
            text = line.decode(errors="backslashreplace").rstrip("\r\n")
            block.rejects.append(Reject(line=self.lines, reason=error.reason, text=text))
            return 0
        requests = self._requests(conversation, len(block.conversations))
        block.conversations.append(conversation)
        block.requests += requests
        return len(line) + sum(len(request.text) for request in requests)

    def _ended(self, block: Block) -> Block:
        block.lines, block.sha256 = self.lines, self.sha256
        return block

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        while True:
            try:
                line = file.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise RecordError(self.path, self.lines + 1, f"broken gzip file ({error})") from None
            if not line:
                return
            self.lines += 1
            self._bytes += len(line)
            self._hash.update(line)
            self._digest.update(line)
            yield line

    def _parse(self, line: bytes) -> Conversation:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RecordError(self.path, self.lines, f"not UTF-8 ({error.reason})") from None
        return parse_line(text, Conversation, self.path, self.lines)

    def _requests(self, conversation: Conversation, index: int) -> list[Request]:
        return [
            Request(
                index, number, self.lines, render_readout(conversation, number, use_system=self._options.use_system)
            )
            for number, turn in enumerate(conversation.conversations)
            if self._wanted(turn, conversation.mask)
        ]

    def _wanted(self, turn: Turn, mask: str) -> bool:
        if self._options.turns == "labelled":
            return turn.label is not None
        return turn.speaker != mask
