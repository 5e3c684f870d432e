# SPDX-License-Identifier: Apache-2.0
"""The file of API keys: its form, its checks, and its reload when it changes.

No message contains a key or a part of one. Keys are kept as SHA-256 digests.
"""

import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from steerlm.configuration import load_settings
from steerlm.errors import ConfigError
from steerlm.settings import Settings

logger = logging.getLogger(__name__)

MIN_LENGTH = 16
"""Characters of a key at least: 16 random ones cannot be guessed over a network."""

CHECK_SECONDS = 1.0
"""The file is looked at no more often than this."""


class KeyLimits(Settings):
    """What one key may use; None is no limit.

    Attributes:
        requests_per_minute: Requests on average; as many may come at once.
        tokens_per_minute: Tokens of prompts, texts and answers on average. They are counted when they are known, so
            requests that run when the budget is used up still finish.
        concurrent_requests: Requests at the same time.
    """

    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None


def _secret(value: Any) -> Any:
    # The value is in no message: it may be a key, or nearly one.
    if not isinstance(value, str):
        raise ValueError("a text in quotes was expected as the key")
    if len(value) < MIN_LENGTH:
        raise ValueError(f"the key has {len(value)} characters; at least {MIN_LENGTH} were expected, such as those of "
                         "openssl rand -hex 32")  # fmt: skip
    if not all("!" <= character <= "~" for character in value):
        raise ValueError("the key has spaces, or characters that are not ASCII; a header cannot carry it")
    return value


def _entry(value: Any) -> Any:
    if isinstance(value, str):
        return {"key": value}
    if not isinstance(value, dict):
        raise ValueError("a key was expected, or a mapping with key and its limits")
    return value


def _entries(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("a mapping of names to keys was expected")
    return value


class KeyEntry(KeyLimits):
    """One key and its limits; a limit that is not given is the file's."""

    key: Annotated[str, BeforeValidator(_secret)] = Field(repr=False)


KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class KeysFile(Settings):
    """The file: `keys` by name, each a text or a mapping with `key` and limits; `limits` of keys without their own."""

    limits: KeyLimits = KeyLimits()
    keys: Annotated[dict[KeyName, Annotated[KeyEntry, BeforeValidator(_entry)]], BeforeValidator(_entries)]

    @model_validator(mode="after")
    def _distinct(self) -> "KeysFile":
        if not self.keys:
            raise ValueError("keys is empty; a server without keys is started without --api-keys")
        names: dict[str, str] = {}
        for name, entry in self.keys.items():
            if entry.key in names:
                raise ValueError(f"keys.{names[entry.key]} and keys.{name} are the same key; make one for each")
            names[entry.key] = name
        return self


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key: its name, the digest of its text, its limits."""

    name: str
    digest: bytes
    limits: KeyLimits


def read_keys(path: Path) -> list[ApiKey]:
    """Read a file of keys.

    Raises:
        ConfigError: It cannot be used; names file, line and the name of the key.
    """
    file = load_settings(path, KeysFile)
    keys = []
    for name, entry in file.keys.items():
        own = entry.model_dump(include=entry.model_fields_set - {"key"})
        limits = KeyLimits(**{**file.limits.model_dump(), **own})
        keys.append(ApiKey(name, _digest(entry.key), limits))
    return keys


class KeyRing:
    """The keys of a file, read again when the file changes.

    A file that became unusable changes nothing: the keys before it stay, and an error is logged.

    Args:
        path: The file. A mounted Secret of Kubernetes is a symbolic link, whose target changes.
        on_failure: Called when a changed file cannot be used.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path, on_failure: Callable[[], None]) -> None:
        self._path, self._on_failure = path, on_failure
        self._version = file_version(path)
        self._checked = time.monotonic()
        self.keys = read_keys(path)
        self._warn_if_readable()

    def find(self, text: str) -> ApiKey | None:
        """Return the key with this text. Takes the same time wherever texts differ, and whichever key it is."""
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._reload()
        digest, found = _digest(text), None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def _reload(self) -> None:
        self._checked = time.monotonic()
        version = file_version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            keys = read_keys(self._path)
        except ConfigError as error:
            logger.error("the API keys before the change stay: %s", error)
            self._on_failure()
            return
        before, after = ({key.name for key in one} for one in (self.keys, keys))
        self.keys = keys
        logger.info(
            "API keys read again: %d; new: %s; gone: %s",
            len(keys),
            ", ".join(sorted(after - before)) or "none",
            ", ".join(sorted(before - after)) or "none",
        )
        self._warn_if_readable()

    def _warn_if_readable(self) -> None:
        if self._path.stat().st_mode & stat.S_IROTH:
            logger.warning("%s can be read by every user of this machine: chmod 600, or defaultMode 0440", self._path)


def file_version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced; None if there is none. Follows symbolic links."""
    try:
        found = os.stat(path)  # noqa: PTH116 (one call, at a request)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
