# SPDX-License-Identifier: Apache-2.0
"""Transfers to and from a real MinIO: multipart, parallel, resumed, refused, and through a server that dies."""

import io
import random
import threading
import time
from pathlib import Path

import pytest

from steerlm.checksums import digest_folder
from steerlm.errors import StorageError
from steerlm.storage import SHA256_KEY, S3Prefix, fetch
from tests.s3.conftest import BUCKET, Server

MB = 1 << 20


def make_files(folder: Path, sizes: dict[str, int]) -> dict[str, Path]:
    dice = random.Random(0)
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dice.randbytes(size))
    return {name: folder / name for name in sizes}


def overwrite(place: S3Prefix, name: str, content: bytes) -> None:
    """Other bytes under the checksum of the old ones."""
    stat = place.stat(name)
    assert stat is not None
    place.client.put_object(
        bucket_name=place.bucket,
        object_name=place._key(name),
        data=io.BytesIO(content),
        length=len(content),
        metadata={SHA256_KEY: stat.sha256},
    )


def test_large_and_many_files_come_back_as_they_were(s3: Server, tmp_path: Path) -> None:
    sizes = {"large.safetensors": 23 * MB + 17, "empty": 0} | {f"many/{n:03}.txt": 100 + n for n in range(120)}
    files = make_files(tmp_path / "a", sizes)
    place = S3Prefix.open(f"s3://{BUCKET}/round trip/ünï")
    place.upload_all(files)
    tag = place.client.stat_object(bucket_name=BUCKET, object_name=place._key("large.safetensors")).etag
    assert tag.endswith("-5"), "sent in five parts"
    assert place.list() == sizes
    fetch(place.uri(), tmp_path / "b")
    assert digest_folder(tmp_path / "b") == digest_folder(tmp_path / "a")


def test_only_what_is_missing_or_different_travels_again(s3: Server, tmp_path: Path) -> None:
    files = make_files(tmp_path / "a", {f"{n}": 1000 for n in range(6)})
    place = S3Prefix.open(f"s3://{BUCKET}/again")
    place.upload_all(files)

    def times() -> dict[str, object]:
        found = place.client.list_objects(bucket_name=BUCKET, prefix="again/")
        return {o.object_name: o.last_modified for o in found}

    before = times()
    time.sleep(1.1)
    files["3"].write_bytes(b"x" * 1000)
    place.upload_all(files)
    after = times()
    assert {name for name in after if after[name] != before[name]} == {"again/3"}
    targets = {name: tmp_path / "b" / name for name in files}
    place.download_all(targets)
    untouched = targets["1"].stat().st_mtime_ns
    targets["2"].unlink()
    targets["4"].write_bytes(b"broken")
    place.download_all(targets)
    assert digest_folder(tmp_path / "b") == digest_folder(tmp_path / "a")
    assert targets["1"].stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("variable", "value", "uri", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", f"s3://{BUCKET}/x", "cannot .* it .*signature"),
        ("AWS_ACCESS_KEY_ID", "nobody", f"s3://{BUCKET}/x", "cannot .* it .*Access Key Id"),
        ("S3_ENDPOINT", None, "s3://no-such-bucket/x", "s3://no-such-bucket/x: cannot .* it .*bucket does not exist"),
    ],
)
def test_a_refusal_is_one_clear_line_at_once(
    variable: str, value: str | None, uri: str, message: str, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value:
        monkeypatch.setenv(variable, value)
    start = time.monotonic()
    with pytest.raises(StorageError, match=message) as told:
        S3Prefix.open(uri).list()
    assert time.monotonic() - start < 2, "asking again would not help"
    assert "\n" not in str(told.value) and "not-a-secret" not in str(told.value)


def test_bytes_that_changed_in_the_store_are_told(s3: Server, tmp_path: Path) -> None:
    place = S3Prefix.open(f"s3://{BUCKET}/changed")
    place.upload_all(make_files(tmp_path / "a", {"f": 5000}))
    overwrite(place, "f", b"x" * 5000)
    with pytest.raises(StorageError, match=r"changed/f: sha256 .* was expected"):
        fetch(place.uri(), tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_server_killed_in_mid_transfer_and_back(way: str, s3: Server, tmp_path: Path) -> None:
    files = make_files(tmp_path / "a", {f"{n}": 12 * MB for n in range(12)})
    place = S3Prefix.open(f"s3://{BUCKET}/killed-{way}")
    if way == "down":
        place.upload_all(files)
    failed: list[BaseException] = []

    def transfer() -> None:
        try:
            if way == "up":
                place.upload_all(files)
            else:
                place.download_all({name: tmp_path / "b" / name for name in files})
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=transfer)
    thread.start()
    began = (tmp_path / "b").exists if way == "down" else (s3.folder / BUCKET / "killed-up").exists
    while not began():
        time.sleep(0.001)
    s3.kill()
    assert thread.is_alive(), "killed in the middle"
    time.sleep(3)
    s3.start()
    thread.join(120)
    assert not thread.is_alive() and not failed, failed
    if way == "up":
        fetch(place.uri(), tmp_path / "b")
    assert digest_folder(tmp_path / "b") == digest_folder(tmp_path / "a")
