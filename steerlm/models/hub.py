# SPDX-License-Identifier: Apache-2.0
"""A model on the hub: what it has, its files fetched and resumed, its errors in one line.

Listing, authentication and errors are the hub client's. The transfer is ours: the client keeps no partial file from one
run to the next, and a shard has gigabytes. The endpoint, the token and whether to go online come from the environment,
as the client reads them: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from steerlm.checksums import FileDigest
from steerlm.errors import InputError, StorageError, first_line
from steerlm.files import partial_path
from steerlm.retry import Backoff, retry

ADDRESS = re.compile(r"^hf://(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^\s@]+))?$")
REFUSED, PASSING = (401, 403), (408, 429, 500, 502, 503, 504)
TRANSFERS = 4
ATTEMPTS = 5
"""Attempts in a row that receive no byte, after which a transfer is given up."""
BACKOFF = Backoff(first=0.4)


class HubSource:
    """`hf://organisation/name@revision`. `revision` becomes the commit once `files` has asked for it."""

    def __init__(self, uri: str, commit: str | None = None) -> None:
        """`commit`: of a fetch that was interrupted, so that a branch that has moved on is not mixed in."""
        found = ADDRESS.match(uri)
        if not found:
            raise InputError(f"{uri}: expected hf://organisation/name or hf://organisation/name@revision")
        self.name, self.repo = uri, found["repo"]
        self.revision: str | None = commit or found["revision"] or "main"
        self._endpoint = os.environ.get("HF_ENDPOINT")  # None: the client's own
        self._blobs: dict[str, str] = {}
        self._licence = ""

    def files(self) -> dict[str, FileDigest]:
        """Sizes and, of large files, sha256."""
        from huggingface_hub import HfApi

        with self._one_line():
            info = HfApi(endpoint=self._endpoint).model_info(self.repo, revision=self.revision, files_metadata=True)
        self.revision = info.sha
        said = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        self._licence = f" ({said[0]})" if said else ""
        found = {}
        for file in info.siblings or []:
            found[file.rfilename] = FileDigest(file.lfs.sha256 if file.lfs else "", file.size or 0)
            if file.blob_id and not file.lfs:
                self._blobs[file.rfilename] = file.blob_id
        return found

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Fetch files; those that are there are kept, a partial one is continued. Small files are verified."""
        absent = {name: digest.size for name, digest in files.items() if not (folder / name).exists()}
        total = sum(absent.values())
        with self._one_line(), tqdm(total=total, unit="B", unit_scale=True, desc=self.repo, disable=None) as bar:
            stop = threading.Event()
            with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer") as pool:
                futures = [pool.submit(self._get_one, name, size, folder, bar, stop) for name, size in absent.items()]
                try:
                    for future in futures:
                        future.result()
                except BaseException:  # Ctrl-C too: the other transfers end at their next piece
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        for name in absent.keys() & self._blobs.keys():
            if _git_blob(folder / name) != self._blobs[name]:
                (folder / name).unlink()
                raise StorageError(
                    f"{folder / name}: is not the file described (checksum); it was removed, fetch again"
                )

    def room(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Bytes still to come."""
        absent = {name: digest.size for name, digest in files.items() if not (folder / name).exists()}
        return sum(size - _size(partial_path(folder / name)) for name, size in absent.items())

    def _get_one(self, name: str, size: int, folder: Path, bar: Any, stop: threading.Event) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        partial = partial_path(folder / name)
        if _size(partial) > size:
            partial.unlink()
        bar.update(_size(partial))

        def incomplete() -> bool:
            return not partial.exists() or _size(partial) < size

        def attempt() -> None:
            self._continue(name, partial, bar, stop)
            if incomplete() and not stop.is_set():
                raise StorageError(f"{self.name}: {name} ends before its {size} bytes; fetch again later")

        def may_pass(error: Exception) -> bool:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in PASSING:
                return False
            return not stop.is_set() and isinstance(error, (StorageError, *_network_errors()))

        if incomplete():
            retry(attempt, BACKOFF, ATTEMPTS, may_pass, progress=lambda: _size(partial))
        if not stop.is_set():
            partial.replace(folder / name)

    def _continue(self, name: str, partial: Path, bar: Any, stop: threading.Event) -> None:
        """Append what is missing, as long as the connection lasts."""
        from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=self._endpoint)
        have = _size(partial)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            goes_on = response.status_code == 206
            bar.update(0 if goes_on else -have)
            with open(partial, "ab" if goes_on else "wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
                    bar.update(len(piece))
                    if stop.is_set():
                        return

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        from huggingface_hub import HfApi, errors

        token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        try:
            yield
        except errors.GatedRepoError:
            page = f"{HfApi(endpoint=self._endpoint).endpoint}/{self.repo}"
            raise InputError(
                f"{self.name}: gated; accept its licence{self._licence} at {page} and set HF_TOKEN to a token of the "
                f"account that did ({token})"
            ) from None
        except errors.RevisionNotFoundError:
            raise InputError(f"{self.name}: the hub has no revision {self.revision!r} of {self.repo}") from None
        except errors.RepositoryNotFoundError:
            raise InputError(f"{self.name}: no such model on the hub, or a private one ({token})") from None
        except errors.HfHubHTTPError as error:
            if error.response.status_code in REFUSED:
                raise InputError(f"{self.name}: the hub refuses to give it ({first_line(error)}; {token})") from None
            raise self._unreadable(error) from None
        except _network_errors() as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.name}: the hub cannot be read ({first_line(error)}); the same command goes on later"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _network_errors() -> tuple[type[Exception], ...]:
    """OSError, and the base class of the hub client's errors, whichever HTTP library it is built on."""
    from huggingface_hub import errors

    return (OSError, vars(errors)["HTTPError"])


def _git_blob(path: Path) -> str:
    """Git's name of a file's content, which the hub tells of small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
