# SPDX-License-Identifier: Apache-2.0
"""What is said of dropped records, and from which share on it is a warning or an error."""

import pytest

from steerlm.dropped import Dropped
from steerlm.errors import InputError


def test_the_line_names_number_share_and_reason() -> None:
    counts = {"records": 6228, "units": 1864, "dropped_over_long": 4364, "dropped_no_learned_token": 0, "joints": 3}
    assert str(Dropped.from_counts("train data", counts, "samples")) == (
        "train data: 4,364 of 6,228 samples dropped (70.1%): longer than the window"
    )
    both = Dropped.from_counts("a.jsonl", {"records": 40, "dropped_over_long": 2, "dropped_no_learned_token": 1})
    assert str(both) == ("a.jsonl: 3 of 40 records dropped (7.5%): 2 longer than the window, 1 without a learned token")
    assert Dropped.from_counts("x", {"records": 5}).number == 0


@pytest.mark.parametrize(("number", "much"), [(0, False), (5, False), (6, True)])
def test_above_five_percent_is_a_warning(number: int, much: bool) -> None:
    assert Dropped("x", number, 100, "lines", "bad").much is much


def test_above_the_limit_is_an_error_that_names_the_setting_and_the_remedy() -> None:
    Dropped("x", 50, 100, "lines", "bad").check(0.5, "sft.max_dropped", "mend them")
    Dropped("x", 0, 0, "lines", "bad").check(0, "sft.max_dropped", "mend them")
    with pytest.raises(InputError) as error:
        Dropped("x", 51, 100, "lines", "bad").check(0.5, "sft.max_dropped", "mend them")
    assert str(error.value) == (
        "x: 51 of 100 lines dropped (51.0%): bad; at most 50% may be (sft.max_dropped): mend them, or raise "
        "sft.max_dropped"
    )
