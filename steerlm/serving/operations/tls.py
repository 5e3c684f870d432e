# SPDX-License-Identifier: Apache-2.0
"""The certificate of a server that speaks TLS itself: checked at the start, read again when its files change."""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from steerlm.errors import InputError
from steerlm.serving.operations.keys import CHECK_SECONDS, file_version

logger = logging.getLogger(__name__)


class TlsFiles:
    """Certificate chain and private key in PEM files.

    Each new connection gets the certificate that the files have then. Files that became unusable change nothing: the
    certificate before stays, and an error is logged.

    Args:
        certificate: The server's certificate, then those between it and the authority.
        key: Its private key, without a password.
        on_failure: Called when changed files cannot be used.

    Attributes:
        context: For the server's socket.

    Raises:
        InputError: A file cannot be used, or the key is not the certificate's.
    """

    def __init__(self, certificate: Path, key: Path, on_failure: Callable[[], None]) -> None:
        self._certificate, self._key, self._on_failure = certificate, key, on_failure
        self._version, self._checked = self._versions(), time.monotonic()
        self._current = self.context = read_certificate(certificate, key)
        self.context.sni_callback = self._choose

    def _versions(self) -> tuple[object, object]:
        return file_version(self._certificate), file_version(self._key)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Give a connection the newest certificate; called in its handshake, whether or not it names a server."""
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._reload()
        connection.context = self._current

    def _reload(self) -> None:
        self._checked = time.monotonic()
        versions = self._versions()
        if versions == self._version:
            return
        self._version = versions
        try:
            self._current = read_certificate(self._certificate, self._key)
        except InputError as error:
            logger.error("the certificate before the change stays: %s", error)
            self._on_failure()
        else:
            logger.info("certificate read again from %s", self._certificate)


def read_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a server with this certificate, for TLS 1.2 and later.

    Raises:
        InputError: A file cannot be used, or the key is not the certificate's.
    """
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise InputError(f"{option} {path}: cannot be read ({error.strerror})") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _refuse_password(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InputError(f"--tls-key {key} is not the key of --tls-cert {certificate}") from None
        raise InputError(
            f"--tls-cert {certificate} and --tls-key {key}: a certificate and its private key in PEM were expected "
            f"({error.reason or error})"
        ) from None
    return context


def _refuse_password(key: Path) -> str:
    raise InputError(f"--tls-key {key} has a password; give a key without one, readable by the server only")
