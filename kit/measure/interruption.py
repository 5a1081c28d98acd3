"""Ctrl-C, held back where it would leave something half done: a worker that nobody knows of, a record not written."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done; where an interruption is under way already, it is the same wish."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    under_way = isinstance(sys.exception(), KeyboardInterrupt)
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if pressed and not under_way:
        raise KeyboardInterrupt
