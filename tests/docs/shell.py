# SPDX-License-Identifier: Apache-2.0
"""Reads the fenced blocks of a document and runs them as a reader would: shell commands in order, Python, named files.

A block's info string is its language and, for a file, its name (`yaml own.yaml`); `bash fails` holds commands that must
fail. Each line of a `text` block right after commands or Python must be among what they print. Commands run in this
process, so that torch is imported once; those that end in `&` are real servers, in threads (as processes they are
tested in tests/serving).
"""

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from demos.synthetic import free_port
from steerlm.cli.main import call
from tests.conftest import ROOT

FENCE = re.compile(r"^```(\S+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block. `name`: what stands after the language."""

    language: str
    name: str
    text: str


def blocks(document: Path) -> list[Block]:
    return [Block(m[1], m[2] or "", m[3]) for m in FENCE.finditer(document.read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block; comments and empty lines are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The working directory, with a cache of its own; processes that commands start find this checkout all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield


@dataclass
class Shell:
    """Runs blocks in the working directory. `words` replaces words of commands and parts of Python blocks; `added`
    puts options behind a command that begins with its key; `said` is what each command printed.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    running: list[tuple[Any, Future[int]]] = field(default_factory=list)

    def run(self, document: Path) -> None:
        """Every block of the document, in order. Raises `AssertionError` naming the command that did not do."""
        said: list[str] = []
        for block in blocks(document):
            if block.language == "bash":
                said = [self.command(words, fails=block.name == "fails") for words in commands(block.text)]
                continue
            if block.name:
                path = Path(block.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._replaced(block.text), encoding="utf-8")
            elif block.language == "python":
                said = [self.python(block.text)]
                continue
            elif block.language == "text" and said:
                for line in block.text.splitlines():
                    assert any(line in one for one in said), f"the document promises {line!r}, said was {said}"
            said = []

    def command(self, given: list[str], *, fails: bool = False) -> str:
        """One command; what it printed."""
        shown = shlex.join(given)
        if given[0] == "kill":
            self.stop()
            return ""
        assert given[0] == "steerlm", f"only steerlm's commands are run, not {shown}"
        words = [self._replaced(word) for word in given[1:] if word != "&"]
        words += shlex.split(
            self._replaced(next((extra for key, extra in self.added.items() if shown.startswith(key)), ""))
        )
        if given[-1] == "&":
            self._serve(words)
            return ""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = call(words)
        text = out.getvalue() + err.getvalue()
        assert (code != 0) == fails, f"`{shown}` ended with {code}: {text}"
        self.said[shown] = text
        return text

    def python(self, text: str) -> str:
        """What it printed."""
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(self._replaced(text), "the document", "exec"), {})
        self.said["python"] = out.getvalue()
        return out.getvalue()

    def stop(self) -> None:
        """End the servers; each must end well."""
        while self.running:
            server, ended = self.running.pop()
            server.should_exit = True
            assert ended.result(60) == 0

    def _replaced(self, text: str) -> str:
        for old, new in self.words.items():
            text = text.replace(old, new)
        for old in re.findall(r"\b14\d\d\b", text):
            text = text.replace(old, str(self._port(old)))
        return text

    def _port(self, named: str) -> int:
        """A free port in place of one that a document names, always the same."""
        if named not in self.ports:
            self.ports[named] = free_port()
        return self.ports[named]

    def _serve(self, words: list[str]) -> None:
        from steerlm.serving import run

        made: list[Any] = []

        def make(*arguments: Any) -> Any:
            made.append(DrainingServer(*arguments))
            return made[0]

        DrainingServer = run.DrainingServer
        with patch.object(run, "DrainingServer", make):
            ended: Future[int] = Future()
            Thread(target=lambda: ended.set_result(call(words)), daemon=True).start()
            while not (made and made[0].started):
                assert not ended.done(), f"{shlex.join(words)} ended with {ended.result()}"
                time.sleep(0.02)
        self.running.append((made[0], ended))
