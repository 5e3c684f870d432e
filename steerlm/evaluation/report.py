# SPDX-License-Identifier: Apache-2.0
"""A self-contained HTML report of a run: steering, reward quality, training curves, answers, locations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerlm.errors import InputError
from steerlm.evaluation import plots
from steerlm.evaluation.verdict import advice, conclusion, verdicts
from steerlm.files import atomic_writer


@dataclass(frozen=True, slots=True)
class Goal:
    """A required value of a metric, and whether it is met."""

    text: str
    value: str
    met: bool


@dataclass(frozen=True, slots=True)
class ReportData:
    """The content of a report; parts that a run does not have are empty.

    Attributes:
        title: Of the page.
        scale: Lowest and highest label.
        description: One sentence below the title.
        steering: The result of `evaluate_steering`.
        quality: The result of `regression_quality`.
        curves: The lines of each training stage's metrics.jsonl.
        goals: Required values.
        stages: `name`, `seconds` and `path` of each stage.
        places: Label to path or address.
        left_out: What the stages dropped of their data, a line each.
    """

    title: str
    scale: tuple[int, int]
    description: str = ""
    steering: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    goals: Sequence[Goal] = ()
    stages: Sequence[Mapping[str, Any]] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics.jsonl, except a last line that a crash truncated."""
    records = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}:{number}: not JSON ({error.msg})") from None
    return records


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page without scripts, fonts or links to other files."""
    from jinja2 import Environment, PackageLoader, select_autoescape
    from markupsafe import Markup

    steering = data.steering
    svgs: dict[str, str] = {}
    if data.curves:
        svgs["losses"] = plots.losses(data.curves)
    if data.quality:
        svgs["calibration"] = plots.calibration(data.quality, *data.scale)
    if steering:
        svgs["steering"] = plots.steering(steering["judges"], *steering["range"])
        if steering["baseline"]:
            judge = next(iter(steering["judges"]))
            svgs["comparison"] = plots.comparison(steering["judges"][judge], steering["baseline"][judge])
    environment = Environment(
        loader=PackageLoader("steerlm.evaluation", ""),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    rows = verdicts(steering, data.quality)
    return environment.get_template("report.html.jinja").render(
        title=data.title,
        description=data.description,
        steering=steering,
        quality=data.quality,
        verdicts={row.attribute: row for row in rows},
        conclusion=conclusion(rows),
        advice=advice(rows, steering["questions"] if steering else None),
        goals=data.goals,
        stages=data.stages,
        places=data.places,
        left_out=data.left_out,
        plots={name: Markup(svg) for name, svg in svgs.items()},  # our own SVG, not input
    )


def write_report(data: ReportData, path: Path) -> None:
    """Render the report and write it to `path` atomically."""
    page = render_report(data)
    with atomic_writer(path) as file:
        file.write(page)
