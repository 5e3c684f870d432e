# SPDX-License-Identifier: Apache-2.0
"""The slowest process is determined within its pipeline stage, with a warning if it stays the slowest."""

import logging
from collections.abc import Sequence

import pytest

from steerlm.training.engine import Layout
from steerlm.training.stragglers import Stragglers, slowest


@pytest.mark.parametrize(
    ("times", "rank", "ratio"),
    [
        ([[0, 0.0, 1.0], [0, 0.0, 3.0]], 1, 3.0),  # of two, the other one
        ([[0, 0.0, 1.0], [0, 0.5, 1.0], [0, 0.0, 1.2]], 1, 1.25),  # reading counts; median 1.2
        # The last stage has the head as well; its third process is slow.
        ([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 1.0], [1, 0, 2.0], [1, 0, 2.0], [1, 0, 2.6]], 5, 1.3),
        ([[0, 0.0, 0.0], [0, 0.0, 0.0]], 0, 0.0),
    ],
)
def test_the_slowest(times: list[list[float]], rank: int, ratio: float) -> None:
    slowest_rank, slowest_ratio, text = slowest(times)
    assert slowest_rank == rank and slowest_ratio == pytest.approx(ratio)
    assert f"{ratio:.2f} times the median" in text


class Two:
    """The engine of rank 0 of two, as far as it is used here; rank 1 takes `other` seconds per forward pass."""

    layout = Layout(world_size=2)
    other = 0.01

    def __init__(self) -> None:
        self.gathered = 0
        self.weights = ""

    def gather_weights(self) -> None:
        self.weights = "gathered"

    def forward_seconds(self) -> float:
        return 0.01

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        self.gathered += 1
        return [list(values), [0.0, 0.0, self.other]]


def step(of: Stragglers) -> dict[str, float]:
    of.before_step()
    return of.after_step(0.0)


def test_the_slowest_is_reported_every_n_steps_with_a_warning_if_it_stays_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    engine = Two()
    stragglers = Stragglers(engine, 2, "rank {} of host".format)  # type: ignore[arg-type]
    assert step(stragglers) == {} and engine.gathered == 0 and not engine.weights
    assert step(stragglers)["train/slowest_over_median"] == pytest.approx(1.0) and engine.gathered == 1
    assert engine.weights  # before the forward pass, in which waiting for them would count
    engine.other = 0.02
    metrics = [step(stragglers) for _ in range(6)]
    assert metrics[1] == {"train/slowest_rank": 1, "train/slowest_over_median": pytest.approx(2.0)} and metrics[0] == {}
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO] * 3 + [logging.WARNING]
    assert caplog.messages[-1].startswith("slowest: rank 1 of host: 2.00 times the median")
    engine.other = 0.01  # and no longer
    assert step(stragglers) == {} and step(stragglers)
    assert caplog.records[-1].levelno == logging.INFO


@pytest.mark.parametrize(("every", "layout"), [(None, Layout(world_size=2)), (1, Layout())])
def test_nothing_is_exchanged_without_processes_to_compare(every: int | None, layout: Layout) -> None:
    engine = Two()
    engine.layout = layout
    assert step(Stragglers(engine, every, str)) == {} and not engine.gathered and not engine.weights  # type: ignore[arg-type]
