# SPDX-License-Identifier: Apache-2.0
"""How well a reward model predicts each attribute: MSE (and the mean predictor's), Pearson, agreement, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steerlm.attributes import MASKED, AttributeSchema

Matrix = npt.NDArray[np.float64]


def pearson(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Return Pearson's correlation; NaN if either side is constant or there are fewer than 3 pairs."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Return Spearman's rank correlation (ties share their mean rank); 0, no effect, if either side is constant."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def regression_quality(predicted: Matrix, truth: Matrix, schema: AttributeSchema) -> dict[str, dict[str, Any]]:
    """Return n, mse, mean_predictor_mse, pearson, agreement and calibration of each attribute that has a true value.

    The mean predictor predicts the mean of these true values, so it is the best constant. `calibration` has, for each
    label that predictions round to, how often they do and the mean true value.

    Args:
        predicted: [n, attributes] in schema order.
        truth: Like `predicted`; entries that are `MASKED` are ignored.
        schema: The attributes.
    """
    result: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(schema.names):
        known = truth[:, column] != MASKED
        if not known.any():
            continue
        p, t = predicted[known, column], truth[known, column]
        rounded = np.clip(np.rint(p), schema.low, schema.high)
        result[name] = {
            "n": int(known.sum()),
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
    """Return labels as [n, attributes] fp64, `MASKED` where one is missing."""
    return np.array([schema.vector(one) for one in labels], dtype=np.float64).reshape(len(labels), len(schema.names))
