# SPDX-License-Identifier: Apache-2.0
"""The data stage: conversations from one list of sources, samples from the other, questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.artifact import Store
from steerlm.attributes import AttributeSchema
from steerlm.errors import InputError, RecordError, StorageError
from steerlm.pipeline.run import Outcome, run_stage
from steerlm.recipe import PrepareSection
from steerlm.stages.prepare_data import STAGE, PrepareConfig
from tests.stages.fakes import profile


def talk(question: str, answer: str, label: str | None = None) -> str:
    reply = {"value": answer, "from": "Assistant"} | ({"label": label} if label else {})
    turns = [{"value": question, "from": "User", "label": None}, reply]
    return json.dumps({"conversations": turns, "system": "S.", "mask": "User", "type": "VALUE_TO_TEXT"})


def write(folder: Path, train: list[str], val: list[str]) -> dict[str, Any]:
    folder.mkdir()
    for name, lines in (("train", train), ("val", val)):
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return {"kind": "conversations", "source": str(folder)}


def prepare(tmp_path: Path, **section: Any) -> Outcome:
    config = PrepareConfig(section=PrepareSection(**section), attributes=AttributeSchema())
    return run_stage(STAGE, config, {}, Store(tmp_path / "store"), profile(tmp_path / "store"))


def lines(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outcome.artifact.path / name).read_text().splitlines()]


def test_rated_sources_make_the_samples_and_the_others_the_conversations(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", [talk("a?", "A"), talk("b?", "B")], [talk("c?", "C"), talk("c?", "D")])
    rated = write(tmp_path / "rated", [talk("x?", "X", "quality:3")], [talk("y?", "Y", "humor:1")])
    outcome = prepare(tmp_path, sources=[plain], rated=[rated | {"repeat": 4}])
    assert [r["conversations"][1]["value"] for r in lines(outcome, "train.jsonl")] == ["A", "B"]
    samples = lines(outcome, "regression_train.jsonl")
    assert len(samples) == 4
    assert samples[0]["label"] == [3.0] + [-100.0] * 8
    assert [s["label"][2] for s in lines(outcome, "regression_val.jsonl")] == [1.0]
    assert lines(outcome, "questions.jsonl") == [{"question": "c?"}]
    assert outcome.artifact.manifest.provenance["metrics"]["lines/regression_train"] == 4


def test_without_a_list_of_rated_sources_the_labeled_turns_are_the_samples(tmp_path: Path) -> None:
    both = write(tmp_path / "both", [talk("a?", "A"), talk("b?", "B", "quality:1")], [talk("c?", "C", "quality:2")])
    outcome = prepare(tmp_path, sources=[both])
    assert len(lines(outcome, "train.jsonl")) == 2
    assert [s["label"][0] for s in lines(outcome, "regression_train.jsonl")] == [1.0]


@pytest.mark.parametrize("which", ["sources", "rated"])
def test_the_error_for_an_unreachable_hub_names_the_setting_for_a_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    here = write(tmp_path / "here", [talk("a?", "A", "quality:1")], [])
    lists = {"sources": [here], "rated": [here]} | {which: [here, {"kind": "helpsteer2"}]}
    with pytest.raises(StorageError) as error:
        prepare(tmp_path, **lists)
    assert str(error.value) == (
        "dataset nvidia/HelpSteer2 cannot be fetched from the hub (no route to host); try again, or name a local copy: "
        f"--set prepare_data.{which}.1.source=PATH"
    )


def test_what_is_dropped_is_in_the_summary_and_more_than_half_is_an_error(tmp_path: Path) -> None:
    good, bad = talk("a?", "A", "quality:1"), json.dumps({"conversations": [{"from": "human", "value": "a?"}]})
    some = write(tmp_path / "some", [good, bad], [good])
    outcome = prepare(tmp_path, sources=[some], on_error="skip")
    assert outcome.artifact.manifest.provenance["dropped"] == [
        "sources 0-conversations: 1 of 3 rows dropped (33.3%): see the counts and the rejects"
    ]
    most = write(tmp_path / "most", [good, bad, bad], [bad])
    with pytest.raises(InputError, match=r"most: 3 of 4 rows dropped \(75.0%\): .* \(prepare_data.max_dropped\): mend"):
        prepare(tmp_path, sources=[most], on_error="skip")
    assert prepare(tmp_path, sources=[most], on_error="skip", max_dropped=0.75).status == "run"


def test_roles_that_would_be_a_guess_are_refused_by_line(tmp_path: Path) -> None:
    turns = [{"from": "user", "value": "a?"}, {"from": "assistant", "value": "A", "label": "quality:1"}]
    for name, conversations in (("names", turns), ("system", [{"from": "System", "value": "Be nice."}, *turns])):
        source = write(tmp_path / name, [talk("a?", "A"), json.dumps({"conversations": conversations})], [])
        with pytest.raises(
            RecordError, match=r"train\.jsonl:2: conversations\.0\.from is '(user|System)', expected User"
        ):
            prepare(tmp_path, sources=[source])


def test_rejects_are_kept_with_the_logs(tmp_path: Path) -> None:
    source = write(tmp_path / "s", [talk("a?", "A", "quality:1"), "nonsense"], [talk("c?", "C", "quality:2")])
    outcome = prepare(tmp_path, sources=[source], on_error="skip")
    assert len(lines(outcome, "train.jsonl")) == 1
    (rejects,) = (outcome.artifact.folder / "logs").glob("sources-*.rejects.jsonl")
    assert json.loads(rejects.read_text())["line"] == 2


def test_own_questions(tmp_path: Path) -> None:
    source = write(tmp_path / "s", [talk("a?", "A", "quality:1")], [talk("c?", "C", "quality:2")])
    (tmp_path / "q.jsonl").write_text('{"question": "Why?"}\n')
    outcome = prepare(tmp_path, sources=[source], questions=str(tmp_path / "q.jsonl"))
    assert lines(outcome, "questions.jsonl") == [{"question": "Why?"}]
    (tmp_path / "q.txt").write_text("Why?\nHow?\n")
    outcome = prepare(tmp_path, sources=[source], questions=str(tmp_path / "q.txt"))
    assert lines(outcome, "questions.jsonl") == [{"question": "Why?"}, {"question": "How?"}]
    counts = outcome.artifact.manifest.provenance["metrics"]
    assert (counts["lines/questions"], counts["held_out_labels"]) == (2, 1)


def test_questions_that_cannot_be_read_are_named_while_the_data_are_prepared(tmp_path: Path) -> None:
    source = write(tmp_path / "s", [talk("a?", "A", "quality:1")], [talk("c?", "C")])
    (tmp_path / "q.jsonl").write_text('{"question": "Why?"}\n{"query": "How?"}\n')
    with pytest.raises(InputError, match=r"q\.jsonl:2: no question"):
        prepare(tmp_path, sources=[source], questions=str(tmp_path / "q.jsonl"))


@pytest.mark.timeout(120)
def test_the_synthetic_world_has_text_questions_and_a_tokenizer(tmp_path: Path) -> None:
    world = {
        "kind": "toyworld",
        "conversations": 400,
        "validation_conversations": 20,
        "plain_documents": 400,
        "plain_validation_documents": 10,
        "questions": 30,
        "vocab_size": 500,
    }
    outcome = prepare(tmp_path, sources=[world])
    names = {p.name for p in outcome.artifact.path.iterdir()}
    assert {"plain_train.jsonl", "plain_val.jsonl", "tokenizer", "oracle.json"} <= names
    assert outcome.artifact.manifest.content.tokenizer is not None
    rated = sum("label" in turn for r in lines(outcome, "train.jsonl") for turn in r["conversations"][1::2])
    assert 0 < len(lines(outcome, "regression_train.jsonl")) == rated < 400
    assert len(lines(outcome, "questions.jsonl")) == 30
