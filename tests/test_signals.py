# SPDX-License-Identifier: Apache-2.0
"""Termination signals: what they raise, what they leave alone, and that earlier handlers come back."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from steerlm.errors import Interrupted, PeerLostError
from steerlm.signals import StopRequest, handled, interrupt_on_sigterm, interrupted_by_sigterm, sigterm_as_ctrl_c


@pytest.fixture(autouse=True)
def earlier_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, and check in a test's block that it came back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    """Send SIGTERM to this process and wait until its handler has run."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def test_a_handler_gets_the_numbers_and_is_removed_after_its_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    received: list[int] = []
    with handled([signal.SIGTERM], received.append):
        terminate()
        terminate()
    assert received == [signal.SIGTERM, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), list[object]()

    def work() -> None:
        with handled([signal.SIGTERM], lambda number: None):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_block_is_interrupted_by_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="run it again"), interrupted_by_sigterm("run it again"):
        terminate()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_passes_what_catches_every_exception() -> None:
    with pytest.raises(Interrupted, match="run it again"), sigterm_as_ctrl_c("run it again"):
        try:
            terminate()
        except Exception:  # as a library might
            pytest.fail("caught")


def test_ctrl_c_stays_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c("run it again"):
        raise KeyboardInterrupt


def test_a_worker_is_interrupted_from_now_on() -> None:
    interrupt_on_sigterm("stopped")
    for _ in range(2):
        with pytest.raises(Interrupted, match="stopped"):
            terminate()


def test_a_stop_request_waits_to_be_read_while_deferred() -> None:
    stop = StopRequest("stopped")
    with stop.deferred():
        assert not stop()
        terminate()
        assert stop()
    with pytest.raises(Interrupted, match="stopped"):
        terminate()


def test_a_termination_does_not_hide_the_error_that_ended_training() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = StopRequest("stopped")
        with pytest.raises(PeerLostError):
            try:
                with stop.deferred():
                    raise PeerLostError("gone")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
