# SPDX-License-Identifier: Apache-2.0
"""Percent, rate and time left of any progress, on one line."""

import io

from steerlm.cli.progress import Pace, ProgressLine


def test_work_of_an_earlier_run_does_not_count_in_the_rate() -> None:
    pace = Pace()
    assert pace("val: conversation 600/1000, 900 turns labeled", 50.0) == (
        "val: conversation 600/1000  60 %  900 turns labeled"
    )
    assert pace("val: conversation 800/1000, 1200 turns labeled", 60.0) == (
        "val: conversation 800/1000  80 %  20.0/s  0:10 left  1200 turns labeled"
    )


def test_another_kind_of_work_starts_anew() -> None:
    pace = Pace()
    pace("train: conversation 0/10", 0.0)
    assert pace("train: conversation 10/10", 10.0).endswith("1.0/s  0:00 left")
    assert pace("val: conversation 1/10", 11.0) == "val: conversation 1/10  10 %"
    assert pace("val: conversation 2/10", 12.0) == "val: conversation 2/10  20 %  1.0/s  0:08 left"
    assert pace("tokenized 1,234 records", 13.0) == "tokenized 1,234 records"
    assert pace("nothing 0/0", 14.0) == "nothing 0/0"


def test_a_long_wait_has_hours() -> None:
    pace = Pace()
    pace("step 1/1001", 0.0)
    assert pace("step 2/1001", 60.0) == "step 2/1001  0 %  60.0 s each  16:39:00 left"


def test_what_follows_a_progress_line_stands_alone() -> None:
    out = io.StringIO()
    line = ProgressLine(out, live=True)
    line.show("step 1/2", now=0.0)
    line.end("done")
    line.end()
    assert out.getvalue() == "\r\x1b[Kstep 1/2  50 %\r\x1b[Kdone\n"


def test_words_that_are_new_are_printed_at_once_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    line = ProgressLine(out, live=False)
    texts = [
        "queued: insufficient quota",
        "starting: unschedulable: 0/32 nodes are available",
        "starting: unschedulable: 1/32 nodes are available",
        "step 1/300 loss=2.5",
        "step 2/300 loss=2.4",
    ]
    for second, text in enumerate(texts):
        line.show(text, now=float(second))
    line.show("step 40/300 loss=2.3", now=20.0)
    assert out.getvalue().splitlines() == [
        *texts[:2],
        "step 1/300  0 %  loss=2.5",
        "step 40/300  13 %  2.3/s  1:53 left  loss=2.3",
    ]
