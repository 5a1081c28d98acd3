"""A process that ends with its parent, however the parent ended: it holds a pipe that closes with it."""

import os
import signal
import sys
import threading


def end_with_parent(lifeline: int) -> None:
    """Have this process and its group killed when the pipe `lifeline` closes: by the kernel where it can, since code
    that holds Python's lock for long would keep a thread from it."""
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_wait_and_die, args=(lifeline,), daemon=True).start()


def _wait_and_die(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns at the parent's end only
    os.killpg(os.getpgid(0), signal.SIGKILL)
