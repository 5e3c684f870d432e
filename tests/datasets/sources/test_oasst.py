# SPDX-License-Identifier: Apache-2.0
"""The dump's split and lines against an independent account of upstream's, the flat form, folds, bad input, memory."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.datasets.sources.oasst import OasstSource, prepare_oasst, split_trees
from steerlm.errors import InputError, RecordError
from tests.datasets.raw import NAMES, flatten, make_tree, read_json, write_lines

SCHEMA = AttributeSchema()
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


def upstream_lines(tree: dict[str, Any]) -> list[str]:
    """The specification's walk, written down a second time in plain dictionaries."""

    def paths(node: dict[str, Any]) -> list[list[dict[str, Any]]]:
        one: dict[str, Any] = {"value": node["text"]}
        one["from"] = {"prompter": "User", "assistant": "Assistant"}[node["role"]]
        if one["from"] == "User":
            one["label"] = None
        elif "labels" in node:
            one["label"] = ",".join(
                f"{n}:{round(node['labels'][n]['value'] * 4)}" for n in NAMES if n in node["labels"]
            )
        below = [path for reply in node["replies"] for path in paths(reply)]
        return [[one, *path] for path in below] or [[one]]

    talks = [path for path in paths(tree["prompt"]) if len(path) > 1]
    records = [{"conversations": t, "system": SYSTEM, "mask": "User", "type": "VALUE_TO_TEXT"} for t in talks]
    return [json.dumps(record, ensure_ascii=False) for record in records]


def upstream_split(trees: list[dict[str, Any]]) -> tuple[str, str]:
    trees = list(trees)
    random.seed(10)
    random.shuffle(trees)
    cut = int(0.95 * len(trees))
    train, val = ([line for tree in part for line in upstream_lines(tree)] for part in (trees[:cut], trees[cut:]))
    return "".join(f"{line}\n" for line in train), "".join(f"{line}\n" for line in val)


