# SPDX-License-Identifier: Apache-2.0
"""Ratings in a real MinIO: servers append to one prefix at a time, and a dataset is made of them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steerlm.artifact import Store
from steerlm.attributes import AttributeSchema
from steerlm.datasets.collect import collect
from steerlm.datasets.rating_folder import RatingFolder
from tests.datasets.test_collect import keep, pair, rating
from tests.s3.conftest import BUCKET, Server


def test_servers_append_at_a_time_and_the_dataset_has_the_digest_of_local_ratings(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERLM_CACHE", str(tmp_path / "cache"))  # that of the machine may know another MinIO's store
    place = f"s3://{BUCKET}/ratings"
    records = [[rating(number, answer=f"a{number} ü")] for number in range(40)] + [pair(50, "x", "y", 2)]
    folders = [RatingFolder(place) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: folders[n % 8].append(records[n]), range(len(records))))
    keep(tmp_path / "local", *records)
    made = collect(place, f"s3://{BUCKET}/store", schema=AttributeSchema(), validation_share=0.2)
    local = collect(tmp_path / "local", tmp_path / "store", schema=AttributeSchema(), validation_share=0.2)
    assert (made.ratings, made.preferences) == (40, 1)
    assert made.artifact.digest == local.artifact.digest
    other = Store(f"s3://{BUCKET}/store", tmp_path / "another machine")
    found = other.materialize(other.open("collect_ratings", made.artifact.key))
    assert found.digest == made.artifact.digest and (found.path / "preference" / "preference.jsonl").exists()
