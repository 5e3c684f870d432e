# SPDX-License-Identifier: Apache-2.0
"""The token index: its content, when it is rebuilt, who builds it, and its errors."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.errors import InputError, RecordError
from steerlm.training.config import RewardSettings, TextSettings
from steerlm.training.data import Unit
from steerlm.training.dataset import TokenDataset
from steerlm.training.objectives.reward import RewardObjective
from steerlm.training.objectives.text import TextObjective
from tests.training.units import read_unit, record_units

Write = Callable[..., Path]


class Counted(TextObjective):
    """Counts the records that it makes units of."""

    built_units = 0

    def units(self, records: Iterable[Any]) -> Iterator[Sequence[Unit]]:
        for units in super().units(records):
            self.built_units += 1
            yield units


def objective(tokenizer: Any, window: int = 16) -> Counted:
    return Counted(TextSettings(max_steps=1, window=window), tokenizer)


def same(a: Unit, b: Unit) -> bool:
    pairs = zip(a.samples, b.samples, strict=True)
    return a.together == b.together and all(
        np.array_equal(x.ids, y.ids)
        and np.array_equal(x.weights, y.weights)
        and x.count == y.count
        and (x.labels is None) == (y.labels is None)
        and (x.labels is None or y.labels is None or np.array_equal(x.labels, y.labels))
        for x, y in pairs
    )


def test_units_are_read_as_the_objective_returned_them(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    texts = [{"text": "short"}, {"text": "a text that is longer than sixteen tokens"}, {"text": "é"}]
    first, second = jsonl("a.jsonl", *texts[:2]), jsonl("b.jsonl", texts[2])
    learn = objective(tokenizer)
    data = TokenDataset.build([first, second], learn, tmp_path / "cache")
    expected = [
        unit for text in texts for unit in record_units(objective(tokenizer), learn.record.model_validate(text))
    ]
    assert len(data) == len(expected) == 5
    assert all(same(read_unit(data, i), unit) for i, unit in enumerate(expected))
    assert data.lengths.tolist() == [len(unit.samples[0].ids) for unit in expected]
    assert data.counts["records"] == 3 and data.counts["units"] == 5
    assert data.counts["tokens"] == sum(data.lengths) and data.counts["cut_into_windows"] == 1


def test_labels_are_read_and_weights_are_zero(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    schema = AttributeSchema(names=("a", "b"))
    learn = RewardObjective(RewardSettings(max_steps=1), tokenizer, schema)
    lines = [{"text": f"{t}<extra_id_2>", "label": label} for t, label in (("x", [1.0, MASKED]), ("yy", [2.5, 4.0]))]
    data = TokenDataset.build([jsonl("r.jsonl", *lines)], learn, tmp_path)
    units = [record_units(learn, learn.record.model_validate(line))[0] for line in lines]
    assert all(same(read_unit(data, i), unit) for i, unit in enumerate(units))
    (last,) = read_unit(data, 1).samples
    assert last.labels is not None and last.labels.tolist() == [2.5, 4.0] and not last.weights.any()
    assert not list(tmp_path.rglob("weights.bin")) or read_unit(data, 0).samples[0].weights.shape == (13,)


def test_units_of_several_samples_keep_their_shape(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    class Pairs(TextObjective):
        def units(self, records: Iterable[Any]) -> Iterator[list[Unit]]:
            for units in super().units(records):
                yield [Unit(units[0].samples * 2, "row")]

    learn = Pairs(TextSettings(max_steps=1), tokenizer)
    data = TokenDataset.build([jsonl("p.jsonl", {"text": "one"}, {"text": "three"})], learn, tmp_path)
    assert [list(data.samples(i)) for i in range(2)] == [[0, 1], [2, 3]]
    assert data.in_one_row(1) and read_unit(data, 1).together == "row"
    assert data.lengths.tolist() == [4, 4, 6, 6] and data.longest() == 12


def test_a_second_process_reuses_the_index(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    file = jsonl("a.jsonl", {"text": "hello"})
    first = TokenDataset.build([file], objective(tokenizer), tmp_path / "cache")
    again = objective(tokenizer)
    second = TokenDataset.build([file], again, tmp_path / "cache")
    assert again.built_units == 0 and second.key == first.key and second.counts == first.counts
    assert same(read_unit(first, 0), read_unit(second, 0))


def test_other_content_or_settings_give_another_index(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    file = jsonl("a.jsonl", {"text": "hello world, hello world"})
    keys = {TokenDataset.build([file], objective(tokenizer, window), tmp_path / "cache").key for window in (8, 9)}
    jsonl("a.jsonl", {"text": "hello World, hello world"})  # the same name and size
    keys.add(TokenDataset.build([file], objective(tokenizer, 8), tmp_path / "cache").key)
    assert len(keys) == 3


def test_one_builds_and_the_others_wait(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    file = jsonl("a.jsonl", *({"text": f"record {i}"} for i in range(50)))
    objectives = [objective(tokenizer) for _ in range(4)]
    indexes: list[TokenDataset] = []
    threads = [
        threading.Thread(target=lambda o=o: indexes.append(TokenDataset.build([file], o, tmp_path / "cache")))
        for o in objectives
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(o.built_units for o in objectives) == [0, 0, 0, 50]
    assert [len(data) for data in indexes] == [50] * 4


def test_a_bad_record_names_file_and_line_and_leaves_no_index(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    schema = AttributeSchema(names=("a", "b"))
    learn = RewardObjective(RewardSettings(max_steps=1), tokenizer, schema)
    good = {"text": "x<extra_id_2>", "label": [1.0, 2.0]}
    file = jsonl("r.jsonl", good, {"text": "x<extra_id_2>", "label": [1.0]})
    for _ in range(2):
        with pytest.raises(RecordError, match=r"r\.jsonl:2: label has 1 values for 2 attributes"):
            TokenDataset.build([file], learn, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    jsonl("r.jsonl", good)
    assert len(TokenDataset.build([file], learn, tmp_path / "cache")) == 1


def test_an_index_is_opened_by_its_key_for_the_same_objective_and_files(
    tokenizer: Any, jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = jsonl("a.jsonl", {"text": "hello"}), tmp_path / "cache"
    built = TokenDataset.build([file], objective(tokenizer), cache)

    def unread(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("steerlm.training.dataset.sha256_file", unread)
    opened = TokenDataset.open(built.key, [file], objective(tokenizer), cache)
    assert opened is not None and opened.key == built.key and same(read_unit(opened, 0), read_unit(built, 0))
    assert TokenDataset.open("0" * 64, [file], objective(tokenizer), cache) is None
    assert TokenDataset.open(built.key, [file], objective(tokenizer, window=17), cache) is None
    jsonl("a.jsonl", {"text": "hello, too"})
    assert TokenDataset.open(built.key, [file], objective(tokenizer), cache) is None
    file.unlink()  # a machine that sees the index alone can train
    assert TokenDataset.open(built.key, [file], objective(tokenizer), cache) is not None


def test_an_empty_index_is_an_error_with_the_counts(tokenizer: Any, jsonl: Write, tmp_path: Path) -> None:
    learn = RewardObjective(RewardSettings(max_steps=1, window=4), tokenizer, AttributeSchema(names=("a",)))
    file = jsonl("r.jsonl", {"text": "x<extra_id_2>", "label": [1.0]})
    with pytest.raises(InputError, match=r"nothing to learn from in .*r\.jsonl: 1 records, 1 dropped_over_long"):
        TokenDataset.build([file], learn, tmp_path / "cache")
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        TokenDataset.build([tmp_path / "gone.jsonl"], learn, tmp_path / "cache")
