# SPDX-License-Identifier: Apache-2.0
"""The attribute schema: order, range, rounding, the label syntax and its errors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import MASKED, AttributeSchema, parse_labels
from steerlm.errors import LabelError

NINE = AttributeSchema()
OWN = AttributeSchema(names=("warm", "brief", "bold"), low=0, high=9, defaults={"brief": 2})


@pytest.mark.parametrize(
    ("score", "label"),
    [(-0.7, 0), (0.5, 0), (1.5, 2), (2.5, 2), (2.51, 3), (3.5, 4), (4.9, 4)],
)
def test_scores_are_clamped_and_rounded_half_to_even(score: float, label: int) -> None:
    assert NINE.round([score] * 9) == dict.fromkeys(NINE.names, label)


def test_untrained_attributes_are_omitted_and_rejected() -> None:
    five = NINE.restricted(["verbosity", "helpfulness"])
    assert five.active == ("helpfulness", "verbosity")
    assert five.round([9.0] * 9) == {"helpfulness": 4, "verbosity": 4}
    with pytest.raises(LabelError, match="never trained"):
        five.check({"quality": 1})


def test_output_is_in_schema_order_not_in_mapping_order() -> None:
    assert NINE.format({"verbosity": 1, "quality": 4.0, "humor": 2}) == "quality:4,humor:2,verbosity:1"
    assert OWN.vector({"bold": 3, "nobody": 1}) == [MASKED, MASKED, 3.0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"humour": 1}, "did you mean 'humor'"),
        ({"humor": 5}, r"0\.\.4, not 5"),
        ({"humor": -1}, r"0\.\.4, not -1"),
        ({"humor": 1.5}, "integer"),
        ({"humor": True}, "integer"),
        ({"humor": "3"}, "integer"),
        ({"humor": float("nan")}, "integer"),
    ],
)
def test_invalid_labels_are_rejected_by_name(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        NINE.complete(labels)


def test_complete_fills_in_defaults() -> None:
    assert OWN.complete({"bold": 0}) == {"warm": 9, "brief": 2, "bold": 0}


@pytest.mark.parametrize(
    "text", ["", "quality", "quality:", ":3", "quality:x", "a:1,,b:2", "a:nan", "a:inf", "a:1_0", "a:\u0663", "a:1 1"]
)
def test_malformed_label_strings_are_rejected(text: str) -> None:
    with pytest.raises(LabelError, match="name:number"):
        parse_labels(text)


def test_blanks_are_ignored_and_a_name_comes_once() -> None:
    assert parse_labels(" warm: 3.0 ,brief :1e0") == {"warm": 3, "brief": 1}
    with pytest.raises(LabelError, match="'warm' is given twice"):
        parse_labels("warm:1, warm:1")


@given(st.dictionaries(st.sampled_from(OWN.names), st.integers(0, 9), min_size=1))
def test_labels_round_trip(labels: dict[str, int]) -> None:
    assert parse_labels(OWN.format(labels)) == labels


@pytest.mark.parametrize(
    "fields",
    [
        {"names": ("a", "a")},
        {"names": ()},
        {"names": ("a b",)},
        {"low": 4, "high": 4},
        {"defaults": {"humour": 1}},
        {"defaults": {"humor": 9}},
        {"trained": ("humour",)},
        {"ranges": 1},
    ],
)
def test_inconsistent_schemas_are_rejected(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        AttributeSchema(**fields)
