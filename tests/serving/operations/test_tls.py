# SPDX-License-Identifier: Apache-2.0
"""TLS of a real server: files that do not fit are refused at the start, new files are used by new connections."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from steerlm.errors import InputError
from steerlm.serving.config import ServeSettings
from steerlm.serving.operations import tls
from steerlm.serving.operations.files import check_files
from tests.serving.operations.conftest import samples, total
from tests.serving.upstream.conftest import gateway

TURN = "<extra_id_1>User\nA dog\n<extra_id_2>"


def issue(authority: trustme.CA, folder: Path, *names: str) -> dict[str, Path]:
    """Write a certificate and its key; return the settings."""
    issued = authority.issue_cert(*names)
    paths = {"tls_cert": folder / "tls.crt", "tls_key": folder / "tls.key"}
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    paths["tls_cert"].write_bytes(chain)
    paths["tls_key"].write_bytes(issued.private_key_pem.bytes())
    return paths


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def test_a_new_certificate_is_used_by_the_next_connection(
    authority: trustme.CA,
    tmp_path: Path,
    reward_folder: Path,
    serving: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tls, "CHECK_SECONDS", 0.0)
    files = issue(authority, tmp_path, "127.0.0.1", "localhost")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(reward_folder, "reward", **files) as (plain, _):
        url = plain.replace("http://", "https://")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{plain}/livez")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/livez")
        with httpx.Client(base_url=url, verify=trusting) as kept:
            assert kept.post("/v1/score", json={"texts": [TURN]}).status_code == 200
            assert url in kept.get("/").text, "the page's example has the scheme"

            other = trustme.CA()
            issue(other, tmp_path, "127.0.0.1", "localhost")
            trusting_other = ssl.create_default_context()
            other.configure_trust(trusting_other)
            for host in (url, url.replace("127.0.0.1", "localhost")):  # without and with a server name
                assert httpx.get(f"{host}/livez", verify=trusting_other).status_code == 200
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.get(f"{url}/livez", verify=trusting)
            assert kept.get("/livez").status_code == 200, "connections stay"

            files["tls_key"].write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
            assert httpx.get(f"{url}/livez", verify=trusting_other).status_code == 200
            assert "the certificate before the change stays" in caplog.text
            assert total(samples(url, verify=trusting_other), "steerlm_reload_failures_total", file="tls") == 1


@pytest.mark.parametrize("there", [True, False], ids=["authority", "no authority"])
def test_best_of_n_over_tls_trusts_the_authority_in_the_environment(
    there: bool,
    authority: trustme.CA,
    tmp_path: Path,
    policy_folder: Path,
    policy_server: str,
    reward_folder: Path,
    serving: Callable[..., Any],
) -> None:
    """As the chart sets it: where the Secret has no `ca.crt`, the server runs, and refuses the certificate."""
    trusted = tmp_path / "ca.crt"
    if there:
        authority.cert_pem.write_to_path(str(trusted))
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "best_of": 2, "rank_by": "humor"}
    with serving(reward_folder, "reward", **issue(authority, tmp_path, "127.0.0.1")) as (plain, _):
        words = ("--reward-url", plain.replace("http://", "https://"))
        log = tmp_path / "log"
        with gateway("generate", policy_folder, policy_server, log, *words, SSL_CERT_FILE=str(trusted)) as url:
            reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    if there:
        assert reply.status_code == 200, reply.text
        assert len(reply.json()["steerlm"]["candidates"]) == 2
    else:
        assert reply.status_code == 503, reply.text
        assert "CERTIFICATE_VERIFY_FAILED" in log.read_text()


def test_what_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    files = issue(authority, tmp_path, "localhost")
    check_files(ServeSettings(**files))
    (tmp_path / "other").mkdir()
    other = issue(authority, tmp_path / "other", "localhost")
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files["tls_key"].read_bytes(), None)
    locked, text = tmp_path / "locked.key", tmp_path / "text"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    text.write_text("no certificate")
    cases: list[tuple[dict[str, Path], str]] = [
        ({**files, "tls_key": other["tls_key"]}, "--tls-key .*other/tls.key is not the key of --tls-cert"),
        ({**files, "tls_key": locked}, "--tls-key .*locked.key has a password"),
        ({**files, "tls_cert": text}, "a certificate and its private key in PEM were expected"),
        ({**files, "tls_cert": tmp_path / "nothing"}, "--tls-cert .*nothing: cannot be read"),
        ({"tls_cert": files["tls_cert"]}, "--tls-cert needs --tls-key"),
        ({"tls_key": files["tls_key"]}, "--tls-key needs --tls-cert"),
    ]
    for settings, message in cases:
        with pytest.raises(InputError, match=message):
            check_files(ServeSettings(**settings))


def test_a_server_that_everybody_reaches_without_keys_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_files(ServeSettings(host="::1"))
    check_files(ServeSettings(host="localhost"))
    assert not caplog.records
    check_files(ServeSettings(host="0.0.0.0"))
    assert "listening on 0.0.0.0 without API keys" in caplog.text
