# SPDX-License-Identifier: Apache-2.0
"""Makes a source's raw input local: a file or folder as it is, a hub dataset or an object store by download."""

import re
from pathlib import Path

from steerlm.datasets.raw_files import ALL_FORMATS, file_format
from steerlm.datasets.sources.base import SettingsT, SourceSettings
from steerlm.errors import InputError, SourceUnreachableError, first_line

_HUB = re.compile(r"(hf://)?(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def localize(settings: SettingsT, scratch: Path) -> SettingsT:
    """Return the settings with a local `source`, fetched if it is remote.

    Object stores are copied into `scratch`, hub datasets into the hub client's cache.

    Raises:
        InputError: If the source does not exist.
        SourceUnreachableError: If the hub cannot be reached.
        StorageError: If the object store cannot be reached.
    """
    return settings.model_copy(update={"source": str(_fetch(settings, scratch))})


def _fetch(settings: SourceSettings, scratch: Path) -> Path:
    source = settings.source
    if source.startswith("s3://"):
        from steerlm import storage

        return storage.fetch(source, scratch / "fetched")
    local = Path(source).expanduser()
    if local.exists():
        return local
    match = _HUB.fullmatch(source)
    if match is None or source.startswith(".") or file_format(local, ALL_FORMATS):
        raise InputError(f"{source}: no such file or folder (and not a hub dataset owner/name or an s3:// URI)")
    return _fetch_from_hub(settings, match["name"], match["revision"])


def _fetch_from_hub(settings: SourceSettings, name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    patterns = settings.patterns()
    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    except errors.GatedRepoError:
        raise InputError(
            f"dataset {name} is gated: accept its license on its page on the hub, then set HF_TOKEN to your token"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{name}: no such file or folder, and no such dataset{' revision' if revision else ''} on the hub"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise SourceUnreachableError(
            settings.source, f"dataset {name} cannot be fetched from the hub ({first_line(error)})"
        ) from None
    if not any(file_format(file, settings.formats) for file in Path(folder).rglob("*")):
        raise InputError(f"dataset {name} has no file {' or '.join(patterns)} ({', '.join(settings.formats)})")
    return Path(folder)
