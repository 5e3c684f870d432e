# SPDX-License-Identifier: Apache-2.0
"""A real training in pods: two nodes give one machine's model; a stop; what a superseded attempt may not publish."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm import attempt, processes
from steerlm.checksums import digest_folder
from steerlm.errors import SupersededError
from steerlm.jobs.kubernetes.visible import wait_until_visible
from steerlm.megatron import shard_files
from steerlm.trainjob import token_index
from tests.jobs.kubernetes.pods import Pods, wait_for
from tests.megatron.material import weights
from tests.megatron.training_ranks import Ranks, Training, curve

pytestmark = pytest.mark.long

STEPS = 20
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_every": 10,
    "optimizer": {"lr": 5e-4, "min_lr": 5e-5, "eps": 1e-5},
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("pods"))


def test_two_nodes_of_two_processes_give_the_model_of_four_on_one_machine(training: Training) -> None:
    spec = training.spec("one machine", layout={"devices": 4}, **SETTINGS)
    assert Ranks(spec).ends() == ([0] * 4, [""] * 4)
    wanted, model = curve(spec), training.folder / "one machine" / "model"

    spec = training.spec("pods", layout={"nodes": 2, "devices": 2}, **SETTINGS)
    token_index.main([str(spec)])
    content = json.loads(spec.read_text())
    pods = Pods(training.folder / "job", "steerlm.trainjob.worker", content, nodes=2, devices=2).publish().start()
    ends = pods.end()
    assert [code for code, *_ in ends] == [0, 0], ends
    # The tolerances of tests/megatron/test_layouts.py.
    assert curve(spec) == pytest.approx(wanted, rel=0, abs=1e-5)
    output = Path(content["output"])
    ours, theirs = weights(output), weights(model)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) <= 1e-5

    assert "step 20/20" in pods.log(0) and "[rank 0]" in ends[0][1]
    assert json.loads((pods.folder / attempt.HEARTBEAT).read_text()) == {"phase": "checksums", "step": STEPS}
    assert pods.message().step == STEPS
    listed = wait_until_visible(pods.folder, output, 1)
    result = listed.pop("../work/result.json")
    assert result == digest_folder(Path(content["work"]) / "result.json")["result.json"]
    assert listed == digest_folder(output) and "model.safetensors" in str(listed.keys())


def in_pod(job: Path, number: int) -> Callable[[int], None]:
    """What a process of a pod is told: its attempt, which becomes the current one."""
    folder = job / "attempts" / str(number)
    folder.mkdir(parents=True)
    (job / "attempts" / "current").write_text(f"{number}\n")
    return lambda rank: os.environ.update({attempt.FOLDER: str(folder)})


def test_a_stop_file_makes_all_processes_save(training: Training) -> None:
    spec = training.spec("stopped", layout={"devices": 2}, **{**SETTINGS, "max_steps": 100_000})
    job = training.folder / "stopped" / "job"
    ranks = Ranks(spec, in_pod(job, 1))
    wait_for(lambda: len(curve(spec)) >= 3 or not ranks.processes[0].is_alive(), "step 3")
    (job / "attempts" / "1" / "stop").touch()
    codes, said = ranks.ends()
    assert codes == [143, 143], said
    step = max(curve(spec))
    assert all(text.startswith(f"stopped after step {step} of 100000, saved in") for text in said)
    beat = json.loads((job / "attempts" / "1" / attempt.HEARTBEAT).read_text())
    assert beat == {"phase": "saving", "step": step}


def _stop_at(point: str) -> None:
    """Stop this process, as a node that hangs does, right before or after what `point` names."""
    import steerlm.megatron.checkpoint
    import steerlm.megatron.shard_files
    import steerlm.trainjob.export
    import steerlm.trainjob.worker

    module, name, after = {
        "the start of a checkpoint": (steerlm.megatron.checkpoint, "prepare", False),
        "a shard of a checkpoint": (steerlm.megatron.shard_files, "save_file", True),
        "the end of a checkpoint": (steerlm.megatron.checkpoint, "seal", False),
        "the start of the model": (steerlm.trainjob.worker, "export_model", False),
        "the weights of the model": (steerlm.trainjob.export, "_digests", False),
    }[point]
    real, calls = getattr(module, name), []

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        hang = len(calls) == 2 or "model" in point
        # Sent to this thread: sent to the process, another may take it while this one goes on for a moment.
        if hang and not after:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        result = real(*args, **kwargs)
        if hang and after:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return result

    setattr(module, name, stopping)


@pytest.mark.parametrize(
    "point",
    [
        "the start of a checkpoint",
        "a shard of a checkpoint",
        "the end of a checkpoint",
        "the start of the model",
        "the weights of the model",
    ],
)
def test_a_superseded_attempt_publishes_nothing(training: Training, point: str) -> None:
    spec = training.spec(point, max_steps=6, save_every=2)
    job = training.folder / point / "job"
    first = in_pod(job, 1)

    def hanging(rank: int) -> None:
        first(rank)
        _stop_at(point)

    old = Ranks(spec, hanging)
    (process,) = old.processes
    wait_for(lambda: not process.is_alive() or (processes.state(process.pid or 0) or "?")[0] == "T", "the hang")
    assert process.is_alive()
    assert Ranks(spec, in_pod(job, 2)).ends() == ([0], [""])
    published = _published(training.folder / point)
    assert {"model/steerlm.json", "work/result.json", "work/checkpoints/step-000006/COMPLETE"} <= published.keys()
    os.kill(process.pid or 0, signal.SIGCONT)
    codes, (said,) = old.ends()
    assert codes == [1] and re.search(r"attempts/1: attempt 2 of this job is the current one", said), said
    assert _published(training.folder / point) == published


def test_a_shard_whose_folder_a_later_attempt_has_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pod(tmp_path, 1)
    monkeypatch.setenv(attempt.FOLDER, str(tmp_path / "attempts" / "1"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()

    def checked(check: Callable[[], None] = attempt.check_current) -> None:
        check()
        if checkpoint.exists():
            shutil.rmtree(checkpoint)
            in_pod(tmp_path, 2)

    monkeypatch.setattr(shard_files, "check_current", checked)
    with pytest.raises(SupersededError, match="attempt 2 of this job is the current one"):
        shard_files.write(checkpoint / "shard", {"weight/w": torch.ones(2)}, {"w": (0, 2)})


def _published(folder: Path) -> dict[str, Any]:
    return {
        f"{place}/{name}": (digest, (folder / place / name).stat().st_mtime_ns)
        for place in ("model", "work")
        for name, digest in digest_folder(folder / place).items()
        if "heartbeats" not in name and "flight_recorder" not in name
    }
