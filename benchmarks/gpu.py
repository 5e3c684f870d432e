# SPDX-License-Identifier: Apache-2.0
"""Measure on GPUs, and write a page of, parity with the CPU, speed and MFU, saving and annotation.

Every figure comes from the product's engine, started by its launcher, with random weights. Parity: loss, gradient norm
and each gradient of a small model, with each installed attention implementation, in each layout of up to four GPUs,
against one CPU process in fp32. Speed: a 1B and a 7B Llama, language model and reward model, on packed rows with the
lengths of conversations, on one and on all GPUs; with fewer layers if the memory is too small.

    python benchmarks/gpu.py [--page docs/gpu.md] [--work DIR]
    python benchmarks/gpu.py --tiny     # a dry run on the CPU with tiny models: the same code, no figure means anything
"""

import steerlm  # noqa: F401  # isort: skip (before torch: it sets how its threads wait)

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from steerlm.errors import SteerLMError, first_line
from steerlm.jobs.environment import variables
from steerlm.jobs.place import JobPlace
from steerlm.models.shape import ModelShape
from steerlm.recipe import Profile
from steerlm.training.config import TextSettings
from steerlm.training.footprint import flops_per_token, memory
from steerlm.training.hardware import gpu_by_device_name
from steerlm.training.layout import LayoutSettings

SHAPES = {
    "1B": ModelShape(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                     num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
                     tie_word_embeddings=True),
    "7B": ModelShape(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                     num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=8192),
    "small": ModelShape(vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
                        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512),
    "tiny": ModelShape(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64),
}  # fmt: skip
OUTPUTS, STEPS = 9, 8
ALLOWED = {"fp32": 5e-3, "bf16": 5e-2}
"""Relative difference from the CPU in fp32. Transformer Engine multiplies fp32 matrices in TF32, of 10 bits."""
FILLED = 0.85
"""Share of a GPU's memory that the estimate may fill; NCCL, the CUDA context and fragments come on top."""
CHECKPOINT_BYTES = 14
"""Of a parameter: bf16 weight, fp32 master weight, two moments."""


@dataclass
class Task:
    """One measurement. What `gpu_worker.py` reads of it is `spec()`; `error`: why there is no `result`."""

    kind: str
    model: str
    outputs: int | None
    layout: dict[str, Any]
    shape: ModelShape
    row_tokens: int
    samples: int
    mean_tokens: int
    precision: str = "bf16"
    on_cpu: bool = False
    steps: int = 3
    saves: bool = False
    note: str = ""
    error: str = ""
    folder: Path = Path()
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> LayoutSettings:
        """The layout as settings."""
        return LayoutSettings(**self.layout)

    @property
    def name(self) -> str:
        """The line's label: model, objective, parallel sizes, attention, precision and device."""
        place = self.place
        sizes = {"TP": place.tensor, "PP": place.pipeline, "DP": place.data_parallel}
        parts = [f"{axis}{size}" for axis, size in sizes.items() if size > 1]
        if place.sequence_parallel:
            parts.insert(1, "SP")
        where = f"{' '.join(parts) or 'one process'}, {place.attention} {self.precision}"
        return f"{self.model} {'reward' if self.outputs else 'SFT'}, {where}{', CPU' if self.on_cpu else ''}"

    def spec(self) -> dict[str, Any]:
        """Return the JSON that `gpu_worker.py` reads."""
        names = ("kind", "outputs", "layout", "row_tokens", "samples", "mean_tokens", "precision", "steps", "saves")
        return {name: getattr(self, name) for name in names} | {
            "shape": self.shape.model_dump(),
            "folder": str(self.folder),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="the page to write; default: docs/gpu.md, with --tiny the terminal")
    parser.add_argument("--work", type=Path, help="folder for checkpoints of up to 100 GB; default: the system's own")
    parser.add_argument("--tiny", action="store_true", help="a dry run on the CPU")
    options = parser.parse_args()
    gpus = torch.cuda.device_count()
    if not gpus and not options.tiny:
        sys.exit("no GPU was found: run this where there is one, or with --tiny for a dry run on the CPU")
    tasks = tiny_tasks() if options.tiny else gpu_tasks(gpus, torch.cuda.get_device_properties(0).total_memory)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for number, task in enumerate(tasks):
            task.folder = Path(folder, str(number))
            task.folder.mkdir()
        for together in jobs(tasks, options.tiny):
            run(together, Path(folder), options.tiny or together[0].on_cpu)
        compare(tasks)
    text = page(tasks, options.tiny)
    target = options.page or (None if options.tiny else Path("docs/gpu.md"))
    if target is None:
        print(text)
    else:
        target.write_text(text)
        print(f"wrote {target}")
    if failed := [task.name for task in tasks if task.error]:
        sys.exit(f"{len(failed)} of {len(tasks)} measurements failed: {'; '.join(failed)}")


def attentions() -> list[str]:
    return ["sdpa", "te"] if importlib.util.find_spec("transformer_engine") else ["sdpa"]


