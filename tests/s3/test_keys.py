# SPDX-License-Identifier: Apache-2.0
"""Every character that S3 allows in a key, in a real MinIO: written, read, listed, cleared, removed, exactly."""

import io
import re
from pathlib import Path

import pytest

from steerlm.artifact import Store
from steerlm.checksums import digest_folder
from steerlm.cli.main import call
from steerlm.inventory import list_entries
from steerlm.storage import S3Prefix, fetch
from tests.cli import world
from tests.docs.shell import working_in
from tests.s3.conftest import BUCKET, Server
from tests.s3.test_store import make
from tests.s3.test_transfers import make_files

TEXTS = (
    "a#b",
    "a?b=c&d",
    "a%20b%2Fc",
    "a b  c",
    " blanks at the ends ",
    "a+b",
    "a&amp;<b>'\"",
    "grün, 犬, 🦉",
    "e\u0301 is not \u00e9",
    "!-_.*'()@:,$=;~[]{}|^`",
    "\u2028 and \xa0",
    ".hidden",
    "100%",
)
NEIGHBORS = ("a", "a b", "a+", "a%20b", "a b c", "grun", "é is not é", "hidden", "100")
"""What a wrong key might hit."""


def objects(place: S3Prefix, start: str = "") -> set[str]:
    return {o.object_name for o in place.client.list_objects(bucket_name=BUCKET, prefix=start, recursive=True)}


@pytest.mark.parametrize("text", TEXTS)
def test_a_prefix_and_names_of_that_text(text: str, s3: Server, tmp_path: Path) -> None:
    place = S3Prefix.open(f"s3://{BUCKET}/{text}/{text}")
    sizes = {text: 3, f"deep/{text}/{text}.txt": 5}
    files = make_files(tmp_path / "up", sizes)
    place.upload_all(files)
    wanted = {f"{text}/{text}/{name}" for name in sizes}
    assert wanted <= objects(place), "stored under the very names"
    assert place.list() == sizes
    assert digest_folder(fetch(place.uri(), tmp_path / "down")) == digest_folder(tmp_path / "up")
    one = fetch(place.uri(text), tmp_path / "one")
    assert (one.name, one.read_bytes()) == (text, files[text].read_bytes())
    place.remove(first=text)
    assert not wanted & objects(place)


@pytest.mark.parametrize("text", TEXTS)
def test_a_store_there_is_listed_cleared_and_leaves_its_neighbors(
    text: str, s3: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"s3://{BUCKET}/stores/{text}"
    store = Store(uri, tmp_path / "cache")
    make(store, "k", text, files=2)
    assert store.remote is not None
    for name in NEIGHBORS:
        store.remote.client.put_object(bucket_name=BUCKET, object_name=f"stores/{name}/f", data=io.BytesIO(), length=0)
    reader = Store(uri, tmp_path / "reader")
    artifact = reader.materialize(reader.open("stage", "k"))
    assert artifact.uri == f"{uri}/stage/k"
    assert (artifact.path / "1.txt").read_text() == f"{text} 1"
    make(store, "other", text, files=2)
    assert call(["store", "rm", uri, "stage/other", "--delete"]) == 0
    assert [entry.name for entry in list_entries(Store(uri, tmp_path / "new"))] == ["stage/k"]
    assert call(["store", "verify", uri]) == 0
    store.remote.at("stage/k").client.remove_object(bucket_name=BUCKET, object_name=f"stores/{text}/stage/k/COMPLETE")
    assert call(["store", "gc", uri, "--delete"]) == 0
    assert re.search(r"stage +k +unfinished .* deleted", capsys.readouterr().out)
    assert store.remote.list() == {}
    assert {f"stores/{name}/f" for name in NEIGHBORS} <= objects(store.remote)


def test_a_run_with_its_store_and_data_at_such_keys(s3: Server, tmp_path: Path) -> None:
    world.build(tmp_path)
    odd = f"s3://{BUCKET}/runs/a#b?c=d&e+f%20g h/grün 🦉"
    place = S3Prefix.open(f"{odd}/data")
    place.upload_all({name: tmp_path / "own" / name for name in ("train.jsonl", "val.jsonl")})
    (tmp_path / "own.yaml").write_text(world.RECIPE.replace("source: own", f'source: "{odd}/data"'))
    with working_in(tmp_path):
        words = ["run", "own.yaml", "--stage", "prepare_data", "--store", f"{odd}/store"]
        assert call(words) == 0
        assert call(["store", "verify", f"{odd}/store"]) == 0
        store = Store(f"{odd}/store")
        assert [path.parent for path in tmp_path.rglob("mlflow.db")] == [store.root]
    (entry,) = list_entries(Store(f"{odd}/store", tmp_path / "other"))
    assert (entry.stage, entry.state, entry.label) == ("prepare_data", "complete", "prepare_data")
