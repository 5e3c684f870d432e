# SPDX-License-Identifier: Apache-2.0
"""A training outside the pipeline, with a minimal worker in place of the trainer."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steerlm.errors import ConfigError, InputError, RecordError, TrainingError
from steerlm.pipeline.keys import explain
from steerlm.pipeline.run_log import RunLog
from steerlm.recipe import ResolvedRecipe, load_recipe
from steerlm.trainjob import job, standalone
from steerlm.trainjob.standalone import Reporting, TrainFiles, make_spec, torchrun, train_standalone, write_spec
from tests.conftest import ROOT
from tests.tiny_models import tiny_base

LINE = {
    "text": "a<extra_id_2>",
    "label": [1.0] * 9,
    "conversations": [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a", "label": "quality:1"}],
    "type": "VALUE_TO_TEXT",
}
"""A record of any objective."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainFiles:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (job, standalone):
        monkeypatch.setattr(module, "WORKER", "tests.trainjob.fake_trainer")
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(LINE)}\n")
    (tmp_path / "val.jsonl").write_text("")
    tiny_base(tmp_path / "base")
    data, validation = tmp_path / "data.jsonl", tmp_path / "val.jsonl"
    return TrainFiles([data], [validation], tmp_path / "base", None, tmp_path / "out")


def resolve(files: TrainFiles, *overrides: str) -> ResolvedRecipe:
    store = files.output.parent / "store"
    own = [f"profile.store={store}", "profile.tracking.enabled=false"]
    sections = ("base.train", "reward", "sft")
    one = [f"{section}.global_batch=1" for section in sections]  # the data are one line, those of the validation none
    one += [f"{section}.validate_every=null" for section in sections]
    return load_recipe("demo", "laptop", [*own, *one, *overrides])


