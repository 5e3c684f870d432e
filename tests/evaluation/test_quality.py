# SPDX-License-Identifier: Apache-2.0
"""Regression quality against numpy computed by hand."""

import numpy as np
import pytest

from steerlm.attributes import MASKED, AttributeSchema
from steerlm.evaluation.quality import label_matrix, regression_quality, spearman


def test_masked_entries_take_no_part() -> None:
    schema = AttributeSchema(names=("a", "b", "c"))
    truth = np.array([[0, MASKED, MASKED], [2, 1, MASKED], [4, 3, MASKED], [4, MASKED, MASKED]], float)
    predicted = np.array([[0.4, 99, 0], [2.0, 1.5, 0], [3.0, 2.5, 0], [5.0, 99, 0]], float)
    quality = regression_quality(predicted, truth, schema)
    assert set(quality) == {"a", "b"}
    assert quality["a"]["mse"] == pytest.approx((0.16 + 0 + 1 + 1) / 4)
    assert quality["a"]["mean_predictor_mse"] == pytest.approx(np.var([0, 2, 4, 4]))
    assert quality["a"]["pearson"] == pytest.approx(np.corrcoef([0.4, 2, 3, 5], [0, 2, 4, 4])[0, 1])
    assert quality["a"]["agreement"] == pytest.approx(0.75)
    assert quality["b"]["n"] == 2


def test_label_matrix_masks_what_is_missing() -> None:
    schema = AttributeSchema(names=("a", "b"))
    assert label_matrix([{"b": 3}, {}], schema).tolist() == [[MASKED, 3.0], [MASKED, MASKED]]


def test_spearman_of_a_constant_is_no_effect() -> None:
    assert spearman(np.array([0, 1, 2, 3]), np.array([1, 1, 1, 1])) == 0
