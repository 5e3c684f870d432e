# SPDX-License-Identifier: Apache-2.0
"""Where ratings are kept: a folder or `s3://bucket/prefix` with one file per rating, each written once.

No file is ever changed, so any number of servers may write to one place at a time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from steerlm.datasets.outputs import make_folder
from steerlm.datasets.ratings import RatedConversation
from steerlm.errors import InputError, StorageError
from steerlm.files import atomic_writer
from steerlm.storage import S3Prefix, fetch, is_remote, local_path

ENDING = ".jsonl"


class RatingFolder:
    """Ratings below a local folder, which is created, or an S3 prefix."""

    def __init__(self, uri: str | Path) -> None:
        """Open the place.

        Raises:
            InputError: The URI, or the environment that names the S3 server, is invalid; or the folder is a file.
        """
        self.remote = S3Prefix.open(str(uri)) if is_remote(uri) else None
        self.uri = str(uri).rstrip("/")
        if self.remote is None:
            make_folder(local_path(uri))

    def append(self, records: Sequence[RatedConversation]) -> str:
        """Write the lines of one rating as a file of its own, named after its time and id; return its URI.

        Raises:
            StorageError: It cannot be written.
        """
        note = records[0].rating
        day, _, time = note.at.partition("T")
        name = f"{day}/{time.replace(':', '')}-{note.id}{ENDING}"
        text = "".join(f"{record.to_json()}\n" for record in records)
        if self.remote:
            if self.remote.put_if(name, text.encode(), None) is None:
                raise StorageError(f"{self.remote.uri(name)}: exists already; send the rating again")
            return self.remote.uri(name)
        path = local_path(self.uri) / name
        if path.exists():
            raise StorageError(f"{path}: exists already; send the rating again")
        try:
            with atomic_writer(path) as file:
                file.write(text)
        except OSError as error:
            raise StorageError(f"{path}: cannot write it ({error.strerror})") from None
        return str(path)


@contextmanager
def rating_files(uri: str | Path) -> Iterator[dict[str, Path]]:
    """Yield local paths of all ratings at a place, by their names below it, which sort by time.

    Raises:
        InputError: Nothing is there, or something else than ratings is.
        StorageError: A download failed.
    """
    with tempfile.TemporaryDirectory(prefix="steerlm-ratings-") as scratch:
        folder = fetch(uri, Path(scratch))
        if folder.is_file():
            raise InputError(f"{uri}: is one file; the folder of the ratings was expected")
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        for name in files:
            if not name.endswith(ENDING):
                raise InputError(f"{str(uri).rstrip('/')}/{name}: not a rating, which ends in {ENDING}; move it away")
        if not files:
            raise InputError(f"{uri}: no ratings are stored there")
        yield files
