# SPDX-License-Identifier: Apache-2.0
"""URIs and transfers. S3 is the real minio client against an in-process fake (see `fake_s3.py`)."""

from pathlib import Path
from typing import Any

import pytest

from steerlm.checksums import digest_folder
from steerlm.errors import InputError, StorageError
from steerlm.retry import Backoff
from steerlm.storage import S3Prefix, fetch
from tests.fake_s3 import FakeS3
from tests.sample_files import FILES, make_files


def test_a_local_path_is_not_copied(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "here", FILES)
    assert fetch(folder, tmp_path / "there") == folder
    assert fetch(f"file://{folder}/a.txt", tmp_path / "there") == folder / "a.txt"
    with pytest.raises(InputError, match="no such file or folder"):
        fetch(tmp_path / "nowhere", tmp_path)


def test_upload_and_download_keep_every_byte(s3: FakeS3, tmp_path: Path) -> None:
    folder = make_files(tmp_path / "up", FILES)
    place = S3Prefix.open("s3://bucket/some/prefix/")
    place.upload_all({name: folder / name for name in FILES})
    assert {k: len(v) for k, v in FILES.items()} == place.list()
    assert digest_folder(fetch("s3://bucket/some/prefix", tmp_path / "down")) == digest_folder(folder)
    assert fetch("s3://bucket/some/prefix/a.txt", tmp_path / "one").read_bytes() == b"alpha"
    with pytest.raises(InputError, match="nothing is stored there"):
        fetch("s3://bucket/some/pre", tmp_path / "none")


def test_an_interrupted_download_is_resumed(s3: FakeS3, tmp_path: Path) -> None:
    folder = make_files(tmp_path / "up", FILES)
    S3Prefix.open("s3://bucket/p").upload_all({name: folder / name for name in FILES})
    down = fetch("s3://bucket/p", tmp_path / "down")
    (down / "a.txt").unlink()
    (down / "sub" / "b.bin").write_bytes(b"torn")
    s3.fetched.clear()
    fetch("s3://bucket/p", tmp_path / "down")
    assert sorted(s3.fetched) == ["bucket/p/a.txt", "bucket/p/sub/b.bin"]
    assert digest_folder(down) == digest_folder(folder)


def test_bytes_that_changed_in_transfer_are_detected(s3: FakeS3, tmp_path: Path) -> None:
    folder = make_files(tmp_path / "up", FILES)
    S3Prefix.open("s3://bucket/p").upload(folder / "a.txt", "a.txt")
    s3.objects["bucket/p/a.txt"] = (b"alphA", s3.objects["bucket/p/a.txt"][1])
    with pytest.raises(StorageError, match=r"s3://bucket/p/a\.txt: sha256 .* was expected"):
        fetch("s3://bucket/p", tmp_path / "down")
    assert not (tmp_path / "down" / "a.txt").exists()


def test_an_object_that_another_machine_overwrites_during_its_upload_is_refused(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_files(tmp_path / "up", FILES)
    place = S3Prefix.open("s3://bucket/p")
    put = place.client.fput_object

    def put_and_be_overwritten(**arguments: Any) -> None:
        put(**arguments)
        (tmp_path / "other").write_bytes(b"longer than ours")
        put(**{**arguments, "file_path": str(tmp_path / "other"), "metadata": {"x-amz-meta-sha256": "of the other"}})

    monkeypatch.setattr(place.client, "fput_object", put_and_be_overwritten)
    with pytest.raises(StorageError, match=r"s3://bucket/p/a\.txt: another machine is writing the same key; run again"):
        place.upload(folder / "a.txt", "a.txt")


def test_an_equal_object_is_not_uploaded_again(s3: FakeS3, tmp_path: Path) -> None:
    folder = make_files(tmp_path / "up", FILES)
    place = S3Prefix.open("s3://bucket/p")
    place.upload(folder / "a.txt", "a.txt")
    marker = s3.objects["bucket/p/a.txt"]
    place.upload(folder / "a.txt", "a.txt")
    assert s3.objects["bucket/p/a.txt"] is marker


def test_missing_environment_variables_are_named() -> None:
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID"):
        S3Prefix.open("s3://bucket/p", {})
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(InputError, match="http://host:port"):
        S3Prefix.open("s3://bucket/p", keys | {"S3_ENDPOINT": "localhost:9000"})
    with pytest.raises(InputError, match="s3://bucket/prefix was expected"):
        S3Prefix.open("s3:///p", keys)


def test_an_unreachable_server_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3
    from minio import Minio

    monkeypatch.setattr("steerlm.storage.BACKOFF", Backoff(0.01))
    monkeypatch.setattr("steerlm.storage.ATTEMPTS", 2)
    quick = urllib3.PoolManager(retries=False, timeout=1)
    client = Minio(endpoint="127.0.0.1:1", access_key="a", secret_key="b", secure=False, http_client=quick)
    with pytest.raises(StorageError, match="cannot find it"):
        S3Prefix(client, "bucket", "p").stat("x")
