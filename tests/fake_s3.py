# SPDX-License-Identifier: Apache-2.0
"""A few requests of the S3 protocol over a dictionary, for the real minio client. Not S3: signatures are not checked.

A real MinIO server takes its place in the tests of the cluster.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class FakeS3:
    """`objects`: (bucket/key) to (bytes, metadata headers); `fetched`: keys that were downloaded.

    `conditional`: whether the server knows If-None-Match and If-Match.
    """

    def __init__(self) -> None:
        self.conditional = True
        self.mutex = threading.Lock()
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.fetched: list[str] = []
        self.address = ""


def _handler(store: FakeS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            meta = {k.lower(): v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")}
            absent, same = self.headers.get("If-None-Match") == "*", self.headers.get("If-Match")
            if (absent or same) and not store.conditional:
                self._refuse(501, "NotImplemented")
                return
            with store.mutex:
                old = store.objects.get(self._key())
                refused = (absent and old) or (same and (not old or same != f'"{md5(old[0]).hexdigest()}"'))
                if not refused:
                    store.objects[self._key()] = (body, meta)
            if refused:
                self._refuse(412, "PreconditionFailed")
                return
            self._answer(200, b"", {"ETag": f'"{md5(body).hexdigest()}"'})

        def do_DELETE(self) -> None:
            store.objects.pop(self._key(), None)
            self._answer(204, b"", {})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            if "location" in query:
                self._answer(200, b"<LocationConstraint></LocationConstraint>", {})
            elif "list-type" in query:
                self._answer(200, self._listing(query["prefix"][0]), {"Content-Type": "application/xml"})
            elif (found := store.objects.get(self._key())) is None:
                self._refuse(404, "NoSuchKey")
            else:
                if self.command == "GET":
                    store.fetched.append(self._key())
                tag = {"ETag": f'"{md5(found[0]).hexdigest()}"', "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
                self._answer(200, found[0], {**found[1], **tag})

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode(), {"Content-Type": "application/xml"})

        def _key(self) -> str:
            return unquote(urlsplit(self.path).path).lstrip("/")

        def _listing(self, prefix: str) -> bytes:
            bucket = self._key().rstrip("/")
            keys = [k.removeprefix(f"{bucket}/") for k in sorted(store.objects) if k.startswith(f"{bucket}/{prefix}")]
            items = "".join(
                f"<Contents><Key>{escape(k)}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>x</ETag><Size>{len(store.objects[f'{bucket}/{k}'][0])}</Size></Contents>"
                for k in keys
            )
            head = f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>"
            return f"<ListBucketResult>{head}{items}</ListBucketResult>".encode()

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """Serve on a free port of this machine."""
    store = FakeS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
