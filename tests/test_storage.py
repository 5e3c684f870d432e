# SPDX-License-Identifier: Apache-2.0
"""URIs and transfers. S3 is the real minio client against an in-process fake (see `fake_s3.py`)."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Store
from steerlm.checksums import FileDigest, digest_folder
from steerlm.errors import InputError, StorageError
from steerlm.retry import Backoff
from steerlm.storage import CREDENTIALS, S3Prefix, fetch
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


KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/p/", "b", "p"),
        ("s3://b/a#b?c=d&e+f%20g h/é🦉", "b", "a#b?c=d&e+f%20g h/é🦉"),
        ("s3://b//p", "b", "/p"),
        ("s3://b/#", "b", "#"),
        ("s3://b/a:b@c/[d]", "b", "a:b@c/[d]"),
    ],
)
def test_what_follows_the_bucket_is_the_key_as_it_is(uri: str, bucket: str, prefix: str) -> None:
    place = S3Prefix.open(uri, KEYS)
    assert (place.bucket, place.prefix) == (bucket, prefix)
    assert place.at("x#/y?").uri("z%") == f"s3://{bucket}/{prefix + '/' if prefix else ''}x#/y?/z%"


def test_every_prefix_has_a_local_folder_of_its_own() -> None:
    prefixes = ["", "p", "a/b", "a%2Fb", "/p", "/", "//p", "a//b", "a?b", "a%3Fb", "a b", ".", "..", "a/../b", "%", "é"]
    names = [S3Prefix(None, "b", prefix).local_name for prefix in prefixes]
    assert len(set(names)) == len(prefixes) - 1, "only / is the same as no prefix"
    assert names[:3] == [Path("b"), Path("b/p"), Path("b/a/b")]
    assert not any(name.is_absolute() or ".." in name.parts or "?" in str(name) for name in names)


@pytest.mark.parametrize("name", ["S3_ENDPOINT", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://host:9000/minio", "without a path; a prefix belongs to s3://bucket/prefix"),
        ("http://host:9000/?x=1", "without a path"),
        ("http://host:9000#x", "without a path"),
        (" http://host:9000", "http://host:port or https://host was expected"),
        ("http://host:9000\n", "http://host:port or https://host was expected"),
        ("http://ho st:9000", "http://host:port or https://host was expected"),
        ("http://host:port", "http://host:port or https://host was expected"),
        ("http://:9000", "http://host:port or https://host was expected"),
        ("host:9000", "http://host:port or https://host was expected"),
        ("http://me:secret@host:9000", "without credentials; they are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_an_endpoint_that_is_no_server_s_address_is_refused(name: str, endpoint: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        S3Prefix.open("s3://bucket/p", KEYS | {name: endpoint})
    text = str(caught.value)
    assert text.startswith(name) and message in text and "\n" not in text and "secret@" not in text


def test_an_endpoint_may_end_in_a_slash() -> None:
    assert S3Prefix.open("s3://bucket/p", KEYS | {"S3_ENDPOINT": "http://host:9000/"}).bucket == "bucket"


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_with_a_new_line_are_told_without_their_value(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} begins or ends with a blank or a new line; set it again without$"):
        S3Prefix.open("s3://bucket/p", KEYS | {name: "of a file\n"})


def test_a_region_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="AWS_REGION: invalid region"):
        S3Prefix.open("s3://bucket/p", KEYS | {"AWS_REGION": "eu west"})


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "S3://bucket/x", "hdfs://a"])
def test_other_uris_are_no_folders(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (lambda: Store(uri), lambda: fetch(uri, tmp_path)):
        with pytest.raises(InputError, match=f"{uri}: .*:// is not supported; a local path or s3://bucket/prefix"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/./b"])
def test_no_object_leaves_the_folder_it_is_downloaded_to(name: str, s3: FakeS3, tmp_path: Path) -> None:
    s3.objects[f"bucket/p/{name}"] = (b"x", {})
    with pytest.raises(StorageError, match=r"s3://bucket/p: the object '.*' cannot become a file here, .*another name"):
        fetch("s3://bucket/p", tmp_path / "down")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_bucket_that_cannot_be_is_one_line(s3: FakeS3) -> None:
    with pytest.raises(StorageError, match="s3://a b/p: cannot list it \\(invalid bucket name a b\\)"):
        S3Prefix.open("s3://a b/p").list()


def test_missing_environment_variables_are_named() -> None:
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID"):
        S3Prefix.open("s3://bucket/p", {})
    with pytest.raises(InputError, match="http://host:port"):
        S3Prefix.open("s3://bucket/p", KEYS | {"S3_ENDPOINT": "localhost:9000"})
    with pytest.raises(InputError, match="s3://bucket/prefix was expected"):
        S3Prefix.open("s3:///p", KEYS)


def test_an_unreachable_server_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3
    from minio import Minio

    monkeypatch.setattr("steerlm.storage.BACKOFF", Backoff(0.01))
    monkeypatch.setattr("steerlm.storage.ATTEMPTS", 2)
    quick = urllib3.PoolManager(retries=False, timeout=1)
    client = Minio(endpoint="127.0.0.1:1", access_key="a", secret_key="b", secure=False, http_client=quick)
    with pytest.raises(StorageError, match="cannot find it"):
        S3Prefix(client, "bucket", "p").stat("x")


def test_one_of_many_writes_an_object_under_a_condition(s3: FakeS3) -> None:
    place, version = S3Prefix.open("s3://bucket/place"), None
    for start in (0, 8):  # first the object does not exist, then it has the version that all have seen
        contents = [b"%d" % (start + number) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda content, version=version: place.put_if("seal", content, version), contents))
        (version,) = [one for one in won if one]
        winner = contents[won.index(version)]
        assert s3.objects["bucket/place/seal"][0] == winner
        assert place.version("seal") == version
        assert place.stat("seal") == FileDigest(hashlib.sha256(winner).hexdigest(), len(winner))
        assert place.put_if("seal", winner, None) == version, "the same content: an answer that got lost"
    for _ in range(2):
        place.discard("seal")
    assert place.version("seal") is None
    assert place.put_if("seal", b"again", version) is None
    assert place.put_if("seal", b"again", None)


def test_a_server_without_conditional_requests_is_warned_of_once(s3: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    s3.conditional = False
    place = S3Prefix.open("s3://bucket/place")
    results = [place.put_if(*put, None) for put in (("a", b"x"), ("a", b"y"), ("b", b"x"))]
    assert [bool(result) for result in results] == [True, False, True]
    assert caplog.text.count("does not know conditional requests") == 1
