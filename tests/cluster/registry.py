# SPDX-License-Identifier: Apache-2.0
"""Variants of images in the cluster's registry, made there without a builder: another tag, a file more."""

import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Mapping
from typing import Any

from tests.cluster.conftest import Cluster
from tests.cluster.platform import TAG

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def retag(cluster: Cluster, name: str, tag: str) -> None:
    """Give an image of these tests another tag, which no other image has."""
    _request(f"{_url(cluster, name)}/manifests/{tag}", "PUT", _manifest(cluster, name), MANIFEST)


def derive(cluster: Cluster, name: str, tag: str, files: Mapping[str, bytes], variables: Mapping[str, str]) -> None:
    """Push an image of these tests with more files, by path, and environment variables under another tag."""
    url, manifest = _url(cluster, name), json.loads(_manifest(cluster, name))
    content = _tar(files)
    layer = gzip.compress(content, mtime=0)
    config: dict[str, Any] = json.loads(_request(f"{url}/blobs/{manifest['config']['digest']}"))
    config["config"]["Env"] += [f"{key}={value}" for key, value in variables.items()]
    config["rootfs"]["diff_ids"].append(_digest(content))
    config.get("history", []).append({"created_by": "tests/cluster/registry.py"})
    text = json.dumps(config).encode()
    manifest["layers"].append({"mediaType": LAYER, "digest": _digest(layer), "size": len(layer)})
    manifest["config"] |= {"digest": _digest(text), "size": len(text)}
    for blob in (layer, text):
        _push(url, blob)
    _request(f"{url}/manifests/{tag}", "PUT", json.dumps(manifest).encode(), MANIFEST)


def _url(cluster: Cluster, name: str) -> str:
    return f"http://{cluster.registry}/v2/{name}"


def _manifest(cluster: Cluster, name: str) -> bytes:
    return _request(f"{_url(cluster, name)}/manifests/{TAG}")


def _tar(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _push(url: str, blob: bytes) -> None:
    begun = urllib.request.Request(f"{url}/blobs/uploads/", method="POST")
    with urllib.request.urlopen(begun) as answer:
        place = str(answer.headers["Location"])
    _request(f"{place}{'&' if '?' in place else '?'}digest={_digest(blob)}", "PUT", blob, "application/octet-stream")


def _request(url: str, method: str = "GET", content: bytes | None = None, kind: str = "") -> bytes:
    headers = {"Accept": MANIFEST, **({"Content-Type": kind} if kind else {})}
    with urllib.request.urlopen(urllib.request.Request(url, content, headers, method=method)) as answer:
        return bytes(answer.read())


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
