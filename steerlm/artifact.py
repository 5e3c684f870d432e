# SPDX-License-Identifier: Apache-2.0
"""Artifacts: the results of stages, and the store that keeps them by stage and key.

`<store>/<stage>/<key>/` contains the artifact's files in a folder named after its kind (`policy/` is a model folder),
`manifest.json`, `COMPLETE` (written last), `key.json` (the parts of the key, written first), `logs/` and, until the
stage is done, `work/`. The digest covers everything that a later stage may depend on; metrics, times and paths are
provenance.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerlm import locks
from steerlm.attributes import AttributeSchema
from steerlm.checksums import FileDigest, digest_folder, digest_json, sha256_file
from steerlm.claim import claimed
from steerlm.errors import StorageError
from steerlm.files import cache_folder, remove_partial_files, write_json
from steerlm.locks import Held
from steerlm.prompt import PROMPT_VERSION
from steerlm.storage import OverwrittenError, S3Prefix, is_remote, local_path
from steerlm.visibility import wait_for_files

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, COMPLETE, KEY, LOGS, WORK, HASHES, LOCK = (
    "manifest.json",
    "COMPLETE",
    "key.json",
    "logs",
    "work",
    ".hashes.json",
    ".lock",
)
RUNS = "runs"
"""Beside the stages: a folder for each pipeline run. The run holds its lock."""
REPLACEMENT, MOVING = ".again", ".moving"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


class Content(BaseModel):
    """Everything that an artifact's digest covers. `tokenizer`: digest of the tokenizer's files, if it has any."""

    model_config = ConfigDict(frozen=True)

    kind: str
    format: int = FORMAT
    files: dict[str, FileDigest]
    attributes: AttributeSchema | None = None
    prompt_version: int = PROMPT_VERSION
    tokenizer: str | None = None

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON in lowercase hex."""
        return digest_json(self.model_dump(mode="json"))


class Manifest(BaseModel):
    """`manifest.json`: the content, its digest, and the provenance (when, where and by which code it was made)."""

    stage: str
    key: str
    digest: str
    content: Content
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Path of the artifact below the store: `STAGE/KEY`."""
        return f"{self.stage}/{self.key}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact. `path`: its files, which are local after `materialize`; `uri`: its folder in the store."""

    kind: str
    key: str
    uri: str
    path: Path
    digest: str
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """The local folder that contains manifest, logs and `path`."""
        return self.path.parent

    @property
    def attributes(self) -> AttributeSchema | None:
        """The attributes that the files deal with; None for an artifact without any."""
        return self.manifest.content.attributes


