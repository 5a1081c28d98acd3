"""The worker: one fresh process in which one variant is set up and measured, on its parent's orders.

`python -m kit.measure.worker FD LIFELINE` speaks over the socket FD: it receives (order, arguments) and answers
("done", value) or ("raised", one line, traceback). It ends with everything it started when its parent does, however
the parent ended: the lifeline is a pipe that nobody writes to and that closes with the parent.
"""

import functools
import math
import os
import random
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

from kit.errors import UserError
from kit.measure import answers, memory
from kit.measure.work import Measurement, Peak, Setup
from kit.record.document import ExecutionProof

SHORTEST_BLOCK_S = 5e-4
"""Faster calls are timed in blocks of about this length: long against the clock, short against preemption."""
MOST_CALLS = 1_000_000
ONCE_MORE_BELOW_S = 0.1
"""Calls shorter than this are timed twice before the rounds: one preemption would show another speed."""

QUIET_STEP_S, QUIET_LIMIT_S = 5e-4, 0.2

_CORES = random.SystemRandom()
"""Draws apart from Python's own generator, which a variant may have seeded."""


class Work:
    """One variant at work. Its methods are the orders that a parent may give."""

    def __init__(self) -> None:
        self.prepared: Setup | None = None
        self.after_setup_mib = 0.0
        self.children: list[psutil.Process] = []

    def setup(self, packed: bytes) -> dict:
        """Unpack and call the variant's function. Return setup_s, after_setup_mib, and what Setup states."""
        import cloudpickle

        function, arguments = cloudpickle.loads(packed)
        start = time.perf_counter()
        made = function(*arguments)
        _synchronize()
        setup_s = time.perf_counter() - start
        if not callable(made) and not isinstance(made, Setup):
            raise TypeError(f"a variant returns the callable to time (or Setup); this one returned {made!r:.80}")
        self.prepared = made if isinstance(made, Setup) else Setup(made)
        self.after_setup_mib = memory.resident_mib()
        return {
            "setup_s": setup_s,
            "after_setup_mib": self.after_setup_mib,
            "not_timed": " ".join(self.prepared.not_timed.split()),
            "seeded": self.prepared.seeded,
            "made_s": float(self.prepared.made_s),
        }

    def first_call(self) -> dict:
        """Make the first call. Return {"first_call_s", "wall_s", "answer"}: its own seconds, and those of the clock."""
        wall_s, answer = _timed(self._call())
        return {"first_call_s": _own(answer, wall_s)[0], "wall_s": wall_s, "answer": _portable(answer)}

    def second_call(self) -> dict:
        """Make the second call, which is warm, and read its peak memory; repeat short calls until a block is full.

        Return {"peak_mib", "method", "resident_mib", "call_s", "times_itself"}: call_s are the seconds of a warm call.
        """
        self.children = psutil.Process().children(recursive=True)  # looked for once: it walks all of /proc
        memory.reset()
        call_s, answer = _timed(self._call())
        (peak_mib, method), resident_mib = memory.peak(), memory.resident_mib()
        times_itself, calls = isinstance(answer, Measurement), 1
        if times_itself and "peak_mib" in answer.metrics:
            peak_mib, method = answer.metrics["peak_mib"], "PSS of the process tree that the call started"
        if not times_itself and call_s < ONCE_MORE_BELOW_S:
            call_s = min(call_s, self.measure()["wall_s"])
        while not times_itself and call_s * calls < SHORTEST_BLOCK_S and calls < MOST_CALLS:
            calls = min(MOST_CALLS, max(2 * calls, int(SHORTEST_BLOCK_S / max(call_s, 1e-9))))
            call_s = min(call_s, self.measure(0, calls, 1, untimed_call=True)["wall_s"])  # preempted, it reads slow
        return {
            "peak_mib": max(0.0, peak_mib - self.after_setup_mib), "method": method,
            "resident_mib": resident_mib, "call_s": call_s, "times_itself": times_itself,
        }  # fmt: skip

    def warm_up(self, calls: int, blocks: int, untimed_call: bool) -> None:
        """Get as warm as the process that this one replaces: one call, and one measurement that is not kept where
        calls are short (the first measurement after a start differs from all that follow)."""
        self._call()()
        _synchronize()
        self.children = psutil.Process().children(recursive=True)
        if untimed_call:
            self.measure(0, calls, blocks, untimed_call)

    def measure(self, seed: int = 0, calls: int = 1, blocks: int = 1, untimed_call: bool = False) -> dict:
        """Take one measurement. Return {"wall_s", "cpu_s", "switches", "metrics"}, seconds per call.

        seed: of work that draws on chance. calls: timed together as one block; blocks: the measurement is the median
        of so many, since a single preemption multiplies a short block. The parent chooses one number of each for all
        variants of like speed. untimed_call: make one call before the clock starts, which finds caches that the other
        variants have emptied and threads asleep: its cost is not the work's, and would weigh more the fewer calls
        follow.
        """
        _change_core()
        call = self._call(seed)
        if untimed_call:
            call()
        cpu_s, switches = self._spent()
        times_s = []
        for _ in range(blocks):
            _synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                answer = call()
            _synchronize()
            times_s.append((time.perf_counter() - start) / calls)
        wall_s, metrics = _own(answer, statistics.median(times_s))
        after_s, after = self._spent()
        _become_quiet()
        cpu_s = (after_s - cpu_s) / (calls * blocks)
        return {"wall_s": wall_s, "cpu_s": cpu_s, "switches": after - switches, "metrics": metrics}

    def _spent(self) -> tuple[float, int]:
        """Return CPU seconds and involuntary context switches of this process and its living children until now."""
        seconds, switches = 0.0, 0
        for process in (psutil.Process(), *self.children):
            with suppress(psutil.Error):
                seconds += sum(process.cpu_times()[:2])
                switches += process.num_ctx_switches().involuntary
        return seconds, switches

    def last_answer(self) -> dict:
        """Make one more untimed call, after the rounds, with the first call's seed. Return {"answer"}."""
        return {"answer": _portable(self._call()())}

    def facts(self, with_versions: bool) -> tuple[ExecutionProof, Peak | None, dict[str, str]]:
        """Return the variant's own proof that it ran, the peak of the machine that bounds a call, and, where they are
        wanted, the versions of the packages in this interpreter."""
        proof, peak = self.prepared.execution_proof, self.prepared.peak
        proof = ExecutionProof(state="unverified") if proof is None else proof()
        peak = peak() if callable(peak) else peak
        if not isinstance(proof, ExecutionProof):
            raise TypeError(
                f"execution proof returns an ExecutionProof, by verified() or fell_back(); got {proof!r:.80}"
            )
        if not isinstance(peak, Peak | None):
            raise TypeError(f"peak is a Peak, or a function that returns one; got {peak!r:.80}")
        if not with_versions:
            return proof, peak, {}
        from kit.machine import fingerprint

        return proof, peak, fingerprint.versions() | {"python": fingerprint.machine().python}

    def _call(self, seed: int = 0) -> Callable[[], Any]:
        """Return the variant's call, with this seed where it takes one. A bare call pays nothing for it."""
        return functools.partial(self.prepared.call, seed) if self.prepared.seeded else self.prepared.call

    def close(self) -> None:
        """Let the variant close what it opened."""
        if self.prepared is not None and self.prepared.close is not None:
            self.prepared.close()


