"""Runs Python in a process of its own, where a crash or a hang harms nobody."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile


def python(arguments: list[str], limit_s: float, program: str = "", **variables: str) -> tuple[int | None, str, str]:
    """Run Python with these arguments, finding the modules that this process finds; return its exit status (None: it
    took over `limit_s`), what it printed and what it wrote to stderr. All that it started ends with it.

    program: another interpreter, which finds its own modules alone. variables: of its environment."""
    path = "" if program else os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = os.environ | {"PYTHONPATH": path} | variables
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [program or sys.executable, "-P", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=printed,
            stderr=errors, start_new_session=True,
        )  # fmt: skip
        status = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(limit_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return status, *(file.seek(0) or file.read().decode(errors="replace") for file in (printed, errors))


def why_ended(status: int | None, errors: str, limit_s: float) -> str:
    """Return why such a process did not get through, as the end of a sentence: `… its process ended by SIGILL`."""
    if status is None:
        return f"over {limit_s:g} s"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return lines[-1][:200] if lines else f"its process ended with status {status}"
