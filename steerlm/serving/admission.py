# SPDX-License-Identifier: Apache-2.0
"""The queue's places: one for each answer that is being made, whatever it waits for."""

from starlette.datastructures import State

from steerlm.serving.errors import ApiError


class Place:
    """What one request takes of `limit` places, which `state.in_flight` counts: one until its route knows better."""

    def __init__(self, state: State, limit: int) -> None:
        self._state, self._limit = state, limit
        self._taken = 0

    def take(self, answers: int) -> None:
        """Hold so many places from now on. Raises `ApiError`: 429 if there are not so many now, 400 if there never
        are."""
        if answers > self._limit:
            raise ApiError(f"{answers} answers to one request; this server makes at most {self._limit} at a time")
        others = self._state.in_flight - self._taken
        if others + answers > self._limit:
            raise ApiError(
                f"the server has {others} answers in flight and {answers} more would pass its limit, "
                f"{self._limit}; try again later",
                status=429,
            )
        self._state.in_flight = others + answers
        self._taken = answers

    def leave(self) -> None:
        self._state.in_flight -= self._taken
        self._taken = 0
