# SPDX-License-Identifier: Apache-2.0
"""Checks of a server's own files, before it loads a model for minutes."""

import ipaddress
import logging

from steerlm.errors import InputError
from steerlm.serving.config import ServeSettings
from steerlm.serving.operations.keys import read_keys
from steerlm.serving.operations.tls import read_certificate

logger = logging.getLogger(__name__)


def check_files(settings: ServeSettings) -> None:
    """Read the file of API keys and the certificate; warn if everyone may use the server.

    Raises:
        InputError: A file cannot be used.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, other = ("--tls-cert", "--tls-key") if settings.tls_cert else ("--tls-key", "--tls-cert")
        raise InputError(f"{given} needs {other}: TLS takes a certificate and its private key")
    if settings.tls_cert and settings.tls_key:
        read_certificate(settings.tls_cert, settings.tls_key)
    if settings.api_keys:
        read_keys(settings.api_keys)
    elif not _is_loopback(settings.host):
        logger.warning("listening on %s without API keys: whoever reaches the port uses the model", settings.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
