# SPDX-License-Identifier: Apache-2.0
"""The training worker on several ranks forked from a warm parent, with something going wrong in one of them."""

import gc
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from transformers import AutoTokenizer

# Imported here once, for all ranks.
import steerlm.megatron.engine
import steerlm.models.folder
import steerlm.training.loop
import steerlm.training.objectives.text  # noqa: F401
from demos.synthetic import free_port
from steerlm.errors import SteerLMError
from steerlm.trainjob.worker import main
from tests.byte_tokenizer import byte_tokenizer
from tests.tiny_models import SHAPE

SETTINGS = {
    "shape": SHAPE,
    "max_steps": 6,
    "global_batch": 4,
    "window": 32,
    "precision": "fp32",
    "save_every": 2,
    "export": "last",
    "optimizer": {"lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 2, "eps": 1e-5},
}
WORDS = ("ice", "snow", "rain", "fog", "hail", "wind")


class Training:
    """A training of text in a folder; `name` is one attempt's place, which a resume shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        byte_tokenizer().save_pretrained(folder / "tokenizer")
        AutoTokenizer.from_pretrained(folder / "tokenizer")  # loads what every rank would load
        lines = [json.dumps({"text": f"{a} and {b}."}) + "\n" for a in WORDS for b in WORDS]
        (folder / "text.jsonl").write_text("".join(lines))

    def spec(
        self,
        name: str,
        work: Path | None = None,
        layout: dict[str, Any] | None = None,
        faults: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        place = work or self.folder / name
        spec = {
            "objective": "text",
            "settings": {**SETTINGS, **settings},
            "layout": {"threads": 1, **(layout or {})},
            "faults": faults or {},
            "tokenizer_folder": str(self.folder / "tokenizer"),
            "train": [str(self.folder / "text.jsonl")],
            "work": str(place / "work"),
            "output": str(self.folder / name / "model"),
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(spec))
        return path


def curve(spec: Path) -> dict[int, float]:
    """Training loss by step."""
    return metrics(spec, "train/loss")


def metrics(spec: Path, key: str) -> dict[int, float]:
    """A metric by step; no step twice."""
    path = Path(json.loads(spec.read_text())["work"]) / "metrics.jsonl"
    lines = [json.loads(line) for line in (path.read_text() if path.exists() else "").splitlines()]
    found = [(line["step"], line[key]) for line in lines if key in line]
    assert len(found) == len(dict(found))
    return dict(found)


def checkpoints(spec: Path) -> dict[str, bool]:
    """By name, whether it is complete."""
    folder = Path(json.loads(spec.read_text())["work"]) / "checkpoints"
    return {path.name: (path / "COMPLETE").exists() for path in sorted(folder.glob("step-*"))}


class Ranks:
    """Starts the worker on the layout's processes. `fault(rank)` is called in each before it begins."""

    def __init__(self, spec: Path, fault: Callable[[int], None] = lambda rank: None) -> None:
        layout = json.loads(spec.read_text())["layout"]
        self.world = layout.get("nodes", 1) * layout.get("devices", 1)
        self.said = [spec.with_suffix(f".{rank}.txt") for rank in range(self.world)]
        context = multiprocessing.get_context("fork")
        port = free_port()
        self.processes = [
            context.Process(target=_rank, args=(rank, self.world, port, spec, self.said[rank], fault))
            for rank in range(self.world)
        ]
        for process in self.processes:
            process.start()

    def ends(self, seconds: float = 60.0) -> tuple[list[int], list[str]]:
        """Each rank's exit code and the error it ended with; a rank that has not ended in time is a failure."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        assert not hanging, f"ranks {hanging} hang"
        codes = [process.exitcode for process in self.processes]
        return [code for code in codes if code is not None], [p.read_text() if p.exists() else "" for p in self.said]


def _rank(rank: int, world: int, port: int, spec: Path, said: Path, fault: Callable[[int], None]) -> None:
    torch.set_num_threads(1)  # before any operation: threads that the parent used do not exist in a fork
    gc.freeze()  # a collection, which each save asks for, need not go through all that was imported
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    said.unlink(missing_ok=True)
    fault(rank)
    code = 0
    try:
        main([str(spec)])
    except SteerLMError as error:
        said.write_text(str(error))
        code = error.exit_code
    except BaseException as error:
        said.write_text(f"not an error of ours: {error!r}")
        code = 99
    os._exit(code)
