"""A model on the hub: what it has, its files fetched and resumed by the hub's own client, its errors in one line.

The endpoint, the token and whether to go online come from the environment, as the client reads them: HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, StorageError
from steerlm.storage import FileDigest

ADDRESS = re.compile(r"^hf://(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^\s@]+))?$")
REFUSED = (401, 403)


class HubSource:
    """`hf://organisation/name@revision`. `revision` becomes the commit once `files` has asked for it."""

    def __init__(self, uri: str, commit: str | None = None) -> None:
        """`commit`: of a fetch that was interrupted, so that a branch that has moved on is not mixed in."""
        found = ADDRESS.match(uri)
        if not found:
            raise InputError(f"{uri}: expected hf://organisation/name or hf://organisation/name@revision")
        self.name, self.repo = uri, found["repo"]
        self.revision: str | None = commit or found["revision"] or "main"
        self._blobs: dict[str, str] = {}
        self._licence = ""

    def files(self) -> dict[str, FileDigest]:
        """Sizes and, of large files, sha256."""
        from huggingface_hub import HfApi

        with self._one_line():
            info = HfApi().model_info(self.repo, revision=self.revision, files_metadata=True)
        self.revision = info.sha
        said = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        self._licence = f" ({said[0]})" if said else ""
        found = {}
        for file in info.siblings or []:
            found[file.rfilename] = FileDigest(file.lfs.sha256 if file.lfs else "", file.size or 0)
            if file.blob_id and not file.lfs:
                self._blobs[file.rfilename] = file.blob_id
        return found

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Fetch files; those that are there are kept, a partial one is continued."""
        from huggingface_hub import snapshot_download

        with self._one_line():
            snapshot_download(self.repo, revision=self.revision, local_dir=folder, allow_patterns=list(names))
        for name in names:
            if not (folder / name).is_file():
                raise StorageError(f"{self.name}: {name} did not arrive; the same command goes on")
            if name in self._blobs and _git_blob(folder / name) != self._blobs[name]:
                (folder / name).unlink()
                raise StorageError(f"{folder / name}: is not the file the hub describes (checksum); fetch again")

    def copies(self, names: Sequence[str], folder: Path) -> list[str]:
        """All that is not there takes room."""
        return [name for name in names if not (folder / name).exists()]

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        from huggingface_hub import HfApi, errors

        token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        try:
            yield
        except errors.GatedRepoError:
            page = f"{HfApi().endpoint}/{self.repo}"
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
                raise InputError(f"{self.name}: the hub refuses to give it ({_first_line(error)}; {token})") from None
            raise self._unreadable(error) from None
        except (*_transport_errors(), OSError, ValueError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.name}: the hub cannot be read ({_first_line(error)}); the same command goes on later"
        )


def _transport_errors() -> tuple[Any, ...]:
    """The base class of the hub client's network errors, whichever HTTP library it is built on."""
    from huggingface_hub import errors

    return (vars(errors)["HTTPError"],)


def _git_blob(path: Path) -> str:
    """Git's name of a file's content, which the hub tells of small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
