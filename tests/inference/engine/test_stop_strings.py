# SPDX-License-Identifier: Apache-2.0
"""Stop strings in a text that arrives in parts."""

from hypothesis import given
from hypothesis import strategies as st

from steerlm.inference.engine.stop_strings import StopStringMatcher


@given(st.text("ab<>x\n", max_size=40), st.lists(st.text("ab<>x\n", min_size=1, max_size=4), max_size=3), st.data())
def test_matching_in_parts_equals_cutting_the_whole_text(text: str, stop: list[str], data: st.DataObject) -> None:
    matcher = StopStringMatcher(stop)
    out, left = "", text
    while left:
        size = data.draw(st.integers(1, 5))
        out += matcher.push(left[:size])
        left = left[size:]
    out += matcher.flush() if matcher.matched is None else ""
    # Earliest end wins as the text grows: a longer stop string that began earlier may never be completed.
    cuts = [at for s in stop if (at := text.find(s)) >= 0]
    if matcher.matched is None:
        assert not cuts and out == text
    else:
        assert text.startswith(out + matcher.matched) and cuts
        assert all(s not in out for s in stop)


def test_only_a_possible_start_is_held_back() -> None:
    matcher = StopStringMatcher(["\n<extra_id_1>", "<extra_id_1>"])
    assert matcher.push("fine") == "fine"
    assert matcher.push("\n") == ""
    assert matcher.push("more\n<ext") == "\nmore"
    assert matcher.push("ra_id_1>junk") == ""
    assert matcher.matched == "\n<extra_id_1>"
    assert matcher.push("more") == ""
