# SPDX-License-Identifier: Apache-2.0
"""Models fetched from an object store: a folder of one, and the artifact of a store with its digest."""

import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.artifact import Store
from steerlm.errors import InputError, SteerLMError, StorageError
from steerlm.models.fetch import fetch_model
from steerlm.models.shape import ModelShape
from tests.fake_s3 import FakeS3
from tests.models.test_fetch import SHARDS, TAKEN, check_manifest, names
from tests.models.test_fetch import files as files


def test_a_store_gives_what_a_model_needs(s3: FakeS3, files: dict[str, bytes], tmp_path: Path) -> None:
    s3.objects = {f"models/tiny/{name}": (content, {}) for name, content in files.items()}
    fetch_model("s3://models/tiny", tmp_path / "m")
    assert names(tmp_path / "m") == TAKEN | {"fetched.json"}
    assert {key.rpartition("/")[2] for key in s3.fetched} == TAKEN
    check_manifest(tmp_path / "m", "s3://models/tiny", None)
    assert ModelShape.from_folder(tmp_path / "m").hidden_size == 32
    s3.objects = {}
    fetch_model("s3://models/tiny", tmp_path / "m")
    with pytest.raises(InputError, match="there is no model at this address"):
        fetch_model("s3://models/none", tmp_path / "n")


STORED = "s3://models/store/train_sft/k1/policy"


@pytest.fixture
def digest(s3: FakeS3, files: dict[str, bytes], tmp_path: Path) -> str:
    """Of the model as a finished artifact at STORED."""
    store = Store("s3://models/store", tmp_path / "cache")
    store.begin("train_sft", "k1", "policy", {})
    for name in TAKEN:
        (store.folder("train_sft", "k1") / "policy" / name).write_bytes(files[name])
    made = store.finish("train_sft", "k1", "policy", None, {})
    s3.fetched.clear()
    return made.digest


def test_an_artifact_is_fetched_by_its_digest(s3: FakeS3, digest: str, tmp_path: Path) -> None:
    address = f"{STORED}@sha256:{digest}"
    fetch_model(address, tmp_path / "m")
    assert names(tmp_path / "m") == TAKEN | {"fetched.json"}
    check_manifest(tmp_path / "m", address, None)
    s3.objects = {}
    fetch_model(address, tmp_path / "m")  # nothing to do, the store is not asked


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"{STORED}@sha256:{'0' * 64}", f"is sha256:.*, sha256:{'0' * 64} was asked for"),
        (f"{STORED}@sha256:12", "64 hexadecimal digits"),
        (f"s3://models/store/train_sft/k2/policy@sha256:{'0' * 64}", "no finished artifact"),
    ],
)
def test_another_artifact_is_refused(digest: str, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_model(address, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_artifact_whose_bytes_changed_is_refused_until_it_is_whole(s3: FakeS3, digest: str, tmp_path: Path) -> None:
    key = f"models/store/train_sft/k1/policy/{SHARDS[0]}"
    content, headers = s3.objects[key]
    s3.objects[key] = (bytes([content[0] ^ 1]) + content[1:], headers)
    left = tmp_path / "m" / f".{SHARDS[1]}.@dead@1@00.partial"
    left.parent.mkdir()
    left.touch()
    with pytest.raises(StorageError, match="was expected"):
        fetch_model(f"{STORED}@sha256:{digest}", tmp_path / "m")
    assert not left.exists()
    s3.objects[key] = (content, headers)
    fetch_model(f"{STORED}@sha256:{digest}", tmp_path / "m")
    assert names(tmp_path / "m") == TAKEN | {"fetched.json"}


def test_processes_that_share_a_folder_fetch_once(s3: FakeS3, digest: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steerlm.cli", "model", "fetch", f"{STORED}@sha256:{digest}", str(tmp_path / "m")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [f"{tmp_path / 'm'}: complete\n"] * 2
    assert sorted(key.rpartition("/")[2] for key in s3.fetched if "/policy/" in key) == sorted(TAKEN)
    assert not (tmp_path / ".m.lock").exists()


def test_a_store_without_keys_says_which_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(SteerLMError, match="set AWS_ACCESS_KEY_ID"):
        fetch_model("s3://models/tiny", tmp_path / "m")
