"""Fetches a model folder: from the hub, from an object store, or from this machine. Safetensors and tokenizers only.

A fetch can be repeated: what is there is kept, what is missing is fetched, and `fetched.json` (where from, every file's
size and sha256) is written last. Pickled weights and code are never fetched.
"""

import fnmatch
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, ModelError, StorageError
from steerlm.models.shape import LlamaShape
from steerlm.models.tokenizer import FILES, copy_tokenizer
from steerlm.records import write_json
from steerlm.storage import S3Place, digest_folder, is_remote, sha256_file

MANIFEST = "fetched.json"
WANTED = (
    *FILES,
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "steerlm.json",
    "README.md",
    "LICENSE*",
)
HUB = re.compile(r"^hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?$")


def fetch_model(uri: str, folder: Path) -> None:
    """Make `folder` a model folder with what `uri` names: `hf://org/name@revision`, `s3://bucket/prefix` or a folder.

    Raises `ModelError` for a model that cannot be used (no safetensors, another architecture), `InputError` for an
    address that does not exist or may not be read, `StorageError` for a transfer that failed or a file that is not what
    it should be.
    """
    if (folder / MANIFEST).exists() and json.loads((folder / MANIFEST).read_text())["uri"] == uri:
        _check(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if uri.startswith("hf://"):
        revision = _from_hub(uri, folder)
    else:
        revision = None
        _from_store(uri, folder) if is_remote(uri) else _from_disk(Path(uri), folder)
    LlamaShape.from_folder(folder)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{uri}: no safetensors; pickled weights are not read: convert the model first")
    copy_tokenizer(folder, folder)
    files = {name: asdict(digest) for name, digest in digest_folder(folder).items() if name != MANIFEST}
    write_json(folder / MANIFEST, {"uri": uri, "revision": revision, "files": files})


def _check(folder: Path) -> None:
    """Raise `StorageError` for a file that is not as large as it was when it was fetched."""
    for name, digest in json.loads((folder / MANIFEST).read_text())["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != digest["size"]:
            raise StorageError(f"{path}: missing or changed since it was fetched; delete {MANIFEST} and fetch again")


def _wanted(names: Iterable[str]) -> list[str]:
    """Files of the folder itself, not of folders below it."""
    return [n for n in names if "/" not in n and any(fnmatch.fnmatchcase(n, pattern) for pattern in WANTED)]


def _from_store(uri: str, folder: Path) -> None:
    place = S3Place.of(uri)
    sizes = place.list()
    wanted = _wanted(sizes)
    if not wanted:
        raise InputError(f"{uri}: no model is stored there")
    _room(folder, sum(sizes[name] for name in wanted if not (folder / name).exists()))
    place.download_all({name: folder / name for name in wanted})


def _from_disk(source: Path, folder: Path) -> None:
    """Hard links where the file system allows, else copies."""
    if not source.is_dir():
        raise InputError(f"{source}: no such model folder")
    if source.resolve() == folder.resolve():
        return
    for name in _wanted(p.name for p in source.iterdir() if p.is_file()):
        target = folder / name
        target.unlink(missing_ok=True)
        try:
            os.link(source / name, target)
        except OSError:
            shutil.copyfile(source / name, target)


def _from_hub(uri: str, folder: Path) -> str:
    """Fetch from the hub and return the commit. Resumes: files that are complete are not fetched again."""
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    match = HUB.match(uri)
    if not match:
        raise InputError(f"{uri}: expected hf://organisation/name or hf://organisation/name@revision")
    repo, revision = match["repo"], match["revision"] or "main"
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = {f.rfilename: f for f in info.siblings or []}
        wanted = _wanted(files)
        if not any(name.endswith(".safetensors") for name in wanted):
            raise ModelError(f"{uri}: no safetensors; pickled weights are not read: ask for a converted revision")
        _room(folder, sum(files[name].size or 0 for name in wanted if not (folder / name).exists()))
        snapshot_download(repo, revision=info.sha, local_dir=folder, allow_patterns=wanted)
    except GatedRepoError:
        raise InputError(
            f"{uri}: gated; accept its licence on the model's page of the hub (models / {repo}) and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{uri}: the hub has no revision {revision!r} of {repo}") from None
    except RepositoryNotFoundError:
        raise InputError(f"{uri}: no such model on the hub, or it is private and HF_TOKEN is not set") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise StorageError(f"{uri}: the hub cannot be read ({_line(error)}); the same command goes on later") from None
    for name in wanted:
        _verify(folder / name, files[name])
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's notes for resuming
    return str(info.sha)


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"{folder}: the model needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _verify(path: Path, told: Any) -> None:
    """Compare with what the hub says of the file; a wrong one is removed, so that a repeated fetch gets it anew."""
    wrong = told.size is not None and path.stat().st_size != told.size
    if not wrong and told.lfs is not None:
        wrong = sha256_file(path) != told.lfs["sha256"]
    if wrong:
        path.unlink()
        raise StorageError(f"{path}: is not the file the hub describes (checksum); it was removed, fetch again")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
