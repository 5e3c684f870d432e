# SPDX-License-Identifier: Apache-2.0
"""A self-contained HTML report of a run: steering, reward quality, training curves, answers, where everything is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerlm.errors import InputError
from steerlm.evaluation import plots
from steerlm.files import atomic_writer


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise about the numbers, and whether it is kept."""

    text: str
    value: str
    met: bool


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report shows; parts that a run has not made are empty.

    `scale`: lowest and highest label; `steering`: result of `steer.evaluate_steering`; `quality`: of
    `quality.regression_quality`; `curves`: the lines of each training stage's metrics.jsonl; `stages`: name, seconds,
    path; `places`: label to path or address.
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


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a truncated last line, as a crash leaves it, is left out."""
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
    """The report as one HTML page: no script, no font, no address outside itself."""
    from jinja2 import Environment, PackageLoader, select_autoescape
    from markupsafe import Markup

    steering = data.steering
    pictures: dict[str, str] = {}
    if data.curves:
        pictures["losses"] = plots.losses(data.curves)
    if data.quality:
        pictures["calibration"] = plots.calibration(data.quality, *data.scale)
    if steering:
        pictures["steering"] = plots.steering(steering["judges"], *steering["range"])
        if steering["baseline"]:
            judge = next(iter(steering["judges"]))
            pictures["comparison"] = plots.comparison(steering["judges"][judge], steering["baseline"][judge])
    environment = Environment(
        loader=PackageLoader("steerlm.evaluation", ""),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    return environment.get_template("report.html.jinja").render(
        title=data.title,
        description=data.description,
        steering=steering,
        quality=data.quality,
        goals=data.goals,
        stages=data.stages,
        places=data.places,
        plots={name: Markup(svg) for name, svg in pictures.items()},  # our own SVG, not input
    )


def write_report(data: ReportData, path: Path) -> None:
    """Write `render_report` to `path`, atomically."""
    page = render_report(data)
    with atomic_writer(path) as file:
        file.write(page)
