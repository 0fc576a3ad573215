"""Signals wait until a training step is whole, so that it can be saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Handles Ctrl-C, SIGTERM and SIGHUP after the block, where Python handles them at all.

    Outside the main thread, which alone handles signals, it does nothing.
    """
    received = []
    handlers = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
                number = getattr(signal, name, None)
                handler = signal.getsignal(number) if number else None
                if number and callable(handler):
                    handlers[number] = handler
                    signal.signal(number, lambda *arguments: received.append(arguments))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in received:
        handlers[number](number, frame)
