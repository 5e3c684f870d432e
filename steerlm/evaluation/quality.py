# SPDX-License-Identifier: Apache-2.0
"""How well a reward model predicts: per attribute MSE beside the mean predictor's, Pearson, agreement, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steerlm.attributes import MASKED, AttributeSchema

Matrix = npt.NDArray[np.float64]


def pearson(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Pearson's correlation; nan if either side is constant or there are fewer than 3 pairs."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Spearman's rank correlation (ties share their mean rank); 0 if either side is constant: no dial, no effect."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def regression_quality(predicted: Matrix, truth: Matrix, schema: AttributeSchema) -> dict[str, dict[str, Any]]:
    """Per attribute with at least one true value: n, mse, mean_predictor_mse, pearson, agreement, calibration.

    `predicted` and `truth` are [n, attributes] in schema order; `MASKED` entries of `truth` are left out. The mean
    predictor knows the mean of these very truths, so it is the strongest constant. `calibration`: for each label the
    model would round to, how often and the mean truth.
    """
    result: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(schema.names):
        there = truth[:, column] != MASKED
        if not there.any():
            continue
        p, t = predicted[there, column], truth[there, column]
        rounded = np.clip(np.rint(p), schema.low, schema.high)
        result[name] = {
            "n": int(there.sum()),
            "mse": float(np.mean((p - t) ** 2)),
            "mean_predictor_mse": float(np.var(t)),
            "pearson": pearson(p, t),
            "agreement": float(np.mean(rounded == np.rint(t))),
            "calibration": [
                {"label": int(v), "n": int((rounded == v).sum()), "truth": float(t[rounded == v].mean())}
                for v in np.unique(rounded)
            ],
        }
    return result


def label_matrix(labels: Sequence[dict[str, float]], schema: AttributeSchema) -> Matrix:
    """[n, attributes] fp64, `MASKED` where a label is missing."""
    return np.array([schema.vector(one) for one in labels], dtype=np.float64).reshape(len(labels), len(schema.names))
