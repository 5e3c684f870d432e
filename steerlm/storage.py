# SPDX-License-Identifier: Apache-2.0
"""Transfers between this machine and `s3://bucket/prefix` (MinIO, any S3).

They are parallel, resumed file by file and verified by sha256. What follows the bucket is the key as it is: no
character of a URI, such as `#`, `?` or `%`, means anything in it. Credentials and endpoint come from the environment
alone: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and S3_ENDPOINT (or AWS_ENDPOINT_URL), as
`http://host:port`.
"""

import errno
import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

from steerlm.checksums import FileDigest, sha256_file
from steerlm.errors import InputError, StorageError
from steerlm.files import atomic_path
from steerlm.retry import Backoff, retry

TRANSFERS = 8
ATTEMPTS = 6
BACKOFF = Backoff(first=1.0)
"""Half a minute in all, besides the short pauses that the client makes by itself."""
BUSY = (
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "XMinioServerNotInitialized",
    "ConditionalRequestConflict",
)
CONDITION_FAILED = ("PreconditionFailed", "NoSuchKey")
"""Error codes of a conditional request: of `If-Match`, the second if the object was deleted."""
UNCONDITIONAL = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""Error codes of servers that do not know conditional requests."""
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ENDPOINTS = ("S3_ENDPOINT", "AWS_ENDPOINT_URL")
SHA256_KEY = "x-amz-meta-sha256"
T = TypeVar("T")
log = logging.getLogger(__name__)


def is_remote(uri: str | Path) -> bool:
    """Return whether a URI is `s3://`, not a local path."""
    return str(uri).startswith("s3://")


def local_path(uri: str | Path) -> Path:
    """Return the path of a file or folder of this machine, given as a path or a `file://` URI.

    Raises:
        InputError: It is a URI of another kind.
    """
    text = str(uri).removeprefix("file://")
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text):
        raise InputError(f"{uri}: {scheme[0]} is not supported; a local path or s3://bucket/prefix was expected")
    return Path(text).expanduser()


def fetch(uri: str | Path, folder: Path) -> Path:
    """Return a local path of the data at `uri`, downloading it if it is remote.

    A local file or folder is returned as it is, without a copy. `s3://bucket/prefix` is downloaded into `folder`: an
    object of exactly that name becomes `folder/<last part>`, otherwise everything below the prefix becomes
    `folder/...`, and `folder` is returned. Files that are already there and equal are not transferred again.

    Raises:
        InputError: Nothing exists at `uri`.
        StorageError: A transfer or a checksum failed.
    """
    if not is_remote(uri):
        path = local_path(uri)
        if not path.exists():
            raise InputError(f"{uri}: no such file or folder")
        return path
    place = S3Prefix.open(str(uri))
    names = place.list()
    if not names:
        raise InputError(f"{uri}: nothing is stored there")
    if "" in names:  # the uri names one object
        target = folder / place.prefix.rpartition("/")[2]
        place.download("", target)
        return target
    place.download_all({name: folder / name for name in names})
    return folder


class OverwrittenError(StorageError):
    """An object has the bytes of another machine, which is writing the same key of the store."""

    def __init__(self, uri: str, name: str = "") -> None:
        what = f" ({name} is not ours)" if name else ""
        super().__init__(f"{uri}: another machine is writing the same key{what}; run again after it")


class S3Prefix:
    """A prefix in an S3 bucket. Object names are relative to it; "" is the object named exactly like the prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix.removesuffix("/")

    @classmethod
    def open(cls, uri: str, environment: Mapping[str, str] = os.environ) -> "S3Prefix":
        """Open `s3://bucket/prefix` with the environment's endpoint and credentials."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not is_remote(uri) or not bucket:
            raise InputError(f"{uri}: s3://bucket/prefix was expected")
        access, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        if not access or not secret:
            raise InputError(f"{uri}: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, unless it is AWS, S3_ENDPOINT")
        for name in CREDENTIALS:
            if (value := environment.get(name, "")) != value.strip():
                raise InputError(f"{name} begins or ends with a blank or a new line; set it again without")
        address = _endpoint(environment)
        from minio import Minio

        try:
            client = Minio(
                endpoint=address.netloc,
                access_key=access,
                secret_key=secret,
                session_token=environment.get("AWS_SESSION_TOKEN"),
                secure=address.scheme == "https",
                region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
            )
        except ValueError as error:
            raise InputError(f"{uri}: S3_ENDPOINT or AWS_REGION: {error}") from None
        return cls(client, bucket, prefix)

    def at(self, name: str) -> "S3Prefix":
        """Return the prefix `name` below this one."""
        return S3Prefix(self.client, self.bucket, self._key(name))

    def uri(self, name: str = "") -> str:
        """Return the `s3://` URI of an object, or of the prefix itself."""
        return f"s3://{self.bucket}/{self._key(name)}"

    @property
    def local_name(self) -> Path:
        """A relative path for local copies, of the bucket and the prefix; each has its own.

        Characters that mean something in a file name or in a URI of a local file are quoted.
        """
        parts = self.prefix.split("/") if self.prefix else []
        return Path(self.bucket, *(quote(part) if part.strip(".") else f"%{part}" for part in parts))

    def list(self) -> dict[str, int]:
        """Return names and sizes of all objects at and below the prefix."""
        start = f"{self.prefix}/" if self.prefix else ""

        def collect() -> dict[str, int]:
            below = self.client.list_objects(bucket_name=self.bucket, prefix=start, recursive=True)
            return {o.object_name[len(start) :]: o.size or 0 for o in below if not o.object_name.endswith("/")}

        sizes = self._attempt("list", "", collect)
        if not sizes and self.prefix and (single := self.stat("")) is not None:
            sizes = {"": single.size}
        return sizes

    def stat(self, name: str) -> FileDigest | None:
        """Return checksum ("" if the object was not written by `upload`) and size; None if it does not exist."""
        found = self._head(name)
        return found and FileDigest((found.metadata or {}).get(SHA256_KEY, ""), found.size or 0)

    def _head(self, name: str) -> Any:
        """Return what the client knows of an object; None if it does not exist."""
        from minio.error import S3Error

        def head() -> Any:
            try:
                return self.client.stat_object(bucket_name=self.bucket, object_name=self._key(name))
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject", "ResourceNotFound"):
                    return None
                raise

        return self._attempt("find", name, head)

    def download(self, name: str, target: Path, expected: FileDigest | None = None) -> None:
        """Download one object to `target` and verify it. Skipped if `target` is already equal."""
        remote = self.stat(name)
        if remote is None:
            raise StorageError(f"{self.uri(name)}: no such object")
        expected = expected or remote
        if target.exists() and _difference(target, expected) is None:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial:
            self._attempt(
                "download",
                name,
                lambda: self.client.fget_object(
                    bucket_name=self.bucket, object_name=self._key(name), file_path=str(partial)
                ),
            )
            if difference := _difference(partial, expected):
                raise StorageError(f"{self.uri(name)}: {difference}; upload it again")

    def upload(self, source: Path, name: str, digest: FileDigest | None = None) -> None:
        """Upload one file with its sha256 as metadata. Skipped if the object is already equal."""
        digest = digest or FileDigest(sha256_file(source), source.stat().st_size)
        if self.stat(name) == digest:
            return
        self._attempt(
            "upload",
            name,
            lambda: self.client.fput_object(
                bucket_name=self.bucket,
                object_name=self._key(name),
                file_path=str(source),
                metadata={SHA256_KEY: digest.sha256},
            ),
        )
        if self.stat(name) != digest:  # a put is atomic, so these are the bytes of another writer
            raise OverwrittenError(self.uri(name))

    def put_if(self, name: str, content: bytes, version: str | None) -> str | None:
        """Write a small object if its version is still `version` (None: if it does not exist).

        Returns the new version, or None if the condition does not hold. Of several callers one writes the object. A
        server that does not know conditional requests is asked first instead, which leaves a moment for two.
        """
        from minio.error import S3Error

        checksum = hashlib.sha256(content).hexdigest()
        plain = {SHA256_KEY: checksum, "Content-Type": "application/octet-stream"}
        condition = {"If-None-Match": "*"} if version is None else {"If-Match": f'"{version}"'}

        def put(headers: Mapping[str, str]) -> str:
            # The client has no public way to put under a condition.
            reply = self.client._execute("PUT", self.bucket, self._key(name), body=content, headers=dict(headers))
            return str(reply.headers["etag"]).strip('"')

        def attempt() -> str | None:
            try:
                return put({**plain, **condition})
            except S3Error as error:
                if error.code in CONDITION_FAILED:
                    same = (found := self.stat(name)) is not None and found.sha256 == checksum
                    return self.version(name) if same else None  # the same: ours, and the first answer got lost
                if error.code not in UNCONDITIONAL:
                    raise
            _warn_unconditional(self.bucket)
            return put(plain) if self.version(name) == version else None

        return self._attempt("write", name, attempt)

    def version(self, name: str) -> str | None:
        """Return what changes with every write of an object, its ETag; None if it does not exist."""
        found = self._head(name)
        return found and str(found.etag).strip('"')

    def discard(self, name: str) -> None:
        """Delete one object; nothing happens if it does not exist."""
        self._attempt(
            "delete", name, lambda: self.client.remove_object(bucket_name=self.bucket, object_name=self._key(name))
        )

    def sha256(self, name: str) -> str | None:
        """Read an object and return the sha256 of its bytes; None if it does not exist."""
        if self.stat(name) is None:
            return None

        def read() -> str:
            digest = hashlib.sha256()
            reply = self.client.get_object(bucket_name=self.bucket, object_name=self._key(name))
            try:
                for part in reply.stream(1 << 20):
                    digest.update(part)
            finally:
                reply.close()
                reply.release_conn()
            return digest.hexdigest()

        return self._attempt("read", name, read)

    def remove(self, first: str) -> None:
        """Delete every object at and below the prefix, the object `first` before all others."""
        names = self.list()
        if first in names:
            self.discard(first)
        _parallel(self.discard, names)

    def download_all(self, targets: Mapping[str, Path], expected: Mapping[str, FileDigest] | None = None) -> None:
        """Download many objects in parallel and compare them with the `expected` digests, where given.

        Raises:
            StorageError: A transfer or a checksum failed, or a name, which may be any text, is none of a file.
        """
        for name in targets:
            if not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise StorageError(
                    f"{self.uri()}: the object {name!r} cannot become a file here, a part of its name is empty, . or "
                    "..; give it another name"
                )
        _parallel(lambda name: self.download(name, targets[name], (expected or {}).get(name)), targets)

    def upload_all(self, sources: Mapping[str, Path], digests: Mapping[str, FileDigest] | None = None) -> None:
        """Upload many files in parallel."""
        _parallel(lambda name: self.upload(sources[name], name, (digests or {}).get(name)), sources)

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, name) if part)

    def _attempt(self, verb: str, name: str, action: Callable[[], T]) -> T:
        """Run an action on the server, again for half a minute while the server is unreachable or busy.

        Raises:
            StorageError: The server refused, did not come back, or the error is one of this machine.
        """
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        def may_pass(error: Exception) -> bool:
            if not isinstance(error, MinioException | HTTPError | OSError) or _is_local(error):
                return False
            return not isinstance(error, S3Error) or error.code in BUSY

        def warn(error: Exception, pause: float) -> None:
            log.warning("%s: cannot %s it (%s); trying again in %g s", self.uri(name), verb, _reason(error), pause)

        try:
            return retry(action, BACKOFF, ATTEMPTS, may_pass, on_retry=warn)
        except (MinioException, HTTPError, OSError, ValueError) as error:  # ValueError: a name the client refuses
            raise StorageError(f"{self.uri(name)}: cannot {verb} it ({_reason(error)})") from error


def _endpoint(environment: Mapping[str, str]) -> SplitResult:
    """Return the server's address. Raises `InputError`, without a password that it may contain."""
    name = next((name for name in ENDPOINTS if environment.get(name)), None)
    if name is None:
        return urlsplit("https://s3.amazonaws.com")
    endpoint = environment[name]
    expected = "http://host:port or https://host was expected"
    try:
        address = urlsplit(endpoint)
        valid = address.scheme in ("http", "https") and address.hostname and (address.port or 1) > 0
    except ValueError:
        valid = False
    if "@" in endpoint:
        raise InputError(f"{name}: {expected}, without credentials; they are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    if not valid or re.search(r"\s", endpoint):
        raise InputError(f"{name} {endpoint!r}: {expected}")
    if address.path not in ("", "/") or address.query or address.fragment:
        raise InputError(f"{name} {endpoint!r}: {expected}, without a path; a prefix belongs to s3://bucket/prefix")
    return address


@functools.cache
def _warn_unconditional(bucket: str) -> None:
    log.warning("%s: the server does not know conditional requests; do not let two launchers make one artifact", bucket)


def _reason(error: Exception) -> object:
    return getattr(error, "message", None) or error


def _is_local(error: Exception) -> bool:
    """Whether the error is a full disk or a missing permission of this machine, which waiting does not cure."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT)


def _difference(path: Path, expected: FileDigest) -> str | None:
    """Describe how a file differs from its digest, or return None. Without a checksum only the size is compared."""
    if (size := path.stat().st_size) != expected.size:
        return f"{size} bytes, {expected.size} were expected"
    if expected.sha256 and (sha := sha256_file(path)) != expected.sha256:
        return f"sha256 {sha[:12]}..., {expected.sha256[:12]}... was expected"
    return None


def _parallel(action: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer") as pool:
        for future in [pool.submit(action, name) for name in names]:
            future.result()
