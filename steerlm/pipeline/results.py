# SPDX-License-Identifier: Apache-2.0
"""What a finished run made, for a person: its models by name, its numbers with a verdict, and what to do next.

`steerlm run` and the demos share it. It only reads artifacts; nothing here is part of a result.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.artifact import Artifact
from steerlm.evaluation.verdict import Verdict, advice, conclusion, verdicts
from steerlm.pipeline.local import PipelineRun

MODELS: Mapping[str, tuple[str, ...]] = {
    "base": ("train_base", "fetch_model"),
    "reward": ("train_reward",),
    "policy": ("train_sft",),
    "baseline": ("train_baseline",),
}
"""Names of a run's models, each with the steps that may make it."""
REPORT = "report.html"
PEARSON = "validation/pearson/"
READ = ("evaluate", "report")
"""Steps whose small artifacts are fetched from a remote store to be shown; models stay there."""


@dataclass(frozen=True, slots=True)
class Results:
    """The artifacts of a run by step, and what they say."""

    artifacts: Mapping[str, Artifact]

    @classmethod
    def of(cls, run: PipelineRun) -> "Results":
        """Open what a run made or found."""
        made = [outcome for outcome in run.outcomes if "path" in outcome]
        found = {o["label"]: run.store.open(o["stage"], o["key"]) for o in made}
        return cls({step: run.store.materialize(one) if step in READ else one for step, one in found.items()})

    @property
    def models(self) -> dict[str, Path]:
        """Model folders by name. A model that was found in a remote store is not in its folder."""
        return {name: artifact.path for name, artifact in self.named_artifacts()}

    @property
    def uris(self) -> dict[str, str]:
        """Addresses of the models by name."""
        return {name: artifact.uri for name, artifact in self.named_artifacts()}

    def named_artifacts(self) -> Iterator[tuple[str, Artifact]]:
        """Yield the models' artifacts by name."""
        for name, steps in MODELS.items():
            made = next((step for step in steps if step in self.artifacts), None)
            if made:
                yield name, self.artifacts[made]

    @property
    def report(self) -> Path | None:
        """The report's page."""
        return self.artifacts["report"].path / REPORT if "report" in self.artifacts else None

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of `evaluation.json`; empty if the run did not evaluate."""
        if "evaluate" not in self.artifacts:
            return {}
        read: dict[str, Any] = json.loads((self.artifacts["evaluate"].path / "evaluation.json").read_text("utf-8"))
        return read

    def metrics(self, step: str) -> Mapping[str, Any]:
        """Return the numbers of a step; empty if it did not run."""
        found: Mapping[str, Any] = self.artifacts[step].manifest.provenance["metrics"] if step in self.artifacts else {}
        return found

    def verdicts(self) -> list[Verdict]:
        """Judge every attribute, by the evaluation or else by the reward model's validation."""
        result = self.evaluation
        if result:
            return verdicts(result["steering"], result["quality"])
        validated = {k.removeprefix(PEARSON): v for k, v in self.metrics("train_reward").items() if PEARSON in k}
        return verdicts(None, {name: {"pearson": value} for name, value in validated.items()})

    def lines(self) -> list[str]:
        """Return the table of the numbers, the verdict, the advice, and what the stages left out."""
        rows, steering = self.verdicts(), self.evaluation.get("steering") or {}
        shown = [*table(rows), "", conclusion(rows)] if rows else []
        shown += advice(rows, steering.get("questions"), self.metrics("train_sft").get("steps"))
        for step, artifact in self.artifacts.items():
            shown += [f"{step}: {text}" for text in artifact.manifest.provenance.get("dropped", ())]
        return shown


def table(rows: list[Verdict]) -> list[str]:
    """Return the verdicts as the lines of a table that fits 80 columns."""
    judges = list(rows[0].steering)
    columns = [*judges]
    columns += ["baseline"] if any(row.baseline is not None for row in rows) else []
    columns += ["reward r"] if any(row.reward is not None for row in rows) else []
    wide = max(map(len, ["attribute", *(row.attribute for row in rows)]))
    title = "Spearman of requested and obtained values; " if judges else ""
    lines = [f"{title}reward r: Pearson with ratings" if "reward r" in columns else title.strip("; ")]
    lines.append("  ".join(["attribute".ljust(wide), *columns, "verdict"]))
    for row in rows:
        values = [row.steering[judge] for judge in judges]
        numbers: list[float | None] = [*values, *([row.baseline] if "baseline" in columns else [])]
        numbers += [row.reward] if "reward r" in columns else []
        cells = ["–" if n is None else f"{n:.2f}" for n in numbers]
        padded = [cell.rjust(len(column)) for cell, column in zip(cells, columns, strict=True)]
        lines.append("  ".join([row.attribute.ljust(wide), *padded, row.text]))
    return lines


def link(results: Results, folder: Path) -> dict[str, Path]:
    """Link `folder`/policy, the other models by name and the report to what a run made; return the links.

    Links of an earlier run are replaced; a file or folder of that name is left alone.
    """
    targets = {**results.models, **({REPORT: results.report} if results.report else {})}
    links = {}
    for name, target in targets.items():
        place = folder / name
        if not target.exists() or (place.exists() and not place.is_symlink()):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(target, folder.resolve()))  # relative: `folder` may be moved
        links[name] = place
    return links


def next_steps(results: Results, links: Mapping[str, Path]) -> list[str]:
    """Return where the results are, and the commands that use them."""
    places = {name: path for name, path in {**results.models, **links}.items() if path.exists()}
    shown = [f"{name:9}{places.get(name, uri)}" for name, uri in results.uris.items()]
    if results.report:
        shown.append(f"{'report':9}{places.get(REPORT, results.report)}")
    if "policy" in places:
        shown += ["", f"steerlm serve generate {places['policy']}"]
    elif "reward" in places:
        shown += ["", f"steerlm serve reward {places['reward']}"]
    return shown


def fetch_commands(results: Results) -> list[str]:
    """Return the addresses of the results, and how a model gets to another machine, for a run that ended elsewhere."""
    places = {name: f"{artifact.uri}/{artifact.kind}" for name, artifact in results.named_artifacts()}
    shown = [f"{name:9}{place}" for name, place in places.items()]
    if "report" in results.artifacts:
        report = results.artifacts["report"]
        shown.append(f"{'report':9}{report.uri}/{report.kind}/{REPORT}")
    wanted = next((name for name in ("policy", "reward") if name in places), None)
    return [*shown, "", f"steerlm model fetch {places[wanted]} {wanted}"] if wanted else shown
