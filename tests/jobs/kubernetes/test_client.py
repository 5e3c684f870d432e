# SPDX-License-Identifier: Apache-2.0
"""What an API server that restarts or renews tokens does to the requests of a launcher, and to those of a command."""

import datetime
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from kubernetes.config import incluster_config

from steerlm.jobs.kubernetes import client
from steerlm.jobs.kubernetes.client import Cluster, ClusterError, Patience
from steerlm.jobs.kubernetes.informer import Informer
from tests.jobs.kubernetes.fake_api import FakeApi, fake_api

PODS = "/api/v1/namespaces/steerlm/pods"
JOBS = "/apis/kubeflow.org/v1/namespaces/steerlm/pytorchjobs"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A server with empty collections, which the kubeconfig names."""
    with fake_api() as server:
        server.collections = {PODS: [], JOBS: [], "/api/v1/nodes": []}
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield server


def first(count: int, status: int, of: str) -> Callable[[str, str, str], int]:
    """Refuse the first requests of a verb."""
    left = [status] * count
    return lambda verb, path, token: left.pop() if verb == of and left else 0


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_launcher_waits_until_the_server_has_read_its_roles(api: FakeApi, status: int) -> None:
    api.refuse = first(2, status, "list")
    patient = Cluster(patience=client.LAUNCHER_PATIENCE)
    assert patient.get(PODS)["items"] == []
    assert api.statuses("list", PODS)[-3:] == [status, status, 200]


def test_a_command_is_told_at_once(api: FakeApi) -> None:
    api.refuse = lambda verb, path, token: 403
    with pytest.raises(ClusterError, match=r"is forbidden: .*; the Role needs `list pods`, see `steerlm doctor`"):
        Cluster().get(PODS)
    assert api.statuses("list", PODS) == [403]


def test_a_right_that_is_really_missing_is_told_when_the_patience_is_over(api: FakeApi) -> None:
    api.refuse = lambda verb, path, token: 403
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"the Role needs `create pytorchjobs\.kubeflow\.org`"):
        Cluster(patience=Patience(outage=60, refusal=0.5)).create(JOBS, {"metadata": {"name": "a"}})
    assert 0.5 < time.monotonic() - start < 10
    assert len(api.statuses("create", JOBS)) > 1


def test_what_does_not_pass_is_told_at_once(api: FakeApi) -> None:
    api.refuse = lambda verb, path, token: 422
    with pytest.raises(ClusterError):
        Cluster(patience=client.LAUNCHER_PATIENCE).create(JOBS, {"metadata": {"name": "a"}})
    assert api.statuses("create", JOBS) == [422]


def test_the_first_list_of_an_informer_outlasts_a_restart(api: FakeApi) -> None:
    api.refuse = first(2, 403, "list")
    informer = Informer(Cluster(), PODS)
    assert informer.objects() == []
    informer.stop()


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A server that takes one token, and what a pod has of it: `api`, and `token`, the mounted file."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with fake_api(tls) as api:
        valid = SimpleNamespace(api=api, token=tmp_path / "token", accepted="one")
        valid.token.write_text("one")
        authority.cert_pem.write_to_path(tmp_path / "ca.crt")
        api.collections = {PODS: []}
        api.refuse = lambda verb, path, token: 0 if token == valid.accepted else 401
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(valid.token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        yield valid


def renew(pod: SimpleNamespace) -> None:
    """What the kubelet does, with a server that takes the old token for expired at once."""
    pod.token.write_text("two")
    pod.accepted = "two"


def test_the_library_reads_a_renewed_token_within_a_minute(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime.datetime):
        ahead = datetime.timedelta()

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + cls.ahead

    shifted = SimpleNamespace(datetime=Later, timedelta=datetime.timedelta)
    monkeypatch.setattr(incluster_config, "datetime", shifted)
    cluster = Cluster()
    cluster.get(PODS)
    renew(pod)
    Later.ahead = datetime.timedelta(minutes=1)
    cluster.get(PODS)
    assert pod.api.statuses("list", PODS) == [200, 200]


def test_a_token_that_is_refused_before_is_read_again(pod: Any) -> None:
    cluster = Cluster(patience=client.LAUNCHER_PATIENCE)
    cluster.get(PODS)
    renew(pod)
    cluster.get(PODS)
    assert pod.api.statuses("list", PODS) == [200, 401, 200]


def test_a_watch_goes_on_with_the_new_token(pod: Any) -> None:
    informer = Informer(Cluster(), PODS)
    assert informer.objects() == []
    eventually(lambda: 200 in pod.api.statuses("watch", PODS))
    renew(pod)
    pod.api.collections[PODS].append({"metadata": {"name": "late", "uid": "7", "resourceVersion": "7"}})
    eventually(informer.objects)
    assert 401 in pod.api.statuses("watch", PODS)
    informer.stop()