class Store:
    """Artifacts by stage and key, in a local folder or at `s3://bucket/prefix`.

    Stages of an S3 store work in a local cache folder (`cache`, by default below `cache_folder()`). An artifact is
    uploaded when it is complete, and downloaded when a stage that reads it actually runs. Locks of an S3 store hold
    between the processes that share this folder; whoever completes a key first has made its artifact.
    """

    def __init__(self, uri: str | Path, cache: Path | None = None) -> None:
        self.remote = S3Prefix.open(str(uri)) if is_remote(uri) else None
        if self.remote:
            self.root = (cache or cache_folder() / "stores") / self.remote.local_name
            self.uri = self.remote.uri()
        else:
            self.root = local_path(uri).resolve()
            self.uri = str(self.root)

    def folder(self, stage: str, key: str, *, replace: bool = False) -> Path:
        """Return the local folder of a key; with `replace`, that in which a finished artifact is made again."""
        return self.root / stage / (f"{key}{REPLACEMENT}" if replace else key)

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return the finished artifact of a key, or None.

        Local files are verified: by checksum, or by size and time alone if they were not touched since the last check.

        Raises:
            StorageError: Names a file that is missing or has changed since the artifact was made.
        """
        folder = self.folder(stage, key)
        if (folder / COMPLETE).exists():
            artifact = self._read(folder)
            _check_files(artifact)
            return artifact
        if self.remote and self.remote.stat(f"{stage}/{key}/{COMPLETE}"):
            self.remote.download(f"{stage}/{key}/{MANIFEST}", folder / MANIFEST)
            return self._read(folder)
        return None

    def open(self, stage: str, key: str, digest: str | None = None) -> Artifact:
        """Return the finished artifact of a key; raises `StorageError` if it does not exist.

        A local copy whose digest is not `digest` is dropped if the remote store has another artifact by now.
        """
        artifact = self.find(stage, key)
        if artifact and digest not in (None, artifact.digest) and self.remote and (artifact.folder / COMPLETE).exists():
            self._drop_copy(artifact)
            artifact = self.find(stage, key)
        if artifact is None:
            raise StorageError(f"{self.uri}/{stage}/{key}: no finished artifact; run the stage {stage} again")
        return artifact

    def materialize(self, artifact: Artifact) -> Artifact:
        """Download an artifact's files and verify them, unless they are local already."""
        if self.remote and not (artifact.folder / COMPLETE).exists():
            prefix = self.remote.at(f"{artifact.manifest.stage}/{artifact.key}")
            files = artifact.manifest.content.files
            prefix.at(artifact.kind).download_all({name: artifact.path / name for name in files}, files)
            logs = prefix.at(LOGS).list()
            prefix.at(LOGS).download_all({name: artifact.folder / LOGS / name for name in logs})
            _check_files(artifact)
            (artifact.folder / COMPLETE).write_text(artifact.digest + "\n")
        return artifact

    def begin(
        self, stage: str, key: str, kind: str, parts: Mapping[str, Any], *, replace: bool = False
    ) -> dict[str, Any] | None:
        """Create the key's folder and record the parts of the key.

        Returns the earlier record, with its `started` time, if the key was started before and never finished.
        """
        folder = self.folder(stage, key, replace=replace)
        for name in (kind, LOGS, WORK):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if (folder / KEY).exists():
            record: dict[str, Any] = json.loads((folder / KEY).read_text(encoding="utf-8"))
            return record
        write_json(folder / KEY, {"started": _now(), **parts})
        return None

    def finish(
        self,
        stage: str,
        key: str,
        kind: str,
        attributes: AttributeSchema | None,
        provenance: Mapping[str, Any],
        *,
        replace: bool = False,
        held: Held | None = None,
        expected: Mapping[str, FileDigest] | None = None,
    ) -> Artifact:
        """Complete the artifact in the folder `kind`: digests, manifest, upload, then COMPLETE; remove scratch files.

        If another machine has completed the key in the meantime, its artifact is the result.

        Args:
            stage: Name of the stage.
            key: The key.
            kind: Name of the folder with the files.
            attributes: The attributes that the files deal with.
            provenance: What the manifest says about how they were made.
            replace: The artifact takes the place of the finished one.
            held: The key's lock, which is checked before anything that others use is changed.
            expected: The files that other machines say they have written: exactly these become the artifact, once they
                are visible here. Other files are removed, as whoever reads the folder would take them for a part of it.

        Raises:
            StorageError: An expected file is missing or differs, the lock was lost, or a transfer failed.
        """
        folder = self.folder(stage, key, replace=replace)
        remove_partial_files(folder / kind)
        if expected is not None:
            wait_for_files(folder / kind, expected, folder / HASHES)
            _remove_others(folder / kind, expected)
        files = digest_folder(folder / kind, folder / HASHES)
        if not files:
            raise StorageError(f"{folder / kind}: the stage {stage} made no file")
        content = Content(kind=kind, files=files, attributes=attributes, tokenizer=_tokenizer_digest(files))
        manifest = Manifest(
            stage=stage,
            key=key,
            digest=content.digest(),
            content=content,
            provenance={"finished": _now(), **provenance},
        )
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        check = held.check if held else lambda: None
        check()
        if self.remote and not self._publish(folder, manifest, check, replace=replace):
            return self._take_other(folder, stage, key, kind)
        check()
        (folder / COMPLETE).write_bytes(_complete_bytes(manifest))
        if replace:
            folder = self._move_in(folder, self.folder(stage, key))
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return self._read(folder)

    def _publish(self, folder: Path, manifest: Manifest, check: Callable[[], None], *, replace: bool) -> bool:
        """Upload an artifact, COMPLETE last; return False if another machine has completed the key.

        Machines that do not share a lock wait for each other at the claim of the key. Raises `OverwrittenError` if
        others have written nevertheless: files of two machines must not be marked complete.
        """
        assert self.remote is not None
        prefix = self.remote.at(manifest.name)
        if replace:
            prefix.remove(first=COMPLETE)
        with claimed(prefix, lambda: prefix.version(COMPLETE) is not None) as check_claim:
            if check_claim is None:
                return False
            kind, files = manifest.content.kind, manifest.content.files
            prefix.at(kind).upload_all({name: folder / kind / name for name in files}, files)
            logs = digest_folder(folder / LOGS)
            prefix.at(LOGS).upload_all({name: folder / LOGS / name for name in logs}, logs)
            for name, digest in files.items():
                if prefix.at(kind).stat(name) != digest:
                    raise OverwrittenError(prefix.uri(), name)
            check_claim()  # before the manifest too: the key may be another machine's by now
            for name in (KEY, MANIFEST):
                prefix.upload(folder / name, name)
            check_claim()
            check()
            return prefix.put_if(COMPLETE, _complete_bytes(manifest), None) is not None

    def _take_other(self, folder: Path, stage: str, key: str, kind: str) -> Artifact:
        """Return the artifact that another machine has completed, in place of the one in `folder`."""
        assert self.remote is not None
        log.info("%s/%s: another machine has finished it in the meantime; using its artifact", stage, key)
        place = self.folder(stage, key)
        (place / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder / kind)
        if folder != place:  # it was made again
            shutil.rmtree(folder)
            shutil.rmtree(place / kind, ignore_errors=True)
        self.remote.download(f"{stage}/{key}/{MANIFEST}", place / MANIFEST)
        return self._read(place)

    def _move_in(self, new: Path, folder: Path) -> Path:
        """Move a finished replacement into its key's folder. Broken off and called again, it moves the rest.

        The lock file stays in its place, so that processes that wait for the key find the new artifact.
        """
        if not (folder / MOVING).exists():
            (folder / COMPLETE).unlink(missing_ok=True)
            for old in _unlocked(folder):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            (folder / MOVING).touch()
        for path in _unlocked(new):
            if path.name != COMPLETE:
                path.rename(folder / path.name)
        (new / COMPLETE).rename(folder / COMPLETE)
        (folder / MOVING).unlink()
        shutil.rmtree(new, ignore_errors=True)
        return folder

    def _drop_copy(self, artifact: Artifact) -> None:
        """Delete the local copy of an artifact if the remote store has another one under its key."""
        assert self.remote is not None
        name = f"{artifact.manifest.stage}/{artifact.key}/{MANIFEST}"
        local, remote = artifact.folder / MANIFEST, self.remote.stat(name)
        with self.lock(artifact.manifest.stage, artifact.key, lambda holder: None) as held:
            if remote and local.exists() and remote.sha256 != sha256_file(local):
                held.check()
                (artifact.folder / COMPLETE).unlink(missing_ok=True)
                for path in _unlocked(artifact.folder):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, on_wait: Callable[[str], None], *, replace: bool = False) -> Iterator[Held]:
        """Hold a key alone, with `replace` also its replacement's folder.

        `on_wait` is called with the holder if the lock is taken. A replacement that was finished but not moved into its
        place is moved first.
        """
        folder, new = self.folder(stage, key), self.folder(stage, key, replace=True)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            lock = held.enter_context(locks.hold(folder / LOCK, on_wait))
            if (new / COMPLETE).exists():
                self._move_in(new, folder)
            if replace:
                new.mkdir(parents=True, exist_ok=True)
                held.enter_context(locks.hold(new / LOCK, on_wait))
            yield lock

    def records(self, stage: str) -> list[dict[str, Any]]:
        """Return the recorded parts of a stage's keys that this machine has seen, newest first."""
        paths = sorted((self.root / stage).glob(f"*/{KEY}"), key=lambda p: p.stat().st_mtime, reverse=True)
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def _read(self, folder: Path) -> Artifact:
        path = folder / MANIFEST
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path}: not a readable manifest ({error}); delete {folder} to make it again") from None
        if manifest.content.digest() != manifest.digest:
            raise StorageError(f"{path}: its digest does not match its content; delete {folder} to make it again")
        uri = f"{self.uri}/{manifest.stage}/{manifest.key}"
        kind = manifest.content.kind
        return Artifact(kind, manifest.key, uri, folder / kind, manifest.digest, manifest)


def _remove_others(folder: Path, expected: Mapping[str, FileDigest]) -> None:
    for name in sorted(set(digest_folder(folder)) - set(expected)):
        log.warning("%s: no process of the job says that it wrote this file; removing it", folder / name)
        (folder / name).unlink(missing_ok=True)


def _complete_bytes(manifest: Manifest) -> bytes:
    return f"{manifest.digest}\n".encode()


def _unlocked(folder: Path) -> list[Path]:
    """Everything in a key's folder but its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(LOCK)]


def _check_files(artifact: Artifact) -> None:
    digests = digest_folder(artifact.path, artifact.folder / HASHES)
    for name, digest in artifact.manifest.content.files.items():
        if digests.get(name) != digest:
            problem = "has changed since it was made" if name in digests else "is missing"
            raise StorageError(f"{artifact.path / name} {problem}; delete {artifact.folder} to make it again")


def _tokenizer_digest(files: Mapping[str, FileDigest]) -> str | None:
    parts = {n: d.sha256 for n, d in files.items() if n.rpartition("/")[2] in TOKENIZER_FILES}
    return digest_json(parts) if parts else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
