"""Signals wait until a training step is whole, so that it can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

Handler = Callable | int  # a function, SIG_DFL or SIG_IGN


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

    def deferred(handler: Handler) -> Handler:
        if callable(handler):
            return lambda *arguments: received.append((handler, arguments))
        return handler

    try:
        with handlers_replaced(deferred):
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

    def another(handler: Handler) -> Handler:
        return (lambda *arguments: handler(*arguments)) if callable(handler) else handler

    with handlers_replaced(another):
        yield


@contextlib.contextmanager
def handlers_replaced(replacement: Callable[[Handler], Handler]) -> Iterator[None]:
    """Other handlers of Ctrl-C, SIGTERM and SIGHUP within the block, and those of before after it.

    With the same ones in the block it undoes what libraries do without Python's knowledge, as
    TensorFlow does for a group of processes. Outside the main thread it does nothing.

    Args:
        replacement: of a handler, as `signal.getsignal` has it.
    """
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
                number = getattr(signal, name, None)
                handler = signal.getsignal(number) if number else None
                if number and handler is not None:  # else it is not Python's
                    before[number] = handler
                    signal.signal(number, replacement(handler))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
