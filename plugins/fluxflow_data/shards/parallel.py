"""Calls in parallel, by threads for which nobody waits: neither an exception nor the end of the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], arguments: Sequence[T], most: int) -> list[R]:
    """What a function returns for each argument, at most so many at once; raises the first exception in their order.

    A request to stop interrupts it at once, though a call may wait for a server: Python's own pools would wait for it.
    """
    waiting = deque(enumerate(arguments))
    done: SimpleQueue[tuple[int, R | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                number, argument = waiting.popleft()
            except IndexError:
                return
            try:
                done.put((number, function(argument), None))
            except BaseException as error:
                done.put((number, None, error))

    for _ in range(min(most, len(arguments))):
        Thread(target=work, daemon=True).start()
    found: dict[int, tuple[R | None, BaseException | None]] = {}
    results: list[R] = []
    try:
        while len(results) < len(arguments):
            number, result, error = done.get()
            found[number] = result, error
            while len(results) in found:
                result, error = found.pop(len(results))
                if error is not None:
                    raise error
                results.append(result)  # type: ignore[arg-type]
        return results
    finally:
        waiting.clear()
