# SPDX-License-Identifier: Apache-2.0
"""Access to the API server: objects as plain JSON values by path, watches, and errors in one sentence.

All kinds of objects have the same verbs, so this uses the server's REST paths (`/api/v1/namespaces/N/pods`) rather than
a class per kind. Credentials are those of a kubeconfig, or in a pod those of its service account, which the
client library reads again within a minute when the kubelet renews the token, and this when they are refused.
"""

import contextlib
import copy
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from urllib3.exceptions import HTTPError

from steerlm.errors import InputError, SteerLMError
from steerlm.jobs.kubernetes.permissions import access

Json = dict[str, Any]
T = TypeVar("T")
MERGE_PATCH = "application/merge-patch+json"
OUTAGE_SECONDS, REFUSAL_SECONDS = 60.0, 5.0
LONGEST_PAUSE_SECONDS = 1.0
log = logging.getLogger(__name__)
# It warns of each connection that it tries again; what comes of it is said here.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class ClusterError(SteerLMError):
    """The API server refused or did not answer. `status`: the HTTP status; 0 if there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later: the server restarts, is overloaded, or a token has expired."""
        return self.status in (0, 401, 408, 429) or self.status >= 500


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a request is repeated.

    Attributes:
        outage: While the API server does not answer, is overloaded or takes the credentials for expired.
        refusal: While it answers 403, from the first such answer on: a server that has just started refuses
            everything until it has read its roles.
    """

    outage: float = 0.0
    refusal: float = 0.0


LAUNCHER_PATIENCE = Patience(OUTAGE_SECONDS, REFUSAL_SECONDS)
"""Of a launcher, which is not to fail because the API server restarts."""


def patiently(request: Callable[[], T], patience: Patience, prefix: str = "") -> T:
    """Repeat a request as long as it fails for a reason that may pass; raise its `ClusterError` then.

    `prefix` begins the warning that it waits.
    """
    start, failures = time.monotonic(), 0
    refused: float | None = None  # since when: the first refusal may come at the end of a long outage
    while True:
        try:
            return request()
        except ClusterError as error:
            now = time.monotonic()
            refused = (refused or now) if error.status == 403 else None
            limit = patience.outage if error.transient else patience.refusal if refused is not None else 0.0
            since = start if refused is None else refused
            if not limit or now - since > limit:
                raise
            if not failures:
                log.warning("%s%s; trying again", prefix, error)
            failures += 1
            time.sleep(min(LONGEST_PAUSE_SECONDS, 0.1 * 2.0 ** min(failures, 10)))


class Cluster:
    """A connection to one API server.

    Args:
        context: Context of the kubeconfig; None: the current one, or the service account of the pod this runs in.
        read_seconds: How long a request waits for its answer.
        patience: For how long a request is repeated; by default it fails at once, as a command should.

    Raises:
        InputError: There is neither a kubeconfig nor a service account, or no such context.
    """

    def __init__(self, context: str | None = None, read_seconds: float = 60, patience: Patience | None = None) -> None:
        self._context, self._read_seconds, self._patience = context, read_seconds, patience or Patience()
        self._api = self._connect()

    def _connect(self) -> Any:
        """Return the library's client with the credentials as they are now."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise InputError("jobs on Kubernetes need its client: pip install 'steerlm[cluster]'") from None
        try:
            configuration, context = client.Configuration(), self._context
            if context is None and config.incluster_config.SERVICE_HOST_ENV_NAME in config.incluster_config.os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                file = os.environ.get("KUBECONFIG") or None  # the library looks only when it is imported
                config.load_kube_config(file, context=context, client_configuration=configuration)
        except config.ConfigException as error:
            raise InputError(f"no access to a Kubernetes cluster: {error}; set KUBECONFIG, or run in a pod") from None
        configuration.retries = 2
        return client.ApiClient(configuration)

    def with_patience(self, patience: Patience) -> Self:
        """Return the same connection with another patience."""
        other = copy.copy(self)
        other._patience = patience
        return other

    def get(self, path: str, **query: Any) -> Json:
        """Return an object, or a list of objects."""
        return self._call("GET", path, query=query)

    def find(self, path: str) -> Json | None:
        """Return an object, or None if it does not exist."""
        try:
            return self.get(path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Mapping[str, Any], **query: Any) -> Json:
        """Create an object in the collection `path`. Status 409: one of that name exists."""
        return self._call("POST", path, body=body, query=query)

    def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Merge `body` into an object."""
        return self._call("PATCH", path, body=body, content_type=MERGE_PATCH)

    def delete(
        self,
        path: str,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        resource_version: str | None = None,
    ) -> None:
        """Delete an object and what it owns; nothing happens if it does not exist.

        Raises:
            ClusterError: Status 409: `resource_version` is given, and the object has changed since that version.
        """
        options: Json = {"propagationPolicy": propagation}
        if resource_version is not None:
            options["preconditions"] = {"resourceVersion": resource_version}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self._call("DELETE", path, body=options)
        except ClusterError as error:
            if error.status != 404:
                raise

    def text(self, path: str, **query: Any) -> str:
        """Return a resource that is text, such as a pod's log."""
        response = self._request("GET", path, query=query)
        return str(response.data.decode("utf-8", "replace"))

    def watch(self, path: str, resource_version: str, seconds: int, **query: Any) -> Iterator[tuple[str, Json]]:
        """Yield (type, object) of the changes to a collection after `resource_version`, for at most `seconds`.

        Raises:
            ClusterError: Status 410 if the version is too old: list again.
        """
        query = {**query, "watch": "true", "resourceVersion": resource_version, "timeoutSeconds": seconds}
        response = self._request("GET", path, query={**query, "allowWatchBookmarks": "true"}, read_seconds=seconds + 30)
        try:
            for line in _lines(response.stream(65536, decode_content=False)):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ClusterError(f"watch of {path}: {status.get('message')}", int(status.get("code", 500)))
                yield event["type"], event["object"]
        except ClusterError:
            raise
        except (OSError, ValueError, HTTPError) as error:  # the connection broke off in a line
            raise ClusterError(f"watch of {path}: {error}") from None
        finally:
            response.release_conn()

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str | None = None,
    ) -> Json:
        response = self._request(method, path, query=query or {}, body=body, content_type=content_type)
        content: Json = json.loads(response.data)
        return content

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any],
        body: Any = None,
        content_type: str | None = None,
        read_seconds: float | None = None,
    ) -> Any:
        return patiently(
            lambda: self._request_once(method, path, query, body, content_type, read_seconds), self._patience
        )

    def _request_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Any,
        content_type: str | None,
        read_seconds: float | None,
    ) -> Any:
        from kubernetes.client import ApiException

        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        watching = "watch" in query
        try:
            response, _, _ = self._api.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(10, read_seconds or self._read_seconds),
            )
            if not watching:
                response.read(cache_content=True)
        except ApiException as error:
            if error.status == 401:  # the token may have been renewed since it was read
                with contextlib.suppress(InputError):
                    self._api = self._connect()
            raise ClusterError(_explain(method, path, error, watching), int(error.status or 0)) from None
        except (OSError, HTTPError) as error:
            raise ClusterError(f"no answer from the API server: {_innermost(error)}") from None
        return response


def _explain(method: str, path: str, error: Any, watching: bool) -> str:
    """Return what the API server says of a refused request."""
    try:
        status = json.loads(error.body)
        message = status.get("message") or status.get("reason") or error.reason
    except (TypeError, ValueError, AttributeError):
        message = error.body.decode(errors="replace").strip() if isinstance(error.body, bytes) else error.reason
    said = f"the API server refused {method} {path}: {message}"
    if error.status == 401:
        return f"{said}; the credentials have expired or are wrong"
    # A quota or a policy of the namespace answers 403 too.
    if error.status == 403 and 'User "' in message and (needed := access(method, path, watching=watching)):
        return f"{said}; the Role needs `{needed}`, see `steerlm doctor`"
    return said


def _innermost(error: BaseException) -> BaseException:
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else error


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
