# SPDX-License-Identifier: Apache-2.0
"""The report's plots, each an inline SVG string."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

INK, MUTED, STEERED, SECOND, PLAIN = "#1f2933", "#9aa5b1", "#2563eb", "#d97706", "#9aa5b1"


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text[text.index("<svg") :], count=1)


def _grid(panels: int, width: float = 2.6, height: float = 2.1, columns: int = 3) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "steerlm"}
    )
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    flat = list(axes.flat)
    for unused in flat[panels:]:
        unused.axis("off")
    figure.set_layout_engine("tight")
    return figure, flat


def losses(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Plot one panel per training stage: the loss by step, with the validation loss as points."""
    figure, axes = _grid(len(curves), width=3.4, height=2.4)
    for axis, (stage, records) in zip(axes, curves.items(), strict=False):
        train = [(r["step"], r["train/loss"]) for r in records if "train/loss" in r]
        valid = [(r["step"], r["validation/loss"]) for r in records if "validation/loss" in r]
        if train:
            axis.plot(*zip(*train, strict=True), color=STEERED, linewidth=1, label="training")
        if valid:
            axis.plot(*zip(*valid, strict=True), "o-", color=SECOND, markersize=3, linewidth=1, label="validation")
        if train and min(v for _, v in train) > 0:
            axis.set_yscale("log")
        axis.set_title(stage)
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.legend(frameon=False)
    return _svg(figure)


def calibration(quality: Mapping[str, Mapping[str, Any]], low: int, high: int) -> str:
    """Plot one panel per attribute: predicted label against mean true value. The area of a dot is its frequency."""
    figure, axes = _grid(len(quality))
    for axis, (name, one) in zip(axes, quality.items(), strict=False):
        points = one["calibration"]
        total = sum(p["n"] for p in points)
        axis.plot([low, high], [low, high], color=MUTED, linewidth=0.8)
        axis.plot([p["label"] for p in points], [p["truth"] for p in points], color=STEERED, linewidth=1)
        axis.scatter(
            [p["label"] for p in points],
            [p["truth"] for p in points],
            s=[8 + 160 * p["n"] / total for p in points],
            color=STEERED,
            alpha=0.7,
        )
        axis.set_title(f"{name}  r = {one['pearson']:.2f}")
        axis.set_xlabel("label by the reward model")
        axis.set_ylabel("mean true value")
    return _svg(figure)


def steering(judges: Mapping[str, Mapping[str, Mapping[str, Any]]], low: int, high: int) -> str:
    """Plot one panel per attribute: requested and obtained, the others at their defaults, with quartiles."""
    first = next(iter(judges.values()))
    figure, axes = _grid(len(first))
    for axis, name in zip(axes, first, strict=False):
        axis.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=":")
        for color, (judge, attributes) in zip((STEERED, SECOND), judges.items(), strict=False):
            level, mean, p25, p75 = zip(*attributes[name]["curve"], strict=True)
            axis.fill_between(level, p25, p75, color=color, alpha=0.15, linewidth=0)
            axis.plot(level, mean, "o-", color=color, markersize=3, linewidth=1.4, label=f"by the {judge}")
        axis.set_ylim(low - 0.3, high + 0.3)
        axis.set_xticks(range(low, high + 1) if high - low <= 10 else [low, high])
        axis.set_title(f"{name}  ρ = {first[name]['spearman']:.2f}")
        axis.set_xlabel("requested")
        axis.set_ylabel("obtained")
    axes[0].legend(frameon=False)
    return _svg(figure)


def comparison(steered: Mapping[str, Mapping[str, Any]], baseline: Mapping[str, Mapping[str, Any]]) -> str:
    """Plot bars per attribute: mean distance between requested and obtained, with attributes and without."""
    figure, axes = _grid(1, width=7.5, height=2.4)
    names = list(steered)
    at = range(len(names))
    axes[0].bar([x - 0.2 for x in at], [steered[n]["mae"] for n in names], 0.4, color=STEERED, label="with attributes")
    axes[0].bar(
        [x + 0.2 for x in at],
        [baseline[n]["mae"] for n in names],
        0.4,
        color=PLAIN,
        label="baseline without attributes",
    )
    axes[0].set_xticks(list(at), names, rotation=20)
    axes[0].set_ylabel("mean |requested − obtained|")
    axes[0].legend(frameon=False)
    return _svg(figure)