def _portable(returned: Any) -> Any:
    answer = returned.answer if isinstance(returned, Measurement) else returned
    if isinstance(returned, Measurement) and callable(answer):
        answer = answer()
    if answers.is_lazy(answer):
        kind = type(answer).__name__
        raise TypeError(
            f"the answer is a {kind}, which is not computed yet; compute it in the call, or nothing is timed"
        )
    return answers.portable(answer)


def _own(returned: Any, wall_s: float) -> tuple[float, dict[str, float]]:
    """Return the seconds and metrics of a call: its own where it times itself, else the clock's and none."""
    if not isinstance(returned, Measurement):
        return wall_s, {}
    try:
        seconds, metrics = (
            float(returned.seconds),
            {str(name): float(value) for name, value in returned.metrics.items()},
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"the seconds and metrics of a Measurement must be numbers: {error}") from None
    if not 0 <= seconds < math.inf:
        raise ValueError(f"the seconds of a Measurement must be 0 or more; got {seconds}")
    return seconds, metrics


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    _synchronize()
    start = time.perf_counter()
    answer = call()
    _synchronize()
    return time.perf_counter() - start, answer


def _change_core() -> None:
    """Go on on a core drawn by chance, then be free again. A scheduler leaves a process where it ran last, so one
    beside a busy neighbour would read slow in every round, which no order of visits cures."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORES.choice(sorted(cores))})
    os.sched_setaffinity(0, cores)


def _become_quiet() -> None:
    """Wait until this process rests: threads of a pool (ONNX Runtime's, OpenMP's) spin for up to 40 ms after a call, in
    the hope of another, and would slow whoever is measured next. It costs their own call nothing."""
    end = time.perf_counter() + QUIET_LIMIT_S
    while time.perf_counter() < end:
        spent = time.process_time()
        time.sleep(QUIET_STEP_S)
        if time.process_time() - spent < 0.5 * QUIET_STEP_S:
            return


def _synchronize() -> None:
    """Wait until the GPU has done what it was given, if a GPU library is in use."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if cupy is not None and cupy.cuda.is_available():
        cupy.cuda.runtime.deviceSynchronize()


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


def serve(connection: Connection) -> None:
    """Carry out orders until the parent says close or is gone."""
    work = Work()
    while True:
        try:
            order, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = ("done", getattr(work, order)(*arguments))
        except BaseException as error:
            answer = ("raised", one_line(error), "" if isinstance(error, UserError) else traceback.format_exc(limit=-8))
            if isinstance(error, SystemExit):
                raise
        connection.send_bytes(_packed(answer))
        if order == "close":
            return


def _packed(answer: tuple) -> bytes:
    import cloudpickle  # an answer may be of a class that a notebook defines

    try:
        return cloudpickle.dumps(answer)
    except Exception as error:
        return cloudpickle.dumps(("raised", f"its answer cannot be sent: {one_line(error)}", ""))


def one_line(error: BaseException) -> str:
    """Return the exception as its type and text in one line; a `UserError` is its sentence."""
    text, name = " ".join(str(error).split()), type(error).__name__
    return text if text and isinstance(error, UserError) else f"{name}: {text}" if text else name


if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))