def train(
    objective: str,
    resolved: ResolvedRecipe,
    files: TrainFiles,
    report_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Train as `steerlm train` does."""
    reporting = Reporting(report_progress, lambda path: contextlib.nullcontext(RunLog(path)), explain)
    return train_standalone(objective, resolved, files, reporting)


def test_it_trains_and_a_second_call_finds_the_result(files: TrainFiles) -> None:
    lines: list[str] = []
    metrics = train("reward", resolve(files), files, lines.append)
    assert metrics == {"steps": 3, "validation/loss": 0.5}
    assert lines == ["step 1/3 loss=1.0", "step 2/3 loss=0.5", "step 3/3 loss=0.3"]
    spec = json.loads((files.output / "spec.json").read_text())
    assert spec["objective"] == "reward"
    assert spec["settings"]["global_batch"] == resolve(files).recipe.reward.global_batch  # type: ignore[union-attr]
    assert spec["model_folder"] == spec["tokenizer_folder"] == str(files.model)
    assert spec["validation"] == [], "an empty file validates nothing"
    assert len(spec["attributes"]["names"]) == 9
    lines.clear()
    assert train("reward", resolve(files), files, lines.append) == metrics
    assert lines == [f"{files.output} is already trained; delete it and out.work to train again"]


def test_other_settings_or_data_are_refused(files: TrainFiles) -> None:
    train("reward", resolve(files), files)
    with pytest.raises(
        InputError, match=r"was started with other settings: global_batch changed from \d+ to 7; name another"
    ):
        train("reward", resolve(files, "reward.global_batch=7"), files)
    files.data[0].write_text('{"text": "b"}\n')
    with pytest.raises(InputError, match=r"was started with other settings: its input data\.0 changed"):
        train("reward", resolve(files), files)


def test_the_written_spec_is_the_one_that_is_trained(files: TrainFiles) -> None:
    spec = make_spec("sft", resolve(files), files)
    assert not files.output.exists()
    assert not files.output.with_name("out.work").exists()
    path = files.output.with_name("spec.json")
    write_spec("sft", resolve(files), files, path, print)
    written = json.loads(path.read_text())
    assert written == {
        **spec.model_dump(mode="json"),
        "index": {"train": written["index"]["train"], "validation": None},
    }
    assert (files.output.with_name("out.work") / "work" / "tokens" / written["index"]["train"][:16]).is_dir()
    train("sft", resolve(files), files)
    assert json.loads((files.output / "spec.json").read_text()) == written


def test_a_bad_record_fails_before_the_job_starts(files: TrainFiles) -> None:
    files.data[0].write_text(json.dumps(LINE | {"label": [1.0]}) + "\n")
    with pytest.raises(RecordError, match=r"data\.jsonl:1: label has 1 values for 9 attributes"):
        write_spec("reward", resolve(files), files, files.output.with_name("spec.json"), print)
    assert not files.output.with_name("spec.json").exists()
    with pytest.raises(RecordError, match=r"data\.jsonl:1: label has 1 values for 9 attributes"):
        train("reward", resolve(files), files)
    assert not (files.output.with_name("out.work") / "job").exists()


def test_the_torchrun_command_for_one_machine_and_for_several(files: TrainFiles) -> None:
    eight = resolve(files, "profile.layouts.sft={devices: 8}", "profile.jobs.grace_seconds=60")
    assert torchrun("sft", eight, Path("s.json")) == (
        "PYTORCH_ALLOC_CONF=expandable_segments:True TORCH_NCCL_ASYNC_ERROR_HANDLING=3 TOKENIZERS_PARALLELISM=false "
        "torchrun --standalone --nproc-per-node 8 --shutdown-timeout 60 -m tests.trainjob.fake_trainer s.json"
    )
    nodes = resolve(files, "profile.layouts.sft={nodes: 4, devices: 8}", "sft.global_batch=32")
    assert make_spec("sft", nodes, files).layout.nodes == 4
    assert "torchrun --nnodes 4 --node-rank RANK --master-addr FIRST_NODE " in torchrun("sft", nodes, Path("s.json"))
    with pytest.raises(InputError, match=r"4 nodes and the back end local allows at most 1; --write-spec FILE"):
        train("sft", nodes, files)
    assert not files.output.exists()


def _without_config(model: Path) -> None:
    (model / "config.json").unlink()


def _of_another_architecture(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "bert"}')


def _without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _without_tokenizer(model: Path) -> None:
    (model / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, r"base/config\.json: no such file; a Hugging Face model folder was expected"),
        (_without_config, r"base/config\.json: no such file; a Hugging Face model folder was expected"),
        (_of_another_architecture, "model_type 'bert' is not supported"),
        (_without_weights, r"base: no weights: model\.safetensors or .* was expected"),
        (_without_tokenizer, r"base: no tokenizer_config\.json; make the folder with"),
    ],
)
def test_a_bad_model_folder_is_refused_before_anything_is_written(
    files: TrainFiles, spoil: Callable[[Path], None], message: str
) -> None:
    assert files.model
    spoil(files.model)
    before = sorted(files.output.parent.iterdir())
    with pytest.raises(InputError, match=message):
        train("sft", resolve(files), files)
    assert sorted(files.output.parent.iterdir()) == before


def test_a_layout_that_does_not_fit_or_a_folder_of_data_is_refused_first(files: TrainFiles) -> None:
    with pytest.raises(ConfigError, match=r"layout\.tensor 8"):
        train("sft", resolve(files, "profile.layouts.sft={devices: 8, tensor: 8}"), files)
    folder = dataclasses.replace(files, data=[files.output.parent])
    with pytest.raises(InputError, match="is a folder, a file was expected"):
        train("sft", resolve(files), folder)
    assert not files.output.exists()


def test_a_failed_training_resumes(files: TrainFiles) -> None:
    (files.output.parent / "fail").touch()
    with pytest.raises(TrainingError, match="failed: a file requests failure"):
        train("sft", resolve(files), files)
    (files.output.parent / "fail").unlink()
    assert train("sft", resolve(files), files)["steps"] == 3


def test_a_training_that_fails_before_its_first_checkpoint_refuses_no_corrected_one(files: TrainFiles) -> None:
    (files.output.parent / "fail").touch()
    for wrong in (["sft.window=192"], ["sft.optimizer.lr=1"]):
        with pytest.raises(TrainingError, match="failed: a file requests failure"):
            train("sft", resolve(files, *wrong), files)
    (files.output / "model.safetensors").touch()  # an export that failed
    (files.output.parent / "fail").unlink()
    files.data[0].write_text(f"{json.dumps(LINE)}\n" * 2)
    assert train("sft", resolve(files), files)["steps"] == 3
    assert sorted(path.name for path in files.output.iterdir()) == ["spec.json"]


def test_a_bad_record_refuses_no_corrected_training(files: TrainFiles) -> None:
    files.data[0].write_text(json.dumps(LINE | {"label": [1.0]}) + "\n")
    with pytest.raises(RecordError):
        train("reward", resolve(files), files)
    files.data[0].write_text(json.dumps(LINE) + "\n")
    assert train("reward", resolve(files, "reward.max_steps=1"), files)["steps"] == 3


def test_a_checkpoint_is_never_removed_by_another_training(files: TrainFiles) -> None:
    (files.output.parent / "fail").touch()
    with pytest.raises(TrainingError):
        train("sft", resolve(files), files)
    checkpoint = files.work / "work" / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()
    with pytest.raises(InputError, match="was started with other settings: window changed from 256 to 192"):
        train("sft", resolve(files, "sft.window=192"), files)
    assert (checkpoint / "COMPLETE").exists()


def test_a_training_that_fits_no_step_is_refused_before_its_job_starts(files: TrainFiles) -> None:
    with pytest.raises(ConfigError, match=r"^1\.8 epochs of 1 units hold no global batch of 4"):
        train("reward", resolve(files, "reward.global_batch=4"), files)
    assert not (files.work / "job").exists()


@pytest.mark.parametrize("validation", ["empty", "not given"])
def test_a_validation_that_is_asked_for_needs_data(files: TrainFiles, validation: str) -> None:
    if validation == "not given":
        files = dataclasses.replace(files, validation=[])
    asked = resolve(files, "reward.validate_every=5")
    message = rf"--validation is {validation}, and reward\.validate_every is 5: .* --set reward\.validate_every=null"
    with pytest.raises(InputError, match=message):
        train("reward", asked, files)
    with pytest.raises(InputError, match=message):
        write_spec("reward", asked, files, files.output.with_name("spec.json"), print)
    assert not files.work.exists()


def test_data_of_another_kind_names_the_command_that_makes_it(files: TrainFiles) -> None:
    records = {
        "reward": {key: LINE[key] for key in ("conversations", "type")},
        "sft": {key: LINE[key] for key in ("text", "label")},
    }
    for objective, command in (("reward", "steerlm data regression makes"), ("sft", "a conversation was expected")):
        files.data[0].write_text(json.dumps(records[objective]) + "\n")
        with pytest.raises(RecordError, match=rf"data\.jsonl:1: .*{command}"):
            train(objective, resolve(files), files)
    table = files.data[0].with_name("ratings.csv")
    table.write_text("prompt,response\n")
    with pytest.raises(InputError, match=r"ratings\.csv: training reads JSON lines; steerlm data convert"):
        make_spec("reward", resolve(files), dataclasses.replace(files, data=[table]))


def test_wrong_inputs_are_named(files: TrainFiles) -> None:
    files.output.mkdir()
    (files.output / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"out exists and was not made by this command"):
        train("reward", resolve(files), files)
    assert (files.output / "thesis.tex").exists()
    gone = TrainFiles([files.output.parent / "gone.jsonl"], [], files.model, None, files.output)
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        train("reward", resolve(files), gone)
    with pytest.raises(InputError, match="give --model"):
        train("text", resolve(files), TrainFiles(files.data, [], None, None, files.output))
    with pytest.raises(ConfigError, match=r"demo-real has no section base\.train"):
        train("text", load_recipe("demo-real"), files)
