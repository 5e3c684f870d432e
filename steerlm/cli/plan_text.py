# SPDX-License-Identifier: Apache-2.0
"""What `steerlm plan` prints for people: one block of lines per training."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.training.node_counts import Estimate
    from steerlm.trainjob.planning import Planned

Line = tuple[str, str]


def text(planned: "Mapping[str, Planned]") -> str:
    blocks = [
        "\n".join([f"{name}: {one.model}", *(f"  {key:16} {value}".rstrip() for key, value in _lines(one))])
        for name, one in planned.items()
    ]
    if any(one.estimates for one in planned.values()):
        blocks.append("Times and MFU are estimates of a model, not measurements.")
    if any(one.need.real_token_share is None for one in planned.values()):
        blocks.append("Without --data every sample counts as a full window.")
    return "\n\n".join(blocks)


def _lines(one: "Planned") -> list[Line]:
    layout, need, settings = one.layout, one.need, one.settings
    return [
        (
            "layout",
            f"{layout.nodes} {_nodes(layout.nodes)} x {layout.devices}: tensor {layout.tensor} x "
            f"pipeline {layout.pipeline} x data {layout.data_parallel}; rows of at most "
            f"{layout.row_limit(settings.window):,} tokens, recompute {layout.recompute}, {settings.precision}",
        ),
        ("parameters", f"{need.parameters:,}; {need.parameters_per_process:,} on a GPU"),
        ("memory per GPU", _memory(one)),
        (
            "a step",
            f"{need.tokens_per_step:,.0f} tokens, {need.rows_per_replica:.1f} rows a replica, "
            f"{need.flops_per_step:.3g} FLOPs, {need.flops_per_process:.3g} a GPU",
        ),
        ("all steps", _whole(one)),
        (
            "real tokens",
            f"{need.real_token_share:.0%} of what is computed" if need.real_token_share else "not known without --data",
        ),
        (
            "storage",
            f"{size(need.storage_bytes)} at most: the model folder, {size(need.model_folder_bytes)}, and "
            f"{settings.keep + 2} checkpoints (keep {settings.keep}, the best, the one being written) of "
            f"{size(need.checkpoint_bytes)}",
        ),
        (
            "a checkpoint",
            f"{size(need.checkpoint_bytes_per_process)} copied to host memory and written by each process, "
            f"{size(one.host_memory_per_node)} a node: {one.save_seconds:,.1f} s at {one.disk_rate / 1e9:g} GB/s",
        ),
        *(_times(one) if one.gpu else ()),
    ]


def _times(one: "Planned") -> Iterator[Line]:
    """What the time model says, of the layout and of fewer nodes."""
    if not one.estimates:
        yield "time", f"not estimated for {one.settings.precision}"
        return
    own = one.estimates[0]
    assert one.gpu
    parts = ((name, seconds * 1e3) for name, seconds in asdict(own.time).items())
    shown = ", ".join(f"{name} {ms:,.0f}" for name, ms in parts if ms >= 0.5)
    yield "time of a step", f"{_step(own)} on {one.gpu.name}"
    yield "", f"ms: {shown}"
    sent = ", ".join(f"{name} {size(count)}" for name, count in asdict(own.traffic).items() if count)
    yield "traffic", f"a GPU sends in a step: {sent}" if sent else "none"
    yield "time of all", _total(own) if own.hours is not None else "not known without --data"
    if len(one.estimates) > 1:
        yield from _node_counts(one)
    yield from _row_count(one)


def _node_counts(one: "Planned") -> Iterator[Line]:
    from steerlm.training.node_counts import SLOWER, fewest_nodes

    for heading, other in zip(["nodes", *[""] * len(one.estimates)], one.estimates, strict=False):
        total = f", {_total(other)}" if other.hours is not None else ""
        yield heading, f"{other.nodes:3}: {_step(other)}, {other.rows_per_replica:.1f} rows a replica{total}"
    best = fewest_nodes(one.estimates)
    yield "", f"{best.nodes} {_nodes(best.nodes)}: the fewest within {SLOWER:.0%} of the fastest"


def _row_count(one: "Planned") -> Iterator[Line]:
    """Where replicas have so few rows that they mostly wait for each other, or will have for shorter samples."""
    from steerlm.training.node_counts import fewest_mean_tokens, rows_wanted

    wanted = rows_wanted(one.layout)
    if one.few_rows:
        yield "few rows", f"{one.need.rows_per_replica:.1f} a replica, fewer than {wanted}: GPUs wait much of the time"
    elif one.need.real_token_share is None and wanted > 1:
        mean = fewest_mean_tokens(one.settings, one.layout)
        text = f"fewer than {wanted} a replica if samples average {mean:,.0f} tokens or less"
        yield "few rows", f"{text}: GPUs would wait much of the time"


def _nodes(count: int) -> str:
    return "node" if count == 1 else "nodes"


def _step(one: "Estimate") -> str:
    return f"{one.time.total * 1e3:,.0f} ms, MFU {one.mfu:.1%}"


def _total(one: "Estimate") -> str:
    assert one.hours is not None and one.gpu_hours is not None
    hours = f"{one.hours:,.1f} hours" if one.hours >= 1 else f"{one.hours * 60:.0f} minutes"
    return f"{hours}, {one.gpu_hours:,.1f} GPU-hours"


def _memory(one: "Planned") -> str:
    from steerlm.training.footprint import ROOM

    memory = one.need.memory
    parts = ((name, getattr(memory, name)) for name in ("weights", "gradients", "optimizer", "activations", "logits"))
    text = f"{size(memory.total)}: " + ", ".join(f"{name} {size(held)}" for name, held in parts if held)
    if one.gpu_memory is None:
        return text
    share = memory.total / one.gpu_memory
    verdict = "DOES NOT FIT" if not one.fits else "hardly fits" if share > ROOM else "fits"
    return f"{text}; {verdict}, {share:.0%} of {size(one.gpu_memory)}"


def _whole(one: "Planned") -> str:
    steps, need = one.need.steps, one.need
    if steps is None:
        return f"epochs of the data: {one.settings.epochs:g}; their number is not known without --data"
    most = "at most " if one.settings.epochs and need.real_token_share is None else ""
    return f"{most}{steps:,} steps, {steps * need.tokens_per_step:.3g} tokens, {steps * need.flops_per_step:.3g} FLOPs"
