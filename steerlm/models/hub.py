# SPDX-License-Identifier: Apache-2.0
"""A model on the hub: list its files, fetch and resume them, report errors in one line.

Listing and authentication are the hub client's. The transfer is our own, as the client keeps no partial file from one
run to the next and a shard has gigabytes. Endpoint, token and offline mode come from the environment, as the client
reads them: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
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
REFUSED, TRANSIENT = (401, 403), (408, 429, 500, 502, 503, 504)
TRANSFERS = 4
ATTEMPTS = 5
"""Consecutive attempts without progress after which a transfer fails."""
BACKOFF = Backoff(first=0.4)


class HubSource:
    """A model at `hf://organization/name@revision`. `files` replaces `revision` by the commit."""

    def __init__(self, uri: str, commit: str | None = None) -> None:
        """Parse the address. `commit`: of an interrupted fetch, so that files of two commits are not mixed."""
        address = ADDRESS.match(uri)
        if not address:
            raise InputError(f"{uri}: expected hf://organization/name or hf://organization/name@revision")
        self.name, self.repo = uri, address["repo"]
        self.revision: str | None = commit or address["revision"] or "main"
        self._endpoint = os.environ.get("HF_ENDPOINT")  # None: the client's own
        self._blobs: dict[str, str] = {}
        self._license = ""

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of all files, and the sha256 of large ones."""
        from huggingface_hub import HfApi

        with self._one_line():
            info = HfApi(endpoint=self._endpoint).model_info(self.repo, revision=self.revision, files_metadata=True)
        self.revision = info.sha
        licenses = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        self._license = f" ({licenses[0]})" if licenses else ""
        files = {}
        for file in info.siblings or []:
            files[file.rfilename] = FileDigest(file.lfs.sha256 if file.lfs else "", file.size or 0)
            if file.blob_id and not file.lfs:
                self._blobs[file.rfilename] = file.blob_id
        return files

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Fetch files; existing ones are kept, partial ones are resumed. Small files are verified."""
        absent = {name: digest.size for name, digest in files.items() if not (folder / name).exists()}
        total = sum(absent.values())
        with self._one_line(), tqdm(total=total, unit="B", unit_scale=True, desc=self.repo, disable=None) as bar:
            stop = threading.Event()
            with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer") as pool:
                futures = [pool.submit(self._get_one, name, size, folder, bar, stop) for name, size in absent.items()]
                try:
                    for future in futures:
                        future.result()
                except BaseException:  # Ctrl-C too: the other transfers end at their next chunk
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        for name in absent.keys() & self._blobs.keys():
            if _git_blob(folder / name) != self._blobs[name]:
                (folder / name).unlink()
                raise StorageError(
                    f"{folder / name}: has another checksum than its source; it was removed, fetch again"
                )

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return how many bytes are still to be fetched."""
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
            self._resume(name, partial, bar, stop)
            if incomplete() and not stop.is_set():
                raise StorageError(f"{self.name}: {name} ends before its {size} bytes; fetch again later")

        def is_transient(error: Exception) -> bool:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in TRANSIENT:
                return False
            return not stop.is_set() and isinstance(error, (StorageError, *_network_errors()))

        if incomplete():
            retry(attempt, BACKOFF, ATTEMPTS, is_transient, progress=lambda: _size(partial))
        if not stop.is_set():
            partial.replace(folder / name)

    def _resume(self, name: str, partial: Path, bar: Any, stop: threading.Event) -> None:
        """Append to the partial file until it is complete or the connection ends."""
        from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=self._endpoint)
        offset = _size(partial)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            resumed = response.status_code == 206
            bar.update(0 if resumed else -offset)
            with open(partial, "ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    bar.update(len(chunk))
                    if stop.is_set():
                        return

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        from huggingface_hub import HfApi, errors

        token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        try:
            yield
        except errors.HFValidationError:
            raise InputError(f"{self.name}: the hub has no names like {self.repo!r}; expected hf://org/name") from None
        except errors.GatedRepoError:
            page = f"{HfApi(endpoint=self._endpoint).endpoint}/{self.repo}"
            raise InputError(
                f"{self.name}: gated; accept its license{self._license} at {page} and set HF_TOKEN to a token of the "
                f"account that did ({token})"
            ) from None
        except errors.RevisionNotFoundError:
            raise InputError(f"{self.name}: the hub has no revision {self.revision!r} of {self.repo}") from None
        except errors.RepositoryNotFoundError:
            raise InputError(f"{self.name}: no such model on the hub, or a private one ({token})") from None
        except errors.HfHubHTTPError as error:
            if error.response.status_code in REFUSED:
                raise InputError(f"{self.name}: the hub refuses access ({first_line(error)}; {token})") from None
            raise self._unreadable(error) from None
        except _network_errors() as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.name}: the hub cannot be read ({first_line(error)}); run the same command again to resume"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _network_errors() -> tuple[type[Exception], ...]:
    """Return OSError and the base class of the hub client's errors, which depends on its HTTP library."""
    from huggingface_hub import errors

    return (OSError, vars(errors)["HTTPError"])


def _git_blob(path: Path) -> str:
    """Return Git's hash of a file's content, which the hub lists for small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
