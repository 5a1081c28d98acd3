"""The worker: one fresh process in which one variant is prepared, timed and weighed, on its parent's orders.

`python -m kit.measure.worker FD LIFELINE` speaks over the socket FD: it receives (order, arguments) and answers
("done", value) or ("raised", one line, traceback). It ends with everything it started when its parent does, however
the parent ended: the lifeline is a pipe that nobody writes to and that closes with the parent.
"""

import functools
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil

from kit.measure import answers, memory
from kit.measure.lifeline import end_with_parent
from kit.measure.work import Ceiling, Prepared, Reading
from kit.record.document import Engagement

SHORTEST_READING_S = 1e-3
"""Faster calls are repeated to fill about this time: long against the clock, short against preemption."""


QUIET_STEP_S, QUIET_LIMIT_S = 5e-4, 0.2

_CORES = random.SystemRandom()
"""Draws apart from Python's own generator, which a variant may have seeded."""


class Work:
    """One variant at work. Its methods are the orders that a parent may give."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self.standing_mib = 0.0
        self.repeats = 1
        self.children: list[psutil.Process] = []

    def prepare(self, packed: bytes) -> dict:
        """Unpack and call the variant's function. Return {"prepare_s", "standing_mib", "correctness_only"}."""
        import cloudpickle

        function, arguments = cloudpickle.loads(packed)
        start = time.perf_counter()
        made = function(*arguments)
        _synchronize()
        prepare_s = time.perf_counter() - start
        if not callable(made) and not isinstance(made, Prepared):
            raise TypeError(f"a variant returns the callable to time (or Prepared); this one returned {made!r:.80}")
        self.prepared = made if isinstance(made, Prepared) else Prepared(made)
        if not isinstance(why := self.prepared.correctness_only, str):
            raise TypeError(f"correctness_only says in words why no speed may be claimed; got {why!r:.60}")
        self.standing_mib = memory.resident_mib()
        return {"prepare_s": prepare_s, "standing_mib": self.standing_mib, "correctness_only": " ".join(why.split())}

    def cold(self) -> dict:
        """Make the first call. Return {"cold_s", "wall_s", "answer"}: its own seconds, and those of the clock."""
        wall_s, answer = _timed(self._call())
        return {"cold_s": _own_seconds(answer, wall_s), "wall_s": wall_s, "answer": _portable(answer)}

    def weigh(self) -> dict:
        """Make one untimed call and read its peak memory. Return peak, method, device memory, the answer, resident."""
        self.children = psutil.Process().children(recursive=True)  # looked for once: it walks all of /proc
        memory.reset()
        answer = self._call()()
        _synchronize()
        peak = memory.peak()
        return {
            "peak_mib": max(0.0, peak.mib - self.standing_mib),
            "method": peak.method,
            "device_mib": memory.device_mib(),
            "answer": _portable(answer),
            "resident_mib": memory.resident_mib(),
        }

    def resume(self, repeats: int) -> None:
        """Get as warm as the process that this one replaces, which took `repeats` calls a reading."""
        self.repeats = repeats
        self._call()()
        _synchronize()
        self.children = psutil.Process().children(recursive=True)

    def calibrate(self) -> dict:
        """Choose how many calls make one reading. Return {"repeats", "reading_s"}."""
        wall_s, answer = _timed(self._call())
        if not isinstance(answer, Reading):
            while wall_s * self.repeats < SHORTEST_READING_S and self.repeats < 1_000_000:
                self.repeats = min(1_000_000, max(2 * self.repeats, int(SHORTEST_READING_S / max(wall_s, 1e-9))))
                wall_s = self.read()["wall_s"]
        return {"repeats": self.repeats, "reading_s": wall_s * self.repeats}

    def read(self, seed: int = 0) -> dict:
        """Take one reading. Return {"wall_s", "cpu_s", "switches", "metrics"}, times of one call.

        seed: of the luck of work that is seeded.
        """
        _change_core()
        cpu_s, switches = _cpu_s(self.children), _switches()
        call = self._call(seed)
        _synchronize()
        start = time.perf_counter()
        for _ in range(self.repeats):
            answer = call()
        _synchronize()
        wall_s = (time.perf_counter() - start) / self.repeats
        read = {
            "wall_s": _own_seconds(answer, wall_s),
            "cpu_s": (_cpu_s(self.children) - cpu_s) / self.repeats,
            "switches": _switches() - switches,
            "metrics": _metrics(answer),
        }
        _become_quiet()
        return read

    def again(self) -> dict:
        """Make one more untimed call, after the rounds, with the first call's luck. Return {"answer"}."""
        return {"answer": _portable(self._call()())}

    def engagement(self) -> Engagement:
        """Return the variant's own proof that it ran, or `not stated`."""
        if self.prepared.engagement is None:
            return Engagement(state="not stated")
        proof = self.prepared.engagement()
        if not isinstance(proof, Engagement):
            raise TypeError(f"engagement returns an Engagement, by engaged() or fell_back(); got {proof!r:.80}")
        return proof

    def ceiling(self) -> Ceiling | None:
        """Return which ceiling of the machine bounds a call, or None where the variant does not say."""
        said = self.prepared.ceiling
        bound = said() if callable(said) else said
        if bound is not None and not isinstance(bound, Ceiling):
            raise TypeError(f"ceiling is a Ceiling, or a function that returns one; got {bound!r:.80}")
        return bound

    def _call(self, seed: int = 0) -> Callable[[], Any]:
        """Return the variant's call, with this luck where it draws on chance. A bare call pays nothing for it."""
        return functools.partial(self.prepared.call, seed) if self.prepared.seeded else self.prepared.call

    def close(self) -> None:
        """Let the variant close what it opened."""
        if self.prepared is not None and self.prepared.close is not None:
            self.prepared.close()


def _portable(returned: Any) -> Any:
    answer = returned.answer if isinstance(returned, Reading) else returned
    if isinstance(returned, Reading) and callable(answer):
        answer = answer()
    if answers.is_lazy(answer):
        kind = type(answer).__name__
        raise TypeError(
            f"the answer is a {kind}, which is not computed yet; compute it in the call, or nothing is timed"
        )
    return answers.portable(answer)


def _own_seconds(returned: Any, wall_s: float) -> float:
    if not isinstance(returned, Reading):
        return wall_s
    seconds = _number("the seconds", returned.seconds)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"the seconds of a Reading must be 0 or more; got {seconds}")
    return seconds


def _metrics(returned: Any) -> dict[str, float]:
    if not isinstance(returned, Reading):
        return {}
    return {str(name): _number(f"the metric {name!r}", value) for name, value in returned.metrics.items()}


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} of a Reading must be a number; got {value!r:.60}") from None


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


def _cpu_s(children: list[psutil.Process]) -> float:
    """Return the CPU seconds spent by this process and its living children."""
    spent = time.process_time()
    for child in children:
        try:
            spent += sum(child.cpu_times()[:2])
        except psutil.Error:
            continue
    return spent


def _switches() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


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
            answer = ("raised", one_line(error), traceback.format_exc(limit=-8))
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
    """Return the exception as its type and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))
