# SPDX-License-Identifier: Apache-2.0
"""The text that `steerlm plan` prints: one block of lines per training."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from steerlm.cli.sizes import size

if TYPE_CHECKING:
    from steerlm.training.node_counts import Estimate
    from steerlm.trainjob.planning import TrainingPlan

Line = tuple[str, str]


def text(plans: "Mapping[str, TrainingPlan]") -> str:
    """Return the text for plans by section."""
    blocks = [
        "\n".join([f"{name}: {plan.model}", *(f"  {key:16} {value}".rstrip() for key, value in _lines(plan))])
        for name, plan in plans.items()
    ]
    if any(plan.estimates for plan in plans.values()):
        blocks.append("Times and MFU are estimates of a model, not measurements.")
    if any(plan.footprint.real_token_share is None for plan in plans.values()):
        blocks.append("Without --data every sample counts as a full window.")
    return "\n\n".join(blocks)


def _lines(plan: "TrainingPlan") -> list[Line]:
    layout, footprint, settings = plan.layout, plan.footprint, plan.settings
    return [
        (
            "layout",
            f"{layout.nodes} {_nodes(layout.nodes)} x {layout.devices}: tensor {layout.tensor} x "
            f"pipeline {layout.pipeline} x data {layout.data_parallel}; rows of at most "
            f"{layout.row_limit(settings.window):,} tokens, recompute {layout.recompute}, {settings.precision}",
        ),
        ("parameters", f"{footprint.parameters:,}; {footprint.parameters_per_process:,} per GPU"),
        ("memory per GPU", _memory(plan)),
        (
            "per step",
            f"{footprint.tokens_per_step:,.0f} tokens, {footprint.rows_per_replica:.1f} rows per replica, "
            f"{footprint.flops_per_step:.3g} FLOPs, {footprint.flops_per_process:.3g} per GPU",
        ),
        ("all steps", _all_steps(plan)),
        (
            "real tokens",
            f"{footprint.real_token_share:.0%} of the computed tokens"
            if footprint.real_token_share
            else "unknown without --data",
        ),
        (
            "storage",
            f"{size(footprint.storage_bytes)} at most: the model folder, {size(footprint.model_folder_bytes)}, and "
            f"{settings.keep + 2} checkpoints (keep {settings.keep}, the best, the one being written) of "
            f"{size(footprint.checkpoint_bytes)}",
        ),
        (
            "checkpoint",
            f"{size(footprint.checkpoint_bytes_per_process)} copied to host memory and written by each process, "
            f"{size(plan.host_memory_per_node)} per node: {plan.save_seconds:,.1f} s at {plan.disk_rate / 1e9:g} GB/s",
        ),
        *(_times(plan) if plan.gpu else ()),
        *(_hours(plan) if plan.gpu else ()),
    ]


def _times(plan: "TrainingPlan") -> Iterator[Line]:
    """Yield the estimates for the layout and for fewer nodes."""
    if not plan.estimates:
        yield "time", f"not estimated for {plan.settings.precision}"
        return
    own = plan.estimates[0]
    assert plan.gpu
    milliseconds = ((name, seconds * 1e3) for name, seconds in asdict(own.time).items())
    yield "time per step", f"{_step(own)} on {plan.gpu.name}"
    yield "", "ms: " + ", ".join(f"{name} {ms:,.0f}" for name, ms in milliseconds if ms >= 0.5)
    sent = ", ".join(f"{name} {size(count)}" for name, count in asdict(own.traffic).items() if count)
    yield "traffic", f"sent per GPU and step: {sent}" if sent else "none"
    yield "total time", _total(own) if own.hours is not None else "unknown without --data"
    if len(plan.estimates) > 1:
        yield from _node_counts(plan)
    yield from _row_count(plan)


def _hours(plan: "TrainingPlan") -> Iterator[Line]:
    """Yield the time at the assumed MFU."""
    if plan.settings.precision != "bf16":
        return
    assert plan.gpu
    known = plan.hours_at_mfu
    text = "unknown without --data"
    if known is not None:
        text = f"{_duration(known)}, {known * plan.layout.processes:,.1f} GPU-hours, assumed, not estimated"
    yield f"at {plan.mfu:.0%} MFU", text


def _node_counts(plan: "TrainingPlan") -> Iterator[Line]:
    from steerlm.training.node_counts import TOLERATED_SLOWDOWN, fewest_nodes

    for heading, estimate in zip(["nodes", *[""] * len(plan.estimates)], plan.estimates, strict=False):
        total = f", {_total(estimate)}" if estimate.hours is not None else ""
        rows = f"{estimate.rows_per_replica:.1f} rows per replica"
        yield heading, f"{estimate.nodes:3}: {_step(estimate)}, {rows}{total}"
    best = fewest_nodes(plan.estimates)
    yield "", f"{best.nodes} {_nodes(best.nodes)}: the fewest within {TOLERATED_SLOWDOWN:.0%} of the fastest"


def _row_count(plan: "TrainingPlan") -> Iterator[Line]:
    """Warn if replicas have so few rows that they mostly wait for each other, or would for shorter samples."""
    from steerlm.training.node_counts import few_rows_mean_tokens, sufficient_rows

    needed = sufficient_rows(plan.layout)
    if plan.few_rows:
        rows = f"{plan.footprint.rows_per_replica:.1f} per replica, fewer than {needed}"
        yield "few rows", f"{rows}: GPUs wait much of the time"
    elif plan.footprint.real_token_share is None and needed > 1:
        mean = few_rows_mean_tokens(plan.settings, plan.layout)
        rows = f"fewer than {needed} per replica if samples average {mean:,.0f} tokens or less"
        yield "few rows", f"{rows}: GPUs would wait much of the time"


def _nodes(count: int) -> str:
    return "node" if count == 1 else "nodes"


def _step(estimate: "Estimate") -> str:
    return f"{estimate.time.total * 1e3:,.0f} ms, MFU {estimate.mfu:.1%}"


def _total(estimate: "Estimate") -> str:
    assert estimate.hours is not None and estimate.gpu_hours is not None
    return f"{_duration(estimate.hours)}, {estimate.gpu_hours:,.1f} GPU-hours"


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"


def _memory(plan: "TrainingPlan") -> str:
    from steerlm.training.footprint import USABLE_SHARE

    memory = plan.footprint.memory
    parts = ((name, getattr(memory, name)) for name in ("weights", "gradients", "optimizer", "activations", "logits"))
    needed = f"{size(memory.total)}: " + ", ".join(f"{name} {size(held)}" for name, held in parts if held)
    if plan.gpu_memory is None:
        return needed
    share = memory.total / plan.gpu_memory
    verdict = "DOES NOT FIT" if not plan.fits else "barely fits" if share > USABLE_SHARE else "fits"
    return f"{needed}; {verdict}, {share:.0%} of {size(plan.gpu_memory)}"


def _all_steps(plan: "TrainingPlan") -> str:
    footprint, steps = plan.footprint, plan.footprint.steps
    if steps is None:
        return f"{plan.settings.epochs:g} epochs of the data; the number of steps is unknown without --data"
    most = "at most " if plan.settings.epochs and footprint.real_token_share is None else ""
    tokens, flops = steps * footprint.tokens_per_step, steps * footprint.flops_per_step
    return f"{most}{steps:,} steps, {tokens:.3g} tokens, {flops:.3g} FLOPs"
