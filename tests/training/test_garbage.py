# SPDX-License-Identifier: Apache-2.0
"""Garbage is collected only at the scheduled steps, and by Python again once training has ended or failed."""

import gc
import weakref

import pytest

from steerlm.training.garbage import EVERY, collect_at, scheduled_collection


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_only_the_scheduled_steps_collect() -> None:
    with scheduled_collection():
        lost = weakref.ref(Cycle())
        for _ in range(10 * gc.get_threshold()[0]):
            Cycle()
        collect_at(EVERY - 1)
        assert lost() is not None
        collect_at(2 * EVERY)
        assert lost() is None
        assert gc.get_freeze_count() > 0


def test_afterwards_python_collects_by_itself_again() -> None:
    with pytest.raises(ValueError, match="ends"), scheduled_collection():
        assert not gc.isenabled()
        raise ValueError("ends")
    assert gc.isenabled() and gc.get_freeze_count() == 0
