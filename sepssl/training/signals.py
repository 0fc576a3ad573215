"""Signals wait until a training step is whole, so that it can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextlib.contextmanager
def signals_deferred(instead_of: tuple[type[Exception], ...] = ()) -> Iterator[list]:
    """Handles Ctrl-C, SIGTERM and SIGHUP after the block, where Python handles them at all.

    Outside the main thread, which alone handles signals, it does nothing.

    Args:
        instead_of: exceptions of the block that do not matter if there was a signal; with others,
            signals are forgotten.

    Yields:
        A list that is not empty any more when there was a signal.
    """
    received: list[tuple[Callable, tuple]] = []
    try:
        with _handlers_replaced(lambda handler: lambda *it: received.append((handler, it))):
            yield received
    except instead_of:
        if not received:
            raise
    for handler, arguments in received:
        handler(*arguments)


@contextlib.contextmanager
def unsaved_work() -> Iterator[None]:
    """Other handlers of Ctrl-C, SIGTERM and SIGHUP within the block, which do the same.

    One who would end the process when its own handler has not been called for a while, as
    `sepssl-train` does, finds that it is not the handler and lets the block save its work.
    """
    with _handlers_replaced(lambda handler: lambda *arguments: handler(*arguments)):
        yield


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Sets again after the block what Ctrl-C, SIGTERM and SIGHUP did before it.

    For libraries that replace handlers without Python's knowledge, as TensorFlow does for a group
    of processes. Outside the main thread it does nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name, None) for name in _NAMES]
        before = {number: signal.getsignal(number) for number in numbers if number}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)


@contextlib.contextmanager
def _handlers_replaced(replacement: Callable[[Callable], Callable]) -> Iterator[None]:
    handlers = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                handler = signal.getsignal(number) if number else None
                if number and callable(handler):
                    handlers[number] = handler
                    signal.signal(number, replacement(handler))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
