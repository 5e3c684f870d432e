# SPDX-License-Identifier: Apache-2.0
"""The stage in one process and as a job of two under torchrun; a model that is too large is rejected."""

from pathlib import Path

import pytest

from steerlm.annotation.config import AnnotateSettings
from steerlm.artifact import Artifact
from steerlm.errors import ConfigError, InputError
from steerlm.recipe import Layouts, Profile
from steerlm.stages.annotate import STAGE, make
from steerlm.stages.base import StageContext
from steerlm.training.layout import LayoutSettings
from tests.annotation.test_annotate import lines
from tests.inference.conftest import conversation, write
from tests.inference.conftest import reward_folder as reward_folder
from tests.inference.conftest import tokenizer as tokenizer

OPTIONS = AnnotateSettings(look_ahead=8, over_long="keep_end", on_error="skip")


@pytest.fixture
def inputs(tmp_path: Path, reward_folder: Path) -> dict[str, Artifact]:
    data = tmp_path / "data"
    data.mkdir()
    train = write(data / "train.jsonl", [conversation(n) for n in range(30)])
    train.write_text(train.read_text() + "{broken\n")
    write(data / "val.jsonl", [conversation(n) for n in range(40, 44)])
    places = {"data": ("data", data), "reward": ("reward", reward_folder)}
    return {name: Artifact(kind, "", "", path, "", None) for name, (kind, path) in places.items()}  # type: ignore[arg-type]


def context(folder: Path, profile: Profile, progress: list[str]) -> StageContext:
    for name in ("annotated", "work", "logs"):
        (folder / name).mkdir(parents=True)
    return StageContext("annotate", "key", folder, folder / "annotated", profile, progress.append)


@pytest.mark.long
def test_a_job_of_two_processes_labels_like_one_process(tmp_path: Path, inputs: dict[str, Artifact]) -> None:
    one, two = Profile(name="one"), Profile(name="two", layouts=Layouts(annotate=LayoutSettings(devices=2, threads=1)))
    progress: list[str] = []
    alone, shared = context(tmp_path / "one", one, []), context(tmp_path / "two", two, progress)
    by_one, by_two = make(OPTIONS, inputs, alone), make(OPTIONS, inputs, shared)
    assert by_one == by_two and by_two.metrics["train/turns"] == 30
    assert (by_two.metrics["train/rejected"], by_two.metrics["val/turns"]) == (1, 4)
    for split in ("train", "val"):
        ours, theirs = (lines(w.files / f"{split}.jsonl") for w in (shared, alone))
        labels = [
            [turn.get("label") for record in records for turn in record["conversations"]] for records in (ours, theirs)
        ]
        assert labels[0] == labels[1]
    assert (shared.logs / "train.jsonl.rejects").read_bytes() == (alone.logs / "train.jsonl.rejects").read_bytes()
    assert progress[-1].startswith("block ") and (shared.logs / "annotate.log").exists()
    assert sorted(path.name for path in shared.files.iterdir()) == ["train.jsonl", "val.jsonl"]


def test_what_is_left_out_is_in_the_result_and_too_much_is_an_error(
    tmp_path: Path, inputs: dict[str, Artifact]
) -> None:
    place = context(tmp_path / "run", Profile(name="p"), [])
    done = make(OPTIONS, inputs, place)
    assert [str(one) for one in done.left_out] == ["train.jsonl: 1 of 31 lines dropped (3.2%): bad, see the rejects"]
    with pytest.raises(InputError, match=r"train\.jsonl: 1 of 31 lines .* \(annotate\.max_dropped\): mend the lines"):
        make(
            OPTIONS.model_copy(update={"max_dropped": 0.03}),
            inputs,
            context(tmp_path / "strict", Profile(name="p"), []),
        )


def test_the_error_for_a_model_too_large_for_one_gpu_names_the_layout(
    tmp_path: Path, inputs: dict[str, Artifact]
) -> None:
    small = Profile(name="small", gpu_memory_gib=1e-6)
    with pytest.raises(ConfigError, match=r"a GPU of profile small has 1e-06: give the profile a layout annotate"):
        make(OPTIONS, inputs, context(tmp_path / "work", small, []))


def test_the_layout_is_in_no_key() -> None:
    assert STAGE.method(OPTIONS, {}) == OPTIONS.method()
