# SPDX-License-Identifier: Apache-2.0
"""Stop strings in a text that arrives in parts."""

from hypothesis import given
from hypothesis import strategies as st

from steerlm.inference.engine.stop_strings import StopStringMatcher
from steerlm.prompt import TURN_STOP_STRINGS

texts = st.text("ab<>x\n", max_size=40)
stops = st.lists(st.text("ab<>x\n", min_size=1, max_size=4), max_size=3)


def first_end(text: str, stop: list[str]) -> int | None:
    """The end of the stop string that is complete first."""
    return next((end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)), None)


def begins_a_stop_string(ending: str, stop: list[str]) -> bool:
    return any(s.startswith(ending) for s in stop)


@given(texts, stops, st.data())
def test_matching_in_parts_equals_cutting_the_whole_text(text: str, stop: list[str], data: st.DataObject) -> None:
    matcher = StopStringMatcher(stop)
    parts, left = [], text
    while left:
        size = data.draw(st.integers(1, 5))
        parts.append(matcher.push(left[:size]))
        left = left[size:]
        # What a canceled stream has delivered has no part of what may become a stop string.
        delivered, so_far = len("".join(parts)), text[: len(text) - len(left)]
        if matcher.matched is None:
            assert not any(begins_a_stop_string(so_far[i:], stop) for i in range(delivered))
    end = first_end(text, stop)
    if matcher.matched is None:
        assert end is None
        rest = matcher.finish(cut_short=True)
        assert rest == ""
        kept = "".join(parts)
        assert text.startswith(kept) and begins_a_stop_string(text[len(kept) :], [*stop, ""])
    else:
        assert end is not None and "".join(parts) + matcher.matched == text[:end]
        assert any(matcher.matched.endswith(s) for s in stop)


@given(texts, stops)
def test_a_text_that_the_model_ends_keeps_the_start_of_a_callers_stop_string(text: str, stop: list[str]) -> None:
    matcher = StopStringMatcher(stop)
    out = matcher.push(text) + matcher.finish(cut_short=False)
    assert out == text if matcher.matched is None else text.startswith(out)


def test_no_text_ends_in_a_part_of_the_turns_mark() -> None:
    for cut_short in (True, False):
        for length in range(1, len("\n<extra_id_1>")):
            matcher = StopStringMatcher([*TURN_STOP_STRINGS, "dog"])
            out = matcher.push("a d" + "\n<extra_id_1>"[:length]) + matcher.finish(cut_short=cut_short)
            assert (out, matcher.matched) == ("a d", None)


def test_a_stop_string_inside_the_start_of_a_longer_one_leaves_nothing_of_it() -> None:
    matcher = StopStringMatcher(["\n<extra_id_1>", "extra"])
    assert matcher.push("abc\n<extra_id_1>") == "abc"
    assert matcher.matched == "\n<extra"


def test_only_a_possible_start_is_held_back() -> None:
    matcher = StopStringMatcher(["\n<extra_id_1>", "<extra_id_1>"])
    assert matcher.push("fine") == "fine"
    assert matcher.push("\n") == ""
    assert matcher.push("more\n<ext") == "\nmore"
    assert matcher.push("ra_id_1>junk") == ""
    assert matcher.matched == "\n<extra_id_1>"
    assert matcher.push("more") == ""