def written(folder: Path) -> tuple[str, str]:
    return (folder / "train.jsonl").read_text(encoding="utf-8"), (folder / "val.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["a_all.trees.jsonl.gz", "a.jsonl"])
@pytest.mark.parametrize("count", [1, 20, 137])
def test_the_nested_dump_becomes_upstreams_bytes(tmp_path: Path, name: str, count: int) -> None:
    trees = [make_tree(i) for i in range(count)]
    source = write_lines(tmp_path / name, *trees)
    summary = prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    expected = upstream_split(trees)
    assert written(tmp_path / "out") == expected
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train.jsonl", "val.jsonl"]
    assert summary.counts["trees"] == count
    assert summary.written == {"train.jsonl": expected[0].count("\n"), "val.jsonl": expected[1].count("\n")}


@pytest.mark.parametrize("order", ["by tree", "shuffled", "reversed"])
def test_the_flat_form_gives_the_same_lines(tmp_path: Path, order: str) -> None:
    trees = [make_tree(i) for i in range(60)]
    rows = [row for tree in trees for row in flatten(tree)]
    if order == "reversed":
        rows.reverse()
    if order == "shuffled":
        random.Random(3).shuffle(rows)
    summary = prepare_oasst(
        OasstSource(source=str(write_lines(tmp_path / "a.jsonl", *rows))), tmp_path / "out", schema=SCHEMA
    )
    train, val = written(tmp_path / "out")
    if order == "by tree":
        assert (train, val) == upstream_split(trees)
    else:  # replies and trees come in file order, so the lines are others, but none is lost
        assert train.count("\n") + val.count("\n") == sum(len(upstream_lines(tree)) for tree in trees)
    assert summary.counts["messages whose parent is missing"] == 0


def test_a_folder_with_the_dump_beside_other_files_reads_the_dump(tmp_path: Path) -> None:
    trees = [make_tree(i) for i in range(20)]
    write_lines(tmp_path / "in" / "2023-04-12_oasst_all.trees.jsonl.gz", *trees)
    write_lines(tmp_path / "in" / "2023-04-12_oasst_ready.trees.jsonl.gz", *trees[:3])
    prepare_oasst(OasstSource(source=str(tmp_path / "in")), tmp_path / "out", schema=SCHEMA)
    assert written(tmp_path / "out") == upstream_split(trees)


def test_real_messages(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "oasst1" / "en-validation.jsonl"
    summary = prepare_oasst(OasstSource(source=str(source)), tmp_path, schema=SCHEMA)
    rows = read_json(source)
    assert (len({row["message_tree_id"] for row in rows}), summary.counts["trees"]) == (191, 188)
    assert summary.counts["messages"] == 2022
    assert summary.counts["messages whose parent is missing"] == 3
    talks = read_json(tmp_path / "train.jsonl") + read_json(tmp_path / "val.jsonl")
    answers = {(t["value"], t.get("label", "absent")) for talk in talks for t in talk["conversations"][1::2]}
    ids = {row["message_id"] for row in rows}
    kept = [r for r in rows if r["parent_id"] in ids and r["role"] == "assistant"]
    names = [r["labels"]["name"] if r["labels"] else None for r in kept]
    assert sum(n is None for n in names) == sum(label == "absent" for _, label in answers) == 2
    assert sum(n is not None and "quality" not in n for n in names) == 4
    assert {label.count(":") for _, label in answers if label != "absent"} == {0, 1, 4}
    assert {v for v, label in answers if label == ""} == {
        r["text"] for r, n in zip(kept, names, strict=True) if n is not None and not set(n) & set(NAMES)
    }
    leaves = ids - {row["parent_id"] for row in rows}
    paths = [r for r in rows if r["message_id"] in leaves and r["parent_id"] in ids]
    assert len(talks) == len(paths)


def test_no_tree_is_in_both_splits_and_every_fold_validates_other_trees() -> None:
    whole = OasstSource(source="x")
    split = split_trees(200, whole)
    assert (len(split["train.jsonl"]), len(split["val.jsonl"])) == (190, 10)
    assert sorted(split["train.jsonl"] + split["val.jsonl"]) == list(range(200))
    held_out = []
    for fold in range(5):
        split = split_trees(188, OasstSource(source="x", folds=5, fold=fold))
        assert sorted(split["train.jsonl"] + split["val.jsonl"]) == list(range(188))
        assert len(split["val.jsonl"]) in (37, 38)
        held_out += split["val.jsonl"]
    assert sorted(held_out) == list(range(188))
    with pytest.raises(InputError, match="3 trees cannot be cut into 5 folds"):
        split_trees(3, OasstSource(source="x", folds=5))


def test_a_missing_parent_drops_what_is_below_it_and_counts(tmp_path: Path) -> None:
    rows = [
        *flatten(make_tree(1)),
        {"message_id": "o", "parent_id": "gone", "text": "o", "role": "assistant"},
        {"message_id": "o1", "parent_id": "o", "text": "o1", "role": "prompter"},
        {"message_id": "o2", "parent_id": "o1", "text": "o2", "role": "assistant"},
    ]
    source = write_lines(tmp_path / "a.jsonl", *rows)
    summary = prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    assert summary.counts["messages whose parent is missing"] == 1
    assert summary.counts["messages dropped with them"] == 2
    assert '"o' not in "".join(written(tmp_path / "out"))
    assert (summary.kept, summary.dropped) == (len(rows) - 3, 3)


def test_a_dump_of_orphans_only_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    orphans = [row for row in flatten(make_tree(1)) if row.get("parent_id")]
    source = write_lines(tmp_path / "a.jsonl", *orphans)
    with pytest.raises(InputError, match=rf"nothing could be made of it: messages {len(orphans)}, messages whose par"):
        prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []


def test_messages_dumped_with_nested_ratings_and_absent_keys_are_read(tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "a.messages.jsonl.gz",
        {"message_id": "a", "text": "Hi", "role": "prompter"},
        {"message_id": "b", "parent_id": "a", "text": "Ho", "role": "assistant", "labels": {"humor": {"value": 1.0}}},
    )
    prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    (talk,) = read_json(tmp_path / "out" / "val.jsonl")
    assert [turn["label"] for turn in talk["conversations"]] == [None, "humor:4"]


def test_another_schema_scales_to_its_range_and_chooses_its_ratings(tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "a.jsonl",
        {"message_id": "a", "text": "Hi", "role": "prompter"},
        {
            "message_id": "b",
            "parent_id": "a",
            "text": "Ho",
            "role": "assistant",
            "labels": {"name": ["quality", "violence", "humor"], "value": [0.5, 1.0, 0.25]},
        },
    )
    schema = AttributeSchema(names=("violence", "quality", "style"), high=9)
    for names, label in ((None, "quality:4"), (("quality", "violence"), "violence:9,quality:4")):
        settings = OasstSource(source=str(source), names=names)
        prepare_oasst(settings, tmp_path / "out", schema=schema)
        assert read_json(tmp_path / "out" / "val.jsonl")[0]["conversations"][1]["label"] == label
    with pytest.raises(InputError, match="'humor' is not an attribute"):
        prepare_oasst(OasstSource(source=str(source), names=("humor",)), tmp_path / "out", schema=schema)
    with pytest.raises(InputError, match="none of quality"):
        prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=AttributeSchema(names=("style",)))


GOOD = [make_tree(i) for i in range(5)]
BAD_TREES = [
    ("{", "JSON"),
    ({"message_tree_id": "1"}, "prompt"),
    ({"prompt": {"text": "Hi", "role": "prompter", "replies": [{"role": "assistant"}]}}, "replies.0.text"),
    ({"prompt": {"message_id": "q", "text": "Hi", "role": "system"}}, "message q: role 'system', expected prompter"),
    ({"prompt": {"text": "<extra_id_2>quality:4", "role": "prompter"}}, "inject a label"),
    ({"prompt": {"text": "a", "role": "assistant", "labels": {"humor": {"value": 1.5}}}}, "humor must be a number"),
    ({"prompt": {"text": "a", "role": "assistant", "labels": {"humor": {"value": "1"}}}}, "humor must be a number"),
    ({"prompt": {"text": "a", "role": "assistant", "labels": {"name": ["humor"], "value": []}}}, "as many values"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_TREES)
def test_a_bad_tree_is_named_and_leaves_nothing_or_is_skipped_whole(tmp_path: Path, line: Any, reason: str) -> None:
    source = write_lines(tmp_path / "a.jsonl", *GOOD[:2], "", line, *GOOD[2:])
    settings, out = OasstSource(source=str(source)), tmp_path / "out"
    with pytest.raises(RecordError, match=rf"a\.jsonl:4: .*{reason}"):
        prepare_oasst(settings, out, schema=SCHEMA)
    assert list(out.iterdir()) == []
    summary = prepare_oasst(settings, out, schema=SCHEMA, on_error="skip")
    assert summary.counts["rejected"] == 1
    lines = "".join(written(out)).rstrip("\n").split("\n")
    assert sorted(lines) == sorted(line for tree in GOOD for line in upstream_lines(tree))
    (reject,) = read_json(out / "oasst.rejects.jsonl")
    assert (reject["file"], reject["line"]) == (str(source), 4)
    assert reject["text"] == (line if isinstance(line, str) else json.dumps(line))
    write_lines(source, *GOOD)
    prepare_oasst(settings, out, schema=SCHEMA, on_error="skip")
    assert not (out / "oasst.rejects.jsonl").exists()


BAD_MESSAGES = [
    ("nonsense", "JSON"),
    ({"message_id": "b", "parent_id": "a", "role": "assistant"}, "text"),
    ({"message_id": "", "parent_id": "a", "text": "x", "role": "assistant"}, "message_id"),
    ({"message_id": "a", "text": "again", "role": "prompter"}, "message_id a occurs twice"),
    ({"message_id": "b", "parent_id": "a", "text": "x", "role": "robot"}, "role 'robot'"),
    ({"message_id": "b", "parent_id": "b", "text": "x", "role": "assistant"}, "cycle"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_MESSAGES)
def test_a_bad_message_is_named_or_skipped(tmp_path: Path, line: Any, reason: str) -> None:
    root = {"message_id": "a", "text": "Hi", "role": "prompter"}
    reply = {"message_id": "c", "parent_id": "a", "text": "Ho", "role": "assistant"}
    source = write_lines(tmp_path / "a.jsonl", root, line, reply)
    with pytest.raises(RecordError, match=rf"a\.jsonl:2: .*{reason}"):
        prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []
    summary = prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA, on_error="skip")
    assert summary.counts["rejected"] == 1
    assert sum(summary.written.values()) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "no lines"), (b'{"text": "x"}\n', "expected trees"), (b"\n[1]\n", ":2: expected trees")],
)
def test_a_file_of_something_else(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        prepare_oasst(OasstSource(source=str(tmp_path / "a.jsonl")), tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_broken_download_is_an_error_even_when_bad_lines_are_skipped(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a_all.trees.jsonl.gz", *(make_tree(i) for i in range(50)))
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(RecordError, match="broken gzip"):
        prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA, on_error="skip")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_deep_thread(tmp_path: Path) -> None:
    chain = [{"message_id": "0", "text": "0", "role": "prompter"}]
    for i in range(1, 2000):
        role = "assistant" if i % 2 else "prompter"
        chain.append({"message_id": str(i), "parent_id": str(i - 1), "text": str(i), "role": role})
    source = write_lines(tmp_path / "a.jsonl", *chain)
    prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
    (talk,) = read_json(tmp_path / "out" / "val.jsonl")
    assert [turn["value"] for turn in talk["conversations"]] == [str(i) for i in range(2000)]


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, form: str) -> None:
    trees = (make_tree(i % 40, size=8000) for i in range(300))
    rows = []
    for i, tree in enumerate(trees):
        for row in flatten(tree):
            if row["parent_id"]:
                row["parent_id"] = f"{i}{row['parent_id']}"
            rows.append({**row, "message_id": f"{i}{row['message_id']}"})
    lines = [make_tree(i, size=8000) for i in range(300)] if form == "nested" else rows
    source = write_lines(tmp_path / "a.jsonl.gz", *lines)
    del lines, rows
    tracemalloc.start()
    try:
        prepare_oasst(OasstSource(source=str(source)), tmp_path / "out", schema=SCHEMA)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out" / "train.jsonl").stat().st_size > 30e6
    assert peak < 6e6
