# SPDX-License-Identifier: Apache-2.0
"""Failures of one training process: the others end in time with the reason, and the same command resumes."""

import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.megatron import checkpoint, checkpoint_folder, shard_files
from steerlm.megatron.engine import MegatronEngine
from steerlm.megatron.host_copies import HostCopies
from steerlm.megatron.model import ModelStage
from steerlm.training.checkpoints import COMPLETE
from steerlm.training.config import OptimizerSettings
from steerlm.training.objectives.text import TextObjective
from steerlm.training.schedule import learning_rate
from tests.megatron.training_ranks import SETTINGS, Ranks, Training, checkpoints, curve, metrics

pytestmark = pytest.mark.long

OPTIMIZER = OptimizerSettings.model_validate(SETTINGS["optimizer"])

DP2 = {"devices": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": DP2,
    "tp2 sp": {"devices": 2, "tensor": 2, "sequence_parallel": True},
    "pp2": {"devices": 2, "pipeline": 2},
    "pp2 dp2": {"devices": 4, "pipeline": 2},
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(training: Training) -> dict[int, float]:
    """The curve of a training that nothing happened to."""
    spec = training.spec("whole", layout=DP2)
    assert Ranks(spec).ends() == ([0, 0], ["", ""])
    losses = curve(spec)
    assert list(losses) == list(range(1, 7)) and losses[6] < losses[1]
    return losses


def goes_on(spec: Path, whole: dict[int, float]) -> None:
    """Run the same command; the curve is that of an undisturbed training."""
    codes, said = Ranks(spec).ends()
    assert not any(codes), said
    assert curve(spec) == pytest.approx(whole, abs=1e-5)


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(path: Path, *args: Any) -> None:
    path.write_bytes(b"half a shard")
    die()


def a_step_later(path: Path, *args: Any) -> None:
    """While the others train on: their next step has no peer."""
    path.write_bytes(b"half a shard")
    time.sleep(0.5)
    die()


def before_the_marker(path: Path, value: Any) -> None:
    if path.name == COMPLETE:
        die()
    path.write_text("{}")


MOMENTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before the copy": (HostCopies, "take", die),
    "among the tensors": (shard_files, "write", half_a_file),
    "while training goes on": (shard_files, "write", a_step_later),
    "before the checksums": (checkpoint, "digest", die),
    "before the marker": (checkpoint_folder, "write_json", before_the_marker),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_save(training: Training, whole: dict[int, float], moment: str) -> None:
    save = MegatronEngine.save

    def fault(rank: int) -> None:
        def killed(self: MegatronEngine, folder: Path, state: Any) -> None:
            if rank == 0 and folder.name == "step-000004":
                owner, name, deed = MOMENTS[moment]
                setattr(owner, name, deed)
            save(self, folder, state)

        MegatronEngine.save = killed  # type: ignore[method-assign]  # in this rank alone

    spec = training.spec(f"save {moment}", layout=DP2)
    codes, said = Ranks(spec, fault).ends(30)
    assert codes == [-signal.SIGKILL, 1] and "another process of this training has ended" in said[1]
    assert checkpoints(spec) == {"step-000002": True, "step-000004": False}
    goes_on(spec, whole)
    assert checkpoints(spec) == {"step-000004": True, "step-000006": True}


@pytest.mark.parametrize(("layout", "lost"), [("dp2", 1), ("tp2 sp", 0), ("pp2 dp2", 2)])
def test_a_killed_rank_ends_the_others(training: Training, whole: dict[int, float], layout: str, lost: int) -> None:
    step = MegatronEngine.step

    def fault(rank: int) -> None:
        left = iter([False, False, rank == lost])

        def killed(self: MegatronEngine, *args: Any, **kwargs: Any) -> Any:
            if next(left, False):
                die()
            return step(self, *args, **kwargs)

        MegatronEngine.step = killed  # type: ignore[method-assign]

    spec = training.spec(f"lost {layout}", layout=LAYOUTS[layout])
    began = time.monotonic()
    codes, said = Ranks(spec, fault).ends(30)
    assert time.monotonic() - began < 30
    for rank, (code, text) in enumerate(zip(codes, said, strict=True)):
        if rank == lost:
            assert code == -signal.SIGKILL
        else:
            assert code == 1 and text.startswith("another process of this training has ended or does not answer (")
            assert "\n" not in text
    goes_on(spec, whole)


FAULTS = {"collective_timeout_minutes": 3 / 60}


def test_a_rank_that_hangs_is_named(training: Training, whole: dict[int, float]) -> None:
    """It lives and its heartbeat goes on; it enters no more collectives."""
    forward = ModelStage.forward

    def fault(rank: int) -> None:
        left = iter([False] * 3 + [rank == 1])

        def hangs(self: ModelStage, *args: Any, **kwargs: Any) -> Any:
            if next(left, False):
                time.sleep(5)
                die()
            return forward(self, *args, **kwargs)

        ModelStage.forward = hangs  # type: ignore[method-assign]

    spec = training.spec("hangs", layout=DP2, faults=FAULTS)
    ranks = Ranks(spec, fault)
    codes, said = ranks.ends(30)
    assert codes == [1, -signal.SIGKILL]
    who = f"rank 1 ({socket.gethostname()}, pid {ranks.processes[1].pid})"
    timeout = r"\(Timed out waiting 3000ms for (recv|send) operation to complete\)"
    assert re.search(rf"{timeout}; {re.escape(who)} is behind: it is in step", said[0])
    stacks = Path(json.loads(spec.read_text())["work"]) / "heartbeats" / "stacks-1.txt"
    assert "in hangs" in stacks.read_text()
    goes_on(spec, whole)


def test_a_stopped_pipeline_stage_is_noticed_without_a_timeout(training: Training, whole: dict[int, float]) -> None:
    """On gloo, what is sent between stages does not time out: the other stage sees that the heartbeat has stopped."""
    step = MegatronEngine.step

    def fault(rank: int) -> None:
        left = iter([False] * 3 + [rank == 0])

        def stops(self: MegatronEngine, *args: Any, **kwargs: Any) -> Any:
            if next(left, False):
                os.kill(os.getpid(), signal.SIGSTOP)
            return step(self, *args, **kwargs)

        MegatronEngine.step = stops  # type: ignore[method-assign]

    spec = training.spec("stopped", layout=LAYOUTS["pp2"], faults=FAULTS)
    began = time.monotonic()
    ranks = Ranks(spec, fault)
    codes, _ = ranks.ends(30)
    assert time.monotonic() - began < 15
    assert codes == [-signal.SIGKILL, 1]
    beat = Path(json.loads(spec.read_text())["work"]) / "heartbeats" / "rank-0.json"
    assert json.loads(beat.read_text())["ended"].startswith("is stopped, last heartbeat")
    goes_on(spec, whole)


def test_a_slow_rank_is_named(training: Training) -> None:
    forward = ModelStage.forward

    def fault(rank: int) -> None:
        def slow(self: ModelStage, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.05 if rank == 1 else 0)
            return forward(self, *args, **kwargs)

        ModelStage.forward = slow  # type: ignore[method-assign]

    spec = training.spec("slow", layout=DP2, faults={"straggler_every": 3})
    assert Ranks(spec, fault).ends()[0] == [0, 0]
    assert metrics(spec, "train/slowest_rank") == {3: 1, 6: 1}
    assert all(ratio > 1.2 for ratio in metrics(spec, "train/slowest_over_median").values())


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 1)])
def test_a_rank_whose_loss_is_not_finite(training: Training, whole: dict[int, float], times: int, code: int) -> None:
    """On one rank alone: all go back to the last checkpoint, once."""
    loss = TextObjective.loss

    def fault(rank: int) -> None:
        calls = {"left": times if rank == 1 else 0}
        step = MegatronEngine.step

        def faulty(self: MegatronEngine, rows: Any, objective: Any, lr: float, count: int | None = None) -> Any:
            wrong = calls["left"] > 0 and lr == pytest.approx(learning_rate(OPTIMIZER, 3, 6))
            calls["left"] -= wrong

            def result(self: TextObjective, output: Any, row: Any) -> Any:
                total, *rest = loss(self, output, row)
                return (total * math.nan if wrong else total, *rest)

            TextObjective.loss = result  # type: ignore[method-assign,assignment]
            return step(self, rows, objective, lr, count)

        MegatronEngine.step = faulty  # type: ignore[method-assign]

    spec = training.spec(f"nan {times}", layout=DP2, faults={"non_finite": "retry"})
    codes, said = Ranks(spec, fault).ends(30)
    assert codes == [code, code]
    records = (Path(json.loads(spec.read_text())["work"]) / "non_finite.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == [4] * times
    if code:
        assert said[0] == said[1] and said[0].startswith(
            "step 4: the loss is nan; it happened again after going back to step 2"
        )
        assert max(curve(spec)) == 3
    else:
        assert curve(spec) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(("layout", "asked"), [("dp2", 1), ("tp2 sp", 1), ("pp2 dp2", 2)])
def test_a_signal_to_one_rank_saves_on_all(training: Training, layout: str, asked: int) -> None:
    spec = training.spec(f"signal {layout}", layout=LAYOUTS[layout], max_steps=2000, save_every=None)
    ranks = Ranks(spec)
    pid = ranks.processes[asked].pid
    assert pid is not None
    while len(curve(spec)) < 3 and ranks.processes[asked].is_alive():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    codes, said = ranks.ends(30)
    assert codes == [143] * ranks.world, said
    (text,) = set(said)
    reached = max(curve(spec))
    assert f"stopped after step {reached} of 2000, saved in" in text
    assert checkpoints(spec) == {f"step-{reached:06d}": True}


def full(rank: int, which: int) -> None:
    """From the second checkpoint on, `which` can write no file above 16 kilobytes."""
    save = MegatronEngine.save

    def limited(self: MegatronEngine, folder: Path, state: Any) -> None:
        if rank == which and folder.name == "step-000004":
            resource.setrlimit(resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY))
        save(self, folder, state)

    MegatronEngine.save = limited  # type: ignore[method-assign]


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_cannot_write(training: Training, whole: dict[int, float], which: int) -> None:
    spec = training.spec(f"limit {which}", layout=LAYOUTS["tp2 sp"])  # each of the two writes its part
    codes, said = Ranks(spec, lambda rank: full(rank, which)).ends(30)
    assert codes == [1, 1], said
    assert "step-000004: the checkpoint could not be saved (" in said[0] and "MB are free there" in said[0]
    assert f"(rank {which}: " in said[0] and said[0] == said[1]
    assert not any("\n" in text for text in said)
    assert checkpoints(spec) == {"step-000002": True, "step-000004": False}
    goes_on(spec, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB: one checkpoint fits, a second does not."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk(training: Training, whole: dict[int, float], small_disk: Path) -> None:
    spec = training.spec("full", work=small_disk, layout=DP2)
    codes, said = Ranks(spec).ends(30)
    assert codes == [1, 1], said
    assert "step-000004: the checkpoint could not be saved (" in said[0] and "MB are free there" in said[0]
    assert checkpoints(spec) == {"step-000002": True, "step-000004": False}
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    goes_on(spec, whole)


def test_a_checkpoint_of_another_training(training: Training, whole: dict[int, float]) -> None:
    spec = training.spec("whole", layout=DP2, window=24)
    codes, said = Ranks(spec).ends()
    assert codes == [1, 1] and said[0] == said[1]
    assert said[0].endswith(
        "step-000006: was made with another window (32, now 24); remove the checkpoints or use another folder"
    )
