# SPDX-License-Identifier: Apache-2.0
"""Read a conversations file block by block, with the turns to score and their texts.

The texts of a block are sorted by length and scored together; a restart repeats whole blocks. Where a block ends
depends only on the file and the settings, so an interrupted run forms the same batches as an uninterrupted one.
"""

import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from steerlm.annotation.config import AnnotateSettings
from steerlm.annotation.journal import RejectedLine
from steerlm.errors import InputError, RecordError
from steerlm.files import open_text
from steerlm.prompt import render_readout
from steerlm.records import Conversation, Turn, decode_line, parse_line
from steerlm.settings import Settings

BLOCK_CHARACTERS = 8_000_000
"""Most characters of a block: with very long texts it ends here, before `look_ahead` texts."""


@dataclass(frozen=True, slots=True)
class TurnToScore:
    """One turn to score. `conversation` and `turn` are indices in the block; `line` is its line in the file, from 1."""

    conversation: int
    turn: int
    line: int
    text: str


class BlockRange(Settings):
    """The position of a block in its file, by which another process reads it without reading the lines before it.

    Attributes:
        first: Number of its first line, from 0.
        lines: Number of the line after its last one.
        offset: Its first byte in the uncompressed file.
        digest: SHA-256 of its lines.
        sha256: SHA-256 of the file from its start to the end of the block.
    """

    first: int
    lines: int
    offset: int
    digest: str
    sha256: str


@dataclass(slots=True)
class CorpusBlock:
    """Consecutive lines. `lines` and `sha256` describe the file from its start to the end of this block."""

    conversations: list[Conversation] = field(default_factory=list)
    turns: list[TurnToScore] = field(default_factory=list)
    rejects: list[RejectedLine] = field(default_factory=list)
    lines: int = 0
    sha256: str = ""


class Corpus:
    """A conversations file (`.jsonl` or `.jsonl.gz`). Use as a context manager."""

    def __init__(self, path: str | Path, options: AnnotateSettings) -> None:
        self.path, self._options = Path(path), options
        self._file = open_text(path)
        self._hash = hashlib.sha256()
        self._digest = hashlib.sha256()
        """Of the lines since the start of the block, for `block_ranges` and `block`."""
        self.lines = self._bytes = 0
        self._lines = self._read(self._file.buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """SHA-256 of the lines read so far."""
        return self._hash.hexdigest()

    def skip(self, lines: int) -> None:
        """Read up to line number `lines`, or to the end of the file."""
        while self.lines < lines and next(self._lines, None) is not None:
            pass

    def at_end(self) -> bool:
        """Return whether the file has no further line. Reads one to find out."""
        return next(self._lines, None) is None

    def blocks(self) -> Iterator[CorpusBlock]:
        """Yield the remaining lines in blocks. A bad line raises `RecordError`, or is rejected (`on_error: skip`)."""
        block, first, characters = CorpusBlock(), self.lines, 0
        for line in self._lines:
            characters += self._add(line, block)
            full = max(self.lines - first, len(block.turns)) >= self._options.look_ahead
            if full or characters >= BLOCK_CHARACTERS:
                yield self._end(block)
                block, first, characters = CorpusBlock(), self.lines, 0
        if self.lines > first:
            yield self._end(block)

    def block_ranges(self) -> Iterator[BlockRange]:
        """Yield the position of each block of the remaining lines. Raises what `blocks` raises."""
        first, offset, self._digest = self.lines, self._bytes, hashlib.sha256()
        for block in self.blocks():
            digest = self._digest.hexdigest()
            yield BlockRange(first=first, lines=block.lines, offset=offset, digest=digest, sha256=block.sha256)
            first, offset, self._digest = self.lines, self._bytes, hashlib.sha256()

    def block(self, where: BlockRange) -> CorpusBlock:
        """Read the block at a position. Raises `InputError` if its lines have changed since."""
        self._file.buffer.seek(where.offset)
        self.lines, self._digest = where.first, hashlib.sha256()
        block = CorpusBlock(lines=where.lines, sha256=where.sha256)
        for line in itertools.islice(self._lines, where.lines - where.first):
            self._add(line, block)
        if self._digest.hexdigest() != where.digest:
            raise InputError(f"{self.path}: lines {where.first + 1} to {where.lines} changed while they were annotated")
        return block

    def _add(self, line: bytes, block: CorpusBlock) -> int:
        """Add a line to a block and return the number of characters that it adds."""
        try:
            text = self._text(line)
            if not text.strip():
                return 0
            conversation = parse_line(text, Conversation, self.path, self.lines)
        except RecordError as error:
            if self._options.on_error == "stop":
                raise
            shown = line.decode(errors="backslashreplace").rstrip("\r\n")
            block.rejects.append(RejectedLine(line=self.lines, reason=error.reason, text=shown))
            return 0
        turns = self._turns_to_score(conversation, len(block.conversations))
        block.conversations.append(conversation)
        block.turns += turns
        return len(line) + sum(len(turn.text) for turn in turns)

    def _end(self, block: CorpusBlock) -> CorpusBlock:
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

    def _text(self, line: bytes) -> str:
        try:
            return decode_line(line)
        except UnicodeDecodeError as error:
            raise RecordError(self.path, self.lines, f"not UTF-8 ({error.reason})") from None

    def _turns_to_score(self, conversation: Conversation, index: int) -> list[TurnToScore]:
        return [
            TurnToScore(
                index, number, self.lines, render_readout(conversation, number, use_system=self._options.use_system)
            )
            for number, turn in enumerate(conversation.conversations)
            if self._is_scored(turn, conversation.mask)
        ]

    def _is_scored(self, turn: Turn, mask: str) -> bool:
        if self._options.turns == "labeled":
            return turn.label is not None
        return turn.speaker != mask