def gpu_tasks(gpus: int, memory_bytes: int) -> list[Task]:
    two = {"devices": 2}
    split = {"tensor": 2, "sequence_parallel": True}
    small: list[dict[str, Any]] = [{}]
    small += [two, {**two, **split}, {**two, "pipeline": 2}] if gpus >= 2 else []
    small += [{"devices": 4, "pipeline": 2, **split}] if gpus >= 4 else []
    large: list[dict[str, Any]] = [{}]
    large += [{"devices": gpus}] if gpus >= 2 else []
    large += [{"devices": gpus, **split}] if gpus >= 2 and gpus % 2 == 0 else []
    found = list(parity_tasks("small", small, attentions(), ("fp32", "bf16")))
    for model, row_tokens in (("1B", 8192), ("7B", 4096)):
        for outputs in (None, OUTPUTS):
            for layout in large:
                samples = 4 * LayoutSettings(**layout).data_parallel * row_tokens // 440  # about four rows a replica
                for attention in attentions():
                    where = {**layout, "attention": attention}
                    task = Task("speed", model, outputs, where, SHAPES[model], row_tokens, samples, 440, steps=STEPS)
                    found.append(fitted(task, FILLED * memory_bytes))
    return found


def tiny_tasks() -> list[Task]:
    both = {"devices": 2, "tensor": 2, "sequence_parallel": True}
    found = list(parity_tasks("tiny", [both], ["sdpa"], ["fp32"]))
    for outputs, layout in ((None, {"devices": 2}), (OUTPUTS, {})):
        where = {**layout, "attention": "sdpa"}
        found.append(fitted(Task("speed", "tiny", outputs, where, SHAPES["tiny"], 64, 16, 16, steps=2), 2**40))
    return found


