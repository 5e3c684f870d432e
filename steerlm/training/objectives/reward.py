# SPDX-License-Identifier: Apache-2.0
"""Masked regression of the values at the read-out position: `docs/upstream.md#masked-regression-loss`."""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.errors import InputError
from steerlm.prompt import LABEL_MARK, Tokens
from steerlm.records import RegressionSample
from steerlm.training.config import RewardSettings
from steerlm.training.data import Floats, RowTensors, Sample, Unit
from steerlm.training.engine import Statistics
from steerlm.training.objectives.tokens import Draft, TextRecords

if TYPE_CHECKING:
    import torch


class RewardObjective(TextRecords):
    """L = sum m (o - y)^2 / sum m over the global batch, with m = 1 where a sample has a label for an attribute.

    The read-out position is the text's last token, the end of its read-out mark. A text that is cut keeps its end, and
    so the mark. No BOS, no EOS.
    """

    output: Literal["values"] = "values"
    record = RegressionSample

    def __init__(self, settings: RewardSettings, tokenizer: Any, schema: AttributeSchema) -> None:
        super().__init__(tokenizer)
        self.settings, self.schema = settings, schema

    def fingerprint(self) -> dict[str, Any]:
        """Return window, policy for long texts, attributes and tokenizer digest: what the units depend on."""
        return {
            "objective": "reward",
            **self.settings.model_dump(mode="json", include={"window", "over_long"}),
            "attributes": self.schema.model_dump(mode="json"),
            "tokenizer": self.encoder.digest(),
        }

    def draft(self, record: RegressionSample) -> Draft:
        """Check the label, and that the text ends with the read-out mark; `InputError` if it does not."""
        labels = self._labels(record.label)
        if not record.text.endswith(LABEL_MARK):
            raise InputError(
                f"the text does not end in the read-out mark {LABEL_MARK}; make it by: steerlm data regression"
            )
        return Draft(record.text, functools.partial(self._units, labels))

    def _units(self, labels: Floats, tokens: Tokens) -> list[Unit]:
        ids = np.array(tokens.ids, np.int32)
        if len(ids) > self.settings.window:
            if self.settings.over_long == "error":
                window = self.settings.window
                raise InputError(
                    f"{len(ids)} tokens do not fit the window of {window}; set over_long to drop or keep_end"
                )
            if self.settings.over_long == "drop":
                self.counts["dropped_over_long"] += 1
                return []
            self.counts["cut_over_long"] += 1
            ids = ids[-self.settings.window :]
        present = labels != MASKED
        self.counts.update(f"labels/{name}" for name, yes in zip(self.schema.names, present, strict=True) if yes)
        return [Unit((Sample(ids, np.zeros(len(ids), np.float32), labels, count=int(present.sum())),))]

    def _labels(self, values: list[float]) -> Floats:
        """Return the label vector [A] fp32. Raises `InputError` if it does not fit the schema or has no value."""
        names = self.schema.names
        if len(values) != len(names):
            raise InputError(f"label has {len(values)} values for {len(names)} attributes ({', '.join(names)})")
        if all(value == MASKED for value in values):
            raise InputError(f"label has no value: all are {MASKED:g}, nothing would be learned")
        for name, value in zip(names, values, strict=True):
            if value != MASKED and not self.schema.low <= value <= self.schema.high:
                raise InputError(f"label {name}:{value:g} is outside {self.schema.low}..{self.schema.high}")
        return np.array(values, np.float32)

    def loss(self, output: "torch.Tensor", row: RowTensors) -> tuple["torch.Tensor", int, Statistics]:
        """Return the sum of squared errors over the row's labels, their number, and moments per attribute [A] fp64.

        `output`: [K, A] fp32. The moments are additive: MSE, Pearson and agreement follow from their sums.
        """
        import torch  # imported here: building a token index does not need torch

        if row.labels is None:
            raise ValueError("a row for regression needs labels")
        present = row.labels != MASKED
        squares = torch.where(present, output - row.labels, 0).square()
        with torch.no_grad():
            truth = torch.where(present, row.labels, 0).double()
            value = torch.where(present, output, 0).double()
            low, high = self.schema.low, self.schema.high
            agree = present & (value.clamp(low, high).round() == truth.round())  # torch rounds half to even
            moments = {
                "n": present,
                "truth": truth,
                "truth2": truth.square(),
                "value": value,
                "value2": value.square(),
                "product": truth * value,
                "error2": (value - truth).square(),
                "agree": agree,
            }
            statistics = {name: moment.double().sum(0) for name, moment in moments.items()}
        return squares.sum(), row.count, statistics

    def summarize(self, statistics: Mapping[str, "torch.Tensor"]) -> dict[str, float]:
        """Return metrics per labeled attribute, then the means of Pearson and agreement over attributes.

        Per attribute: number of labels, MSE, MSE of the best constant (the mean of these labels), agreement after
        clamping and rounding, and Pearson's correlation where neither side is constant.
        """
        sums = {name: moment.double().cpu().tolist() for name, moment in statistics.items()}
        metrics: dict[str, float] = {}
        for i, name in enumerate(self.schema.names):
            n, truth, value = sums["n"][i], sums["truth"][i], sums["value"][i]
            if n == 0:
                continue
            spread = max(0.0, sums["truth2"][i] / n - (truth / n) ** 2)
            value_spread = max(0.0, sums["value2"][i] / n - (value / n) ** 2)
            metrics[f"labels/{name}"] = n
            metrics[f"mse/{name}"] = sums["error2"][i] / n
            metrics[f"mean_predictor_mse/{name}"] = spread
            metrics[f"agreement/{name}"] = sums["agree"][i] / n
            if spread > 1e-12 and value_spread > 1e-12:
                covariance = sums["product"][i] / n - truth * value / n**2
                metrics[f"pearson/{name}"] = covariance / math.sqrt(spread * value_spread)
        for name in ("pearson", "agreement"):
            values = [v for k, v in metrics.items() if k.startswith(f"{name}/")]
            if values:
                metrics[name] = sum(values) / len(values)
        return metrics
