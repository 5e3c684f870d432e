"""A recipe's data section end to end: several kinds, training lines repeated, validation not, samples of both."""

from pathlib import Path

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.prepare import prepare_data
from steerlm.errors import RecordError
from tests.datasets.conftest import make_tree, read_json, write_lines

SCHEMA = AttributeSchema()
ROW = {
    "prompt": "p",
    "response": "r",
    "helpfulness": 3,
    "correctness": 2,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 0,
}
TALK = '{"conversations": [{"from": "User", "value": "q"}, {"value": "a", "from": "Assistant", "label": "humor:1"}]}'
PLAIN = '{"conversations":[{"value":"q","from":"User"},{"value":"é","from":"Assistant"}],"mask":"User"}'


def section(root: Path, **keys: object) -> PrepareSettings:
    write_lines(root / "trees.jsonl", *(make_tree(i) for i in range(20)))
    write_lines(root / "own" / "train.jsonl", TALK, PLAIN)
    write_lines(root / "own" / "val.jsonl", PLAIN)
    write_lines(root / "hs" / "train.jsonl", ROW)
    write_lines(root / "hs" / "validation.jsonl", ROW)
    sources = [
        {"kind": "oasst", "source": str(root / "trees.jsonl")},
        {"kind": "conversations", "source": str(root / "own"), "repeat": 2},
        {"kind": "helpsteer", "source": str(root / "hs"), "repeat": 3},
    ]
    return PrepareSettings.model_validate({"sources": sources, **keys})


def test_sources_are_merged_in_order_and_training_lines_repeat(tmp_path: Path) -> None:
    done = prepare_data(section(tmp_path / "in"), tmp_path / "out", schema=SCHEMA)
    train = (done.conversations / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    val = (done.conversations / "val.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    oasst = done.summaries["0-oasst"].written
    assert train[oasst["train.jsonl"] :][:4] == [TALK, TALK, PLAIN, PLAIN]  # as they were written
    assert len(train) == oasst["train.jsonl"] + 2 * 2 + 3
    assert val[oasst["val.jsonl"]] == PLAIN
    assert len(val) == oasst["val.jsonl"] + 1 + 1
    samples = read_json(done.regression / "train.jsonl")
    assert [s["label"][2] for s in samples[-5:]] == [1.0, 1.0, -100.0, -100.0, -100.0]
    assert read_json(done.regression / "val.jsonl")[-1]["label"][4:] == [3.0, 2.0, 4.0, 1.0, 0.0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["conversations", "regression"]


def test_bad_lines_stop_or_are_kept_by_source(tmp_path: Path) -> None:
    settings = section(tmp_path / "in")
    write_lines(tmp_path / "in" / "own" / "train.jsonl", TALK, '{"conversations": []}')
    with pytest.raises(RecordError, match=r"own/train\.jsonl:2: conversations"):
        prepare_data(settings, tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []
    skipping = settings.model_copy(update={"on_error": "skip"})
    done = prepare_data(skipping, tmp_path / "out", schema=SCHEMA)
    (reject,) = read_json(tmp_path / "out" / "1-conversations.rejects.jsonl")
    assert (reject["line"], done.summaries["1-conversations"].counts) == (2, {"rejected": 1})


def test_a_label_that_the_samples_could_not_use_is_found_in_the_source(tmp_path: Path) -> None:
    settings = section(tmp_path / "in")
    write_lines(tmp_path / "in" / "own" / "val.jsonl", PLAIN, TALK.replace("humor:1", "humor"))
    with pytest.raises(RecordError, match=r"own/val\.jsonl:2: conversations\.1\.label: .*'humor' is not of the form"):
        prepare_data(settings, tmp_path / "out", schema=SCHEMA)
    done = prepare_data(settings.model_copy(update={"on_error": "skip"}), tmp_path / "out", schema=SCHEMA)
    assert done.summaries["1-conversations"].counts["rejected"] == 1