def parity_tasks(
    model: str, layouts: Sequence[dict[str, Any]], kinds: Sequence[str], precisions: Sequence[str]
) -> Iterator[Task]:
    """The reference first, then what is compared with it."""
    shape = SHAPES[model]
    tokens = shape.max_position_embeddings
    for outputs in (None, OUTPUTS):
        reference = {"attention": "sdpa"}
        yield Task("parity", model, outputs, reference, shape, tokens, 12, tokens // 4, precision="fp32", on_cpu=True)
        for attention in kinds:
            for precision in precisions:
                for layout in layouts:
                    where = {**layout, "attention": attention}
                    yield Task("parity", model, outputs, where, shape, tokens, 12, tokens // 4, precision=precision)


def fitted(task: Task, limit: float) -> Task:
    """With as many of the model's layers as `limit` bytes of a GPU's memory hold."""
    whole = task.shape.num_hidden_layers
    settings = TextSettings(max_steps=1, window=task.row_tokens)
    for layers in range(whole, 0, -1):
        task.shape = task.shape.model_copy(update={"num_hidden_layers": layers})
        if memory(task.shape, settings, task.place, task.outputs).total <= limit:
            break
    if layers < whole:
        task.note = f"{layers} of {whole} layers, the memory holds no more"
    return task


def jobs(tasks: Sequence[Task], tiny: bool) -> list[list[Task]]:
    """Each task in processes of its own, so that none finds another's memory or fails with it. In a dry run, where
    starting processes takes the time, all of one number of processes together.
    """
    if not tiny:
        return [[task] for task in tasks]
    together: dict[int, list[Task]] = {}
    for task in tasks:
        together.setdefault(task.place.processes, []).append(task)
    return list(together.values())


def run(tasks: list[Task], folder: Path, on_cpu: bool) -> None:
    """Fills in each task's result, or the error that they share."""
    for task in (task for task in tasks if task.kind == "speed"):
        size = CHECKPOINT_BYTES * task.shape.parameters(task.outputs)
        task.saves = 1.2 * size < shutil.disk_usage(folder).free
        if not task.saves:
            task.note = f"{task.note}; not saved, {size / 1e9:.0f} GB do not fit: choose --work".removeprefix("; ")
    layout = tasks[0].place
    threads = max(1, len(os.sched_getaffinity(0)) // layout.processes)
    spec = {"on_cpu": on_cpu, "threads": threads, "tasks": [task.spec() for task in tasks]}
    records = Path(tempfile.mkdtemp(dir=folder))
    place = JobPlace("gpu-benchmark", records, records / "log", Profile(name="benchmark"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    print("; ".join(task.name for task in tasks), flush=True)
    try:
        place.run(
            "gpu_worker",
            spec,
            layout.model_copy(update={"threads": threads}),
            lambda line: None,
            environment=variables(layout),
        )
    except SteerLMError as error:
        print(place.log.read_text(), file=sys.stderr)
        for task in tasks:
            task.error = first_line(error).split(" (its log")[0]
        return
    for task in tasks:
        task.result = json.loads((task.folder / "result.json").read_text())
        shutil.rmtree(task.folder / "checkpoint", ignore_errors=True)


def compare(tasks: Sequence[Task]) -> None:
    """Each parity task with the reference before it; too large a difference is its error."""
    reference = None
    for task in tasks:
        if task.kind != "parity":
            continue
        if task.on_cpu:
            reference = task
        elif reference is None or reference.error:
            task.error = task.error or "there is no reference, it failed"
        elif not task.error:
            for key in ("losses", "norms"):
                pairs = zip(task.result[key], reference.result[key], strict=True)
                task.result[key] = max((abs(ours - theirs) / abs(theirs) for ours, theirs in pairs), key=rank)
            name, task.result["gradient"] = worst_gradient(task.folder / "gradients", reference.folder / "gradients")
            task.note = name
            largest = max((task.result[key] for key in ("losses", "norms", "gradient")), key=rank)
            if not largest <= ALLOWED[task.precision]:
                task.error = f"differs by {largest:.1e}, {ALLOWED[task.precision]:.0e} is allowed"


def worst_gradient(found: Path, wanted: Path) -> tuple[str, float]:
    """The tensor whose gradient differs most from the reference's, relative to the gradient's norm; ("", 0) under data
    parallelism, where no process has whole gradients.
    """
    if not found.exists():
        return "", 0.0
    ours, theirs = (
        {name: tensor.float() for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
        for folder in (found, wanted)
    )
    errors = {name: float((ours[name] - gradient).norm() / gradient.norm()) for name, gradient in theirs.items()}
    return max(errors.items(), key=lambda item: rank(item[1]))


def rank(difference: float) -> float:
    """What to compare by: nothing is farther off than what is not a number."""
    return math.inf if math.isnan(difference) else difference


def page(tasks: Sequence[Task], tiny: bool) -> str:
    gpu = None if tiny else gpu_by_device_name(torch.cuda.get_device_name(0))
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    lines = ["# Measured on GPUs", ""]
    if tiny:
        lines += [
            "**A dry run on a CPU with tiny models: it shows that the script runs, no figure means anything.**",
            "",
        ]
    lines += [f"Printed by `{command}` on {machine(tiny)}.", ""]
    if not tiny and gpu is None:
        lines += ["No MFU: this type of GPU is not in `steerlm/training/hardware.py`.", ""]
    lines += ["## Parity", "", "Largest relative difference from one CPU process in fp32, over three steps.", ""]
    head = ["run", "loss", "gradient norm", "gradient of a tensor", "which", "result"]
    lines += table(head, [parity_row(task) for task in tasks if task.kind == "parity" and not task.on_cpu])
    lines += ["", "## Speed", ""]
    head = [
        "run",
        "step s",
        "tokens/s a GPU",
        "MFU",
        "real tokens",
        "peak GiB",
        "annotated turns/s",
        "save, blocked s",
        "written s",
        "load s",
    ]
    rows = [speed_row(task, gpu.peak_flops if gpu else None) for task in tasks if task.kind == "speed"]
    lines += table([*head, "GB saved", "note"], rows)
    return "\n".join([*lines, "", NOTES, ""])


NOTES = """\
Random weights, rows packed of samples of log-normal lengths as conversations have them. Step: the median. MFU: model
FLOPs of the real tokens, of the data sheet's dense bf16 peak; what recomputation adds is not counted. Annotated:
forward passes of the reward model over such rows, all GPUs together. Save: how long training waits for it, then how
long until it is complete."""


def machine(tiny: bool) -> str:
    device = "a CPU" if tiny else f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    versions = [f"torch {torch.__version__}", f"megatron-core {importlib.metadata.version('megatron-core')}"]
    if "te" in attentions():
        versions.append(f"transformer-engine {importlib.metadata.version('transformer-engine')}")
    if not tiny:
        versions.append(f"CUDA {torch.version.cuda}")
    return f"{device}, {', '.join(versions)}"


def parity_row(task: Task) -> list[str]:
    figures = [f"{task.result[key]:.1e}" if key in task.result else "" for key in ("losses", "norms", "gradient")]
    return [task.name, *figures, task.note, task.error or "ok"]


def speed_row(task: Task, peak: float | None) -> list[str]:
    if task.error:
        return [task.name, *[""] * 10, task.error]
    result = task.result
    per_gpu = result["tokens_per_second"] / task.place.processes
    flops = per_gpu * flops_per_token(task.shape, task.outputs, result["context"])
    return [
        task.name,
        f"{result['step_seconds']:.3f}",
        f"{per_gpu:,.0f}",
        f"{flops / peak:.1%}" if peak else "",
        f"{result['real_token_share']:.0%}",
        f"{result['peak_bytes'] / 2**30:.1f}" if result["peak_bytes"] else "",
        f"{result['turns_per_second']:,.0f}" if task.outputs else "",
        *([f"{result[f'{what}_seconds']:.2f}" for what in ("save", "written", "load")] if task.saves else [""] * 3),
        f"{result['checkpoint_bytes'] / 1e9:.3g}" if task.saves else "",
        task.note,
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


if __name__ == "__main__":
    main()
