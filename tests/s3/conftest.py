# SPDX-License-Identifier: Apache-2.0
"""A real MinIO server (`make test-s3` builds it), started on a free port with a bucket, stopped or killed at will."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demos.synthetic import free_port

BINARY = os.environ.get("STEERLM_MINIO")
USER, PASSWORD, BUCKET = "steerlm-test", "not-a-secret", "bucket"


class Server:
    """One MinIO over a folder; `start` after `kill` brings the same data back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "MINIO_ROOT_USER": USER,
            "MINIO_ROOT_PASSWORD": PASSWORD,
            "MINIO_CI_CD": "1",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
            "MINIO_BROWSER": "off",
        }
        words = [str(BINARY), "server", "--quiet", "--address", f"127.0.0.1:{self.port}", str(self.folder)]
        with open(self.folder.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.address}/minio/health/ready", timeout=1)
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.folder.with_suffix(".log").read_text())

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(30)


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if BINARY is None:
        pytest.skip("needs a real MinIO: make test-s3")
    from minio import Minio

    folder = tmp_path_factory.mktemp("minio") / "data"
    folder.mkdir()
    server = Server(folder)
    server.start()
    client = Minio(endpoint=f"127.0.0.1:{server.port}", access_key=USER, secret_key=PASSWORD, secure=False)
    client.make_bucket(bucket_name=BUCKET)
    yield server
    server.kill(signal.SIGTERM)


@pytest.fixture
def s3(minio: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, and the environment that names it."""
    monkeypatch.setenv("S3_ENDPOINT", minio.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    return minio
