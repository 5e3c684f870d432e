"""A training outside the pipeline, with a worker of a few lines in place of the trainer."""

import json
from pathlib import Path

import pytest

from steerlm.errors import ConfigError, InputError, TrainingError
from steerlm.recipe import ResolvedRecipe, load_recipe
from steerlm.stages import train_job
from steerlm.stages.train_alone import Files, train_alone
from tests.conftest import ROOT


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(train_job, "WORKER", "tests.stages.fake_trainer")
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "val.jsonl").write_text("")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    data, validation = tmp_path / "data.jsonl", tmp_path / "val.jsonl"
    return Files([data], [validation], tmp_path / "base", None, tmp_path / "out")


def resolve(files: Files, *overrides: str) -> ResolvedRecipe:
    store = files.output.parent / "store"
    return load_recipe("demo", "laptop", [f"profile.store={store}", "profile.tracking.enabled=false", *overrides])


def test_it_trains_and_a_second_call_finds_it_done(files: Files) -> None:
    said: list[str] = []
    metrics = train_alone("reward", resolve(files), files, said.append)
    assert metrics == {"steps": 3, "validation/loss": 0.5}
    assert said == ["step 1/3 loss=1.0", "step 2/3 loss=0.5", "step 3/3 loss=0.3"]
    spec = json.loads((files.output / "spec.json").read_text())
    assert spec["objective"] == "reward"
    assert spec["settings"]["global_batch"] == resolve(files).recipe.reward.global_batch  # type: ignore[union-attr]
    assert spec["model_folder"] == spec["tokenizer_folder"] == str(files.model)
    assert spec["validation"] == [], "an empty file validates nothing"
    assert len(spec["attributes"]["names"]) == 9
    said.clear()
    assert train_alone("reward", resolve(files), files, said.append) == metrics
    assert said == [f"{files.output} is finished already; delete it and out.work to train anew"]


def test_other_settings_or_data_are_another_training(files: Files) -> None:
    train_alone("reward", resolve(files), files, lambda text: None)
    with pytest.raises(InputError, match=r"was begun otherwise: global_batch changed from \d+ to 7; name another"):
        train_alone("reward", resolve(files, "reward.global_batch=7"), files, lambda text: None)
    files.data[0].write_text('{"text": "b"}\n')
    with pytest.raises(InputError, match=r"was begun otherwise: its input data\.0 changed"):
        train_alone("reward", resolve(files), files, lambda text: None)


def test_a_failed_training_goes_on(files: Files) -> None:
    (files.output.parent / "fail").touch()
    with pytest.raises(TrainingError, match="failed: told to fail"):
        train_alone("sft", resolve(files), files, lambda text: None)
    (files.output.parent / "fail").unlink()
    assert train_alone("sft", resolve(files), files, lambda text: None)["steps"] == 3


def test_wrong_inputs_are_named(files: Files) -> None:
    files.output.mkdir()
    (files.output / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"out is there already and was not made by this command"):
        train_alone("reward", resolve(files), files, lambda text: None)
    assert (files.output / "thesis.tex").exists()
    gone = Files([files.output.parent / "gone.jsonl"], [], files.model, None, files.output)
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        train_alone("reward", resolve(files), gone, lambda text: None)
    with pytest.raises(InputError, match="give --model"):
        train_alone("text", resolve(files), Files(files.data, [], None, None, files.output), lambda text: None)
    with pytest.raises(ConfigError, match=r"demo-real has no section base\.train"):
        train_alone("text", load_recipe("demo-real"), files, lambda text: None)
