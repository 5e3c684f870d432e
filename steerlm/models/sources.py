# SPDX-License-Identifier: Apache-2.0
"""Where models are fetched from: the hub (`hub.py`), an object store, a folder of this machine."""

import fnmatch
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from steerlm.artifact import COMPLETE, MANIFEST, Manifest
from steerlm.checksums import FileDigest
from steerlm.errors import InputError, StorageError
from steerlm.files import PARTIAL_SUFFIX, atomic_path
from steerlm.models.hub import HubSource
from steerlm.models.nemo import refuse_nemo
from steerlm.models.weights import WEIGHTS
from steerlm.storage import S3Prefix, is_remote

PINNED = re.compile(r"^(?P<folder>s3://.+)@sha256:(?P<digest>.*)$")


class ModelSource(Protocol):
    """Anything that models are fetched from. `name`: as in the manifest; `revision`: the version, if it has one."""

    name: str
    revision: str | None

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of all files and their checksums, "" where unknown."""
        ...

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Transfer files to the folder; correct ones in it are kept."""
        ...

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return how many bytes `get` will write to the folder's disk."""
        ...


def open_source(uri: str, commit: str | None = None) -> ModelSource:
    """Return the source of a URI. `commit`: the hub's, of an interrupted fetch.

    `s3://bucket/store/STAGE/KEY/KIND@sha256:DIGEST` is an artifact of a store, of exactly that digest.

    Raises:
        InputError: The address has another form, or does not exist.
        ModelError: It is a NeMo checkpoint's.
    """
    refuse_nemo(uri.removeprefix("file://"))
    if uri.startswith("hf://"):
        return HubSource(uri, commit)
    if address := PINNED.match(uri):
        return ArtifactSource(uri, address["folder"], address["digest"])
    return StoreSource(uri) if is_remote(uri) else DiskSource(uri)


class StoreSource:
    """A model at `s3://bucket/prefix`. Checksums are compared if the objects have one."""

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.name, self._place = uri, S3Prefix.open(uri)

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of all objects below the prefix, without checksums."""
        return {name: FileDigest("", size) for name, size in self._place.list().items()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Download the objects in parallel and verify them by sha256 where the store has one."""
        self._place.download_all({name: folder / name for name in files})

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return the total size in bytes of the files that are not in the folder yet."""
        return sum(digest.size for name, digest in files.items() if not (folder / name).exists())


class ArtifactSource(StoreSource):
    """The files of a store's finished artifact. Its digest covers their checksums, which every download is held to."""

    def __init__(self, uri: str, folder: str, digest: str) -> None:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"{uri}: 64 hexadecimal digits were expected behind @sha256:")
        super().__init__(folder)
        self.name, self._digest = uri, digest
        self._artifact = S3Prefix.open(folder.rpartition("/")[0])

    def files(self) -> dict[str, FileDigest]:
        """Return sizes and checksums as the artifact's manifest has them.

        Raises:
            InputError: There is no finished artifact, or it has another digest.
            StorageError: The manifest is damaged, or the transfer failed.
        """
        if self._artifact.stat(COMPLETE) is None or self._artifact.stat(MANIFEST) is None:
            raise InputError(
                f"{self._artifact.uri()}: no finished artifact; s3://bucket/store/STAGE/KEY/KIND@sha256:DIGEST was "
                "expected"
            )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MANIFEST
            self._artifact.download(MANIFEST, path)
            try:
                manifest = Manifest.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise StorageError(f"{self._artifact.uri(MANIFEST)}: not a readable manifest ({error})") from None
        if manifest.digest != self._digest:
            raise InputError(
                f"{self._place.uri()}: is sha256:{manifest.digest}, sha256:{self._digest} was asked for; look at the "
                "digest in `steerlm store list --json`, or at the address"
            )
        if manifest.content.digest() != manifest.digest:
            raise StorageError(f"{self._artifact.uri(MANIFEST)}: its digest does not match its content")
        return dict(manifest.content.files)

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Download the objects in parallel and verify them; what a killed process left half written is removed."""
        for path in folder.glob(f".*@*{PARTIAL_SUFFIX}*"):  # nobody else writes: the caller has the folder alone
            path.unlink(missing_ok=True)
        self._place.download_all({name: folder / name for name in files}, files)


class DiskSource:
    """A local folder. The manifest has the folder's name only, as its path means nothing on other machines.

    Weights become hard links if the file system allows; small files are copied, as they may be rewritten.
    """

    revision: str | None = None

    def __init__(self, uri: str) -> None:
        self.path = Path(uri.removeprefix("file://")).expanduser().resolve()
        if not self.path.is_dir():
            raise InputError(f"{uri}: no such model folder")
        self.name = self.path.name

    def files(self) -> dict[str, FileDigest]:
        """Return the sizes of the folder's own files, without checksums; subfolders are ignored."""
        return {p.name: FileDigest("", p.stat().st_size) for p in sorted(self.path.iterdir()) if p.is_file()}

    def get(self, files: Mapping[str, FileDigest], folder: Path) -> None:
        """Hard-link the weights, or copy them if the file system refuses; copy all other files."""
        for name in files:
            source, target = (self.path / name).resolve(), folder / name  # the hub's cache consists of symbolic links
            with atomic_path(target, writer="") as partial:
                if not fnmatch.fnmatchcase(name, WEIGHTS) or not _link(source, partial):
                    shutil.copyfile(source, partial)

    def bytes_needed(self, files: Mapping[str, FileDigest], folder: Path) -> int:
        """Return the total size in bytes of the files on another file system; the others become hard links."""
        device = folder.stat().st_dev
        return sum(digest.size for name, digest in files.items() if (self.path / name).stat().st_dev != device)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        return False
    return True
