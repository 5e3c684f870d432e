# SPDX-License-Identifier: Apache-2.0
"""One way of handling termination signals. Python runs handlers in the main thread, between two of its instructions.

A worker process ends by a signal, so it sets its handler once (`interrupt_on_sigterm`, `StopRequest`). Code that runs
inside another program handles signals for the length of a block and restores the handlers before it.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from steerlm.errors import Interrupted

CTRL_C_EXIT_CODE = 128 + signal.SIGINT
SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
log = logging.getLogger(__name__)


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int], None]) -> Iterator[None]:
    """Call `handler` with the number of each signal that arrives in the block, then restore the earlier handlers.

    Outside the main thread, where handlers cannot be set, signals are left alone.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda n, _: handler(n)) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def interrupted_by_sigterm(message: str) -> Iterator[None]:
    """Raise `Interrupted` with `message` in the block at a SIGTERM."""
    with handled([signal.SIGTERM], _raising(message)):
        yield


@contextlib.contextmanager
def sigterm_as_ctrl_c(message: str) -> Iterator[None]:
    """End the block at a SIGTERM as Ctrl-C does, which every library lets through, and raise `Interrupted` from it."""
    terminated = False

    def terminate(number: int) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    with handled([signal.SIGTERM], terminate):
        try:
            yield
        finally:
            if terminated:
                raise Interrupted(message) from None


def interrupt_on_sigterm(message: str) -> None:
    """Raise `Interrupted` with `message` at every SIGTERM from now on."""
    raise_interrupted = _raising(message)
    signal.signal(signal.SIGTERM, lambda number, _: raise_interrupted(number))


def ignore_sigterm() -> None:
    """Ignore SIGTERM from now on: the process is about to end, and how it ended must be written down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StopRequest:
    """A SIGTERM as a request to stop. Raises `Interrupted` at once, but inside `deferred` waits to be read.

    Calling the object returns True once SIGTERM has arrived.
    """

    def __init__(self, message: str) -> None:
        self.received = False
        self._deferred = False
        self._message = message
        signal.signal(signal.SIGTERM, self._receive)

    def __call__(self) -> bool:
        """Return whether SIGTERM has arrived."""
        return self.received

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only record a SIGTERM in the block, whose code reads it and stops where its state can be saved."""
        self._deferred = True
        try:
            yield
        except BaseException:  # torchrun ends a process whose peer has died: its own error must not be lost by that
            ignore_sigterm()
            raise
        self._deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if not self._deferred:
            raise Interrupted(self._message)
        log.warning("termination signal: saving after this step")


def _raising(message: str) -> Callable[[int], None]:
    def raise_interrupted(number: int) -> None:
        raise Interrupted(message)

    return raise_interrupted
