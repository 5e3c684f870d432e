# SPDX-License-Identifier: Apache-2.0
"""Before a job starts the launcher builds the token indexes, in parallel processes, on a machine without torch."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from steerlm import attempt
from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, InputError, RecordError
from steerlm.trainjob.spec import TrainSpec
from steerlm.trainjob.token_index import build_indexes, main, open_indexes
from tests.byte_tokenizer import byte_tokenizer
from tests.conftest import ROOT

LABEL = "quality:3"
LINES: dict[str, dict[str, Any]] = {
    "text": {"text": "ice and snow"},
    "reward": {"text": "ice<extra_id_2>", "label": [3.0]},
    "sft": {"conversations": [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a", "label": LABEL}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def write_spec(folder: Path, objective: str, **values: Any) -> Path:
    path = folder / f"{objective}.json"
    (folder / "train.jsonl").write_text(f"{json.dumps(LINES[objective])}\n" * 40)
    (folder / "val.jsonl").write_text(f"{json.dumps(LINES[objective])}\n" * 2)
    spec = {
        "objective": objective,
        "settings": {"max_steps": 1, "window": 200},
        "attributes": AttributeSchema(names=("quality",)).model_dump(),
        "tokenizer_folder": str(folder / "tokenizer"),
        "train": [str(folder / "train.jsonl")],
        "validation": [str(folder / "val.jsonl")],
        "work": str(folder / objective / "work"),
        "output": str(folder / objective / "model"),
    }
    path.write_text(json.dumps({**spec, **values}))
    return path


def open_datasets(path: Path) -> Any:
    spec = TrainSpec.read(path)
    return open_indexes(spec, spec.make_objective())


def test_indexes_are_built_without_torch_in_any_process(folder: Path, tmp_path: Path) -> None:
    for name in LINES:
        (folder / name).mkdir()
    specs = [write_spec(folder / name, name) for name in LINES]
    for spec in specs:
        spec.write_text(spec.read_text().replace(str(spec.parent / "tokenizer"), str(folder / "tokenizer")))
    (tmp_path / "blocked").mkdir()
    # Every Python process imports this module first, including those that tokenize.
    (tmp_path / "blocked" / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    program = (
        "import sys\n"
        "from steerlm.training import tokenize\n"
        "from steerlm.trainjob import token_index\n"
        "if __name__ == '__main__':\n"
        "    tokenize.PARALLEL_BYTES = 0\n"
        "    for spec in sys.argv[1:]:\n"
        "        token_index.main([spec])\n"
    )
    (tmp_path / "launcher.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "launcher.py"), *map(str, specs)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'blocked'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for spec in specs:
        for path in (spec.parent / "train.jsonl", spec.parent / "val.jsonl"):
            path.unlink()  # not read again
        data, validation = open_datasets(spec)
        assert (len(data), len(validation)) == (40, 2)


def test_a_worker_opens_what_the_launcher_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_spec(folder, "text", layout={"nodes": 2, "devices": 4, "tensor": 2, "threads": 1})
    main([str(path)])
    monkeypatch.setattr("steerlm.training.dataset.sha256_file", None)
    data, validation = open_datasets(path)
    assert (len(data), len(validation)) == (40, 2)
    assert TrainSpec.read(path).index.train == data.key


def test_a_pod_waits_for_an_index_that_shows_up_late(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_spec(folder, "text", layout={"nodes": 2})
    main([str(path)])
    index = next((folder / "text" / "work" / "tokens").glob("*/meta.json")).parent
    monkeypatch.setenv(attempt.FOLDER, str(folder / "attempts" / "1"))
    monkeypatch.setenv("STEERLM_VISIBLE_SECONDS", "20")
    late = [index / "meta.json", index / "ids.bin"]
    for each in late:
        each.rename(each.with_suffix(".late"))
    timers = [threading.Timer(t, each.with_suffix(".late").rename, (each,)) for t, each in enumerate(late, 1)]
    for timer in timers:
        timer.start()
    data, _ = open_datasets(path)
    assert len(data) == 40
    for timer in timers:
        timer.join()


@pytest.mark.parametrize("change", [None, "settings", "data", "index"])
def test_several_nodes_never_build_an_index(folder: Path, change: str | None) -> None:
    path = write_spec(folder, "text", layout={"nodes": 2})
    command = r"python -m steerlm\.trainjob\.token_index"
    message = rf"tokens: the token index of .*train\.jsonl is not named in the spec; .*{command}"
    if change:
        main([str(path)])
        message = message.replace("not named in the spec", "missing, or built from other data or settings")
    if change == "settings":
        path.write_text(path.read_text().replace('"window": 200', '"window": 100'))
    if change == "data":
        (folder / "train.jsonl").write_text('{"text": "other"}\n')
    if change == "index":
        path.write_text(path.read_text().replace(str(folder / "text" / "work"), str(folder / "elsewhere")))
    with pytest.raises(ConfigError, match=message):
        open_datasets(path)
    assert not (folder / "elsewhere").exists()


def test_one_machine_builds_an_index_that_is_missing_or_of_other_settings(folder: Path) -> None:
    path = write_spec(folder, "text")
    assert len(open_datasets(path)[0]) == 40
    main([str(path)])
    path.write_text(path.read_text().replace('"window": 200', '"window": 6'))
    assert len(open_datasets(path)[0]) == 120


LONG = {
    "reward": {"text": "x" * 200 + "<extra_id_2>", "label": [3.0]},
    "sft": {
        "conversations": [{"from": "User", "value": "q" * 200}, {"from": "Assistant", "value": "a", "label": LABEL}]
    },
}


@pytest.mark.parametrize(("objective", "records"), [("reward", "samples"), ("sft", "conversations")])
def test_dropped_records_are_said_and_too_many_are_an_error(
    folder: Path, objective: str, records: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, data, said = write_spec(folder, objective), folder / "train.jsonl", list[str]()

    def build(long: int, short: int = 10, **settings: Any) -> None:
        lines = [LONG[objective]] * long + [LINES[objective]] * short
        data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        spec = TrainSpec.read(path)
        changed = spec.settings.model_copy(update=settings)
        build_indexes(spec.model_copy(update={"settings": changed}), said.append)

    build(0)
    assert said == []
    build(1, short=19)
    assert said == [f"{data}: 1 of 20 {records} dropped (5.0%): longer than the window"]
    assert "dropped" not in caplog.text
    build(10)
    assert said[1:] == [f"warning: {data}: 10 of 20 {records} dropped (50.0%): longer than the window"]
    assert caplog.text.count("dropped (50.0%)") == 1
    with pytest.raises(InputError) as error:
        build(11)
    assert str(error.value) == (
        f"{data}: 11 of 21 {records} dropped (52.4%): longer than the window; at most 50% may be "
        f"({objective}.max_dropped): raise window or set over_long: keep_end, or raise {objective}.max_dropped"
    )
    build(11, max_dropped=0.6)
    assert said[-1].startswith(f"warning: {data}: 11 of 21 {records}")


def test_dropped_validation_records_count_too_and_in_the_job_itself(folder: Path) -> None:
    path = write_spec(folder, "reward")
    (folder / "val.jsonl").write_text(f"{json.dumps(LONG['reward'])}\n" * 3 + json.dumps(LINES["reward"]))
    message = r"val\.jsonl: 3 of 4 samples dropped"
    with pytest.raises(InputError, match=message):
        build_indexes(TrainSpec.read(path), print)
    with pytest.raises(InputError, match=message):
        open_datasets(path)


def test_a_bad_record_is_named_before_the_job_starts(folder: Path) -> None:
    path = write_spec(folder, "reward")
    with open(folder / "train.jsonl", "a") as file:
        file.write('{"text": "x<extra_id_2>", "label": [9.0]}\n')
    before = path.read_text()
    with pytest.raises(RecordError, match=r"train\.jsonl:41: label quality:9 is outside"):
        build_indexes(TrainSpec.read(path), print)
    assert path.read_text() == before
