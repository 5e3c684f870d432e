# SPDX-License-Identifier: Apache-2.0
"""What the doctor's pods look at, run as a process of this machine."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steerlm.jobs.finding import Finding, from_json
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.kubernetes.doctor import probe_pod
from steerlm.jobs.kubernetes.probe import ProbeSpec, check_mlflow, check_space, check_store, check_workspace
from tests.fake_s3 import FakeS3


def run(spec: ProbeSpec) -> list[Finding]:
    """Run the module as the pod does."""
    command = [sys.executable, "-m", "steerlm.jobs.kubernetes.probe", spec.model_dump_json(exclude_none=True)]
    return from_json(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def test_a_file_goes_from_pod_to_pod(tmp_path: Path) -> None:
    first = ProbeSpec(workspace=tmp_path, file=".doctor-1", write=True, store=str(tmp_path / "store"), tracking=True)
    findings = run(first)
    assert [(finding.subject, finding.ok) for finding in findings] == [
        ("workspace", True),
        ("workspace", True),
        ("store", True),
        ("mlflow", True),
    ]
    assert [path.name for path in tmp_path.iterdir()] == [".doctor-1"], "the store's folder is not made"
    (finding,) = run(first.model_copy(update={"write": False, "store": None, "tracking": False}))
    assert finding.ok and "deleted by a worker's image" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_arrive_or_has_another_content(tmp_path: Path) -> None:
    spec = ProbeSpec(workspace=tmp_path, file=".doctor-1", write=False)
    (absent,) = check_workspace(spec)
    assert not absent.ok and "No such file" in absent.text and absent.mend
    (tmp_path / ".doctor-1").write_text("other")
    (other,) = check_workspace(spec)
    assert not other.ok and "another content" in other.text


def test_a_workspace_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = check_workspace(ProbeSpec(workspace=tmp_path / "absent", file=".doctor-1", write=True))
    assert not finding.ok and f"uid {os.getuid()}" in finding.text


def test_space_is_compared(tmp_path: Path) -> None:
    assert check_space("workspace", tmp_path, 1).ok
    short = check_space("workspace", tmp_path, 1 << 60)
    assert not short.ok and "the recipe needs 1,073,741,824.0 GiB" in short.text and "keep" in short.mend


def test_a_bucket_is_written_and_left_empty(s3: FakeS3) -> None:
    assert check_store("s3://bucket/store").ok
    assert s3.objects == {}


def test_a_store_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    finding = check_store("s3://bucket/store")
    assert not finding.ok and "set AWS_ACCESS_KEY_ID" in finding.text and "cluster.launcher.secrets" in finding.mend


@contextmanager
def server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


def test_a_tracking_server_answers_refuses_or_is_gone() -> None:
    with server(200) as uri:
        assert check_mlflow(uri).ok
    gone = check_mlflow(uri)
    assert not gone.ok and "does not answer: [Errno 111] Connection refused" in gone.text
    with server(403) as uri:
        assert "answers 403 Forbidden" in check_mlflow(uri).text


def test_findings_survive_json_and_nothing_else_is_taken_for_them() -> None:
    with pytest.raises(ValueError, match="not findings"):
        from_json(json.dumps([{"subject": "x", "other": 1}]))


@pytest.mark.parametrize(
    ("write", "fabric", "root"), [(True, "ib", False), (False, "ib", True), (False, "none", False)]
)
def test_only_the_launchers_pod_has_a_token_and_secrets(write: bool, fabric: str, root: bool) -> None:
    settings = ClusterSettings.model_validate({"fabric": fabric, "launcher": {"secrets": ["steerlm-store"]}})
    pod = probe_pod(ProbeSpec(workspace=Path("/workspace"), file="f", write=write), settings)["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is write
    assert pod["serviceAccountName"] == ("steerlm-launcher" if write else "steerlm-worker")
    assert bool(container["envFrom"]) is write
    assert pod["securityContext"]["runAsNonRoot"] is not root
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
