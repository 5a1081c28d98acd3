"""Rounds: every variant once a round, in a fresh random order, until all is settled or the budget is spent."""

import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kit.measure import statistics
from kit.measure.process import Worker, WorkerFailed
from kit.measure.work import Ceiling
from kit.record.document import Effect, Engagement, Memory, Quality, Readings, Session


@dataclass(eq=False)
class Seat:
    """One variant's place at the table: its worker while it lives, and all that is known of it so far."""

    name: str
    packed: bytes
    worker: Worker | None = None
    failed: str = ""
    correctness_only: str = ""
    """Why it takes no part in the rounds."""
    prepare_s: float | None = None
    cold_s: float | None = None
    resident_mib: float = 0.0
    repeats: int = 1
    reading_s: float = 0.0
    start_s: float = 0.0
    """Seconds to have a fresh process prepared and warm."""
    memory: Memory | None = None
    quality: Quality | None = None
    engagement: Engagement | None = None
    ceiling: Ceiling | None = None
    readings: list[dict] = field(default_factory=list)
    """As the worker gives them: wall_s, cpu_s, switches, metrics; one a round."""

    def order(self, name: str, *arguments):
        """Give the worker an order; if it cannot go on, note why, end it, and return None."""
        if self.failed or self.worker is None:
            return None
        try:
            return self.worker.order(name, *arguments)
        except WorkerFailed as failure:
            self.fail(failure)
            return None

    def fail(self, failure: WorkerFailed) -> None:
        """Note the reason and end what is left of the worker. The others go on."""
        self.failed = failure.reason
        if failure.output.strip():  # into the notebook and the run's log: the row has room for one line only
            print(f"{self.name} failed: {failure.reason}\n{failure.output.rstrip()}", file=sys.stderr)
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def leave(self) -> None:
        """End the worker; what is known stays."""
        if self.worker is not None:
            self.worker.end()
            self.worker = None

    def wall_s(self) -> list[float]:
        """Return the seconds of each round so far."""
        return [reading["wall_s"] for reading in self.readings]


def leave_together(seats: list[Seat]) -> None:
    """End the workers of all seats at the same time: one that has much to close must not hold up the others."""
    with ThreadPoolExecutor(max(1, len(seats))) as pool:
        list(pool.map(Seat.leave, seats))


@dataclass(frozen=True)
class Rules:
    """When rounds end. seconds: budget; target: largest difference that may be called same, as 0.03."""

    seconds: float
    target: float
    max_rounds: int


RENEWAL_SHARE = 0.4
"""Share of the time budget that may go into starting all processes afresh."""
OVERTIME = 3
"""Up to so many times the budget may be spent to reach the smallest number of rounds that resolves anything."""
MAX_STARTS = 10
"""Sets of fresh processes in one session."""


class Table:
    """The seats of one session (the baseline, its control A/A, and one or more variants) and their rounds."""

    def __init__(self, seats: list[Seat], rules: Rules, seed: int, renew: Callable[[list[Seat]], None]):
        """renew: starts the processes of these seats afresh, as warm as they were."""
        self.seats = seats
        self.rules = rules
        self.order: list[list[int]] = []
        self.looks: list[int] = []
        self.starts = [0]
        self.load: list[float | None] = []
        self.steal: list[float | None] = []
        self.stopped = "interrupted"
        self._renew = renew
        self._renewing_s = 0.0
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._half_width: float | None = None
        self.round_s: float | None = None
        """Wall-clock seconds of a round, the mean so far; more than the readings' where work times itself."""

    def play(self, tell: Callable[[str, int, int, float | None], None]) -> None:
        """Take rounds, with fresh processes after each equal share of them, until all is settled or time is up.

        tell(variant, round, rounds, half width) is called before each reading.
        """
        start, planned, share = time.monotonic(), [], math.inf
        rounds = self._affordable(sum(seat.reading_s for seat in self.seats))
        while True:
            self._round(lambda name, rounds=rounds: tell(name, len(self.order), rounds, self._half_width))
            taken, spent = len(self.order), time.monotonic() - start
            self.round_s = round_s = (spent - self._renewing_s) / taken
            if self.seats[0].failed or self.seats[1].failed:
                self.stopped = "baseline failed"
                return
            if taken == statistics.MIN_ROUNDS:  # the real cost of a round is known now
                rounds = max(taken, self._affordable(round_s))
                planned = statistics.plan_looks(rounds)
                share = max(statistics.MIN_ROUNDS, math.ceil(rounds / (1 + self._most_renewals())))
            last = self._out_of_time(spent, round_s) or taken in (self.rules.max_rounds, *planned[-1:])
            if taken in planned or last:
                self.looks.append(taken)
                if self._settled():
                    self.stopped = "settled"
                    return
                if last:
                    self.stopped = "rounds" if taken == self.rules.max_rounds else "budget"
                    return
            if taken - self.starts[-1] >= share and len(self.starts) <= self._most_renewals():
                self._start_afresh(spent)

    def session(self) -> Session:
        """Return what the session has found so far."""
        return Session(
            variants=[seat.name for seat in self.seats],
            order=self.order,
            looks=self.looks,
            starts=self.starts,
            readings={seat.name: _columns(seat.readings) for seat in self.seats},
            noise=self.noise(),
            noise_floor=math.expm1(floor) if (floor := self.floor()) is not None else None,
            stopped=self.stopped,
            load=self.load,
            steal=self.steal,
        )

    def effect(self, seat: Seat) -> Effect | None:
        """Return the paired ratio of `seat` to the baseline over the rounds so far."""
        return statistics.effect(statistics.log_ratios(self.seats[0].wall_s(), seat.wall_s()), self.starts)

    def noise(self) -> Effect | None:
        """Return the baseline's ratio to itself."""
        return self.effect(self.seats[1])

    def floor(self) -> float | None:
        """Return the smallest log-ratio that can count so far."""
        return statistics.noise_floor(self.noise(), statistics.effective_starts(self.starts, len(self.order)))

    def _affordable(self, round_s: float) -> int:
        renewing_s = self._most_renewals() * self._renewal_s()
        return max(1, min(self.rules.max_rounds, int((self.rules.seconds - renewing_s) / max(round_s, 1e-6))))

    def _out_of_time(self, spent_s: float, round_s: float) -> bool:
        """Return whether the next round would pass the budget. What was spent on fewer rounds than can resolve
        anything would be lost, so up to that number the budget may be overrun."""
        needed_s = statistics.MIN_ROUNDS * round_s
        overrun = len(self.order) < statistics.MIN_ROUNDS and needed_s <= OVERTIME * self.rules.seconds
        return not overrun and spent_s + round_s > self.rules.seconds

    def _renewal_s(self) -> float:
        if len(self.starts) > 1:
            return self._renewing_s / (len(self.starts) - 1)
        return sum(seat.start_s for seat in self.seats if not seat.failed)

    def _most_renewals(self) -> int:
        affordable = RENEWAL_SHARE * self.rules.seconds / max(self._renewal_s(), 1e-6)
        return min(MAX_STARTS - 1, int(affordable))

    def _start_afresh(self, spent_s: float) -> None:
        if spent_s + self._renewal_s() > self.rules.seconds:
            return
        began = time.monotonic()
        self._renew(self.seats)
        self._renewing_s += time.monotonic() - began
        self.starts.append(len(self.order))

    def _round(self, tell: Callable[[str], None]) -> None:
        alive = [i for i, seat in enumerate(self.seats) if not seat.failed]
        visits = [int(i) for i in self._random.permutation(alive)]
        lucks = self._seeds(len(self.order))
        self.order.append(visits)
        cpu = _cpu_times()
        for position in visits:
            seat = self.seats[position]
            tell(seat.name)
            reading = seat.order("read", lucks[seat is self.seats[1]])
            if reading is not None:
                seat.readings.append(reading)
        self.load.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
        self.steal.append(_steal_share(cpu, _cpu_times()))

    def _seeds(self, number: int) -> tuple[int, int]:
        """Return the seeds of a round: of the baseline and all variants, and of A/A."""
        first, second = np.random.default_rng([self._seed, number]).integers(1, 2**31, 2)
        return int(first), int(second)

    def _settled(self) -> bool:
        """Look at the data: has every variant that speed can judge its verdict, and a speed-up known well enough?"""
        floor = self.floor()
        open_seats = [s for s in self.seats[2:] if not s.failed and not (s.quality and s.quality.state == "broken")]
        effects = [self.effect(seat) for seat in open_seats]
        self._half_width = max((h for e in effects if (h := statistics.half_width(e)) is not None), default=None)
        resolved = all(statistics.verdict(e, floor, self.rules.target) != "unresolved" for e in effects)
        return resolved and (self._half_width or 0.0) <= statistics.PRECISION


def _columns(readings: list[dict]) -> Readings:
    names = dict.fromkeys(name for reading in readings for name in reading["metrics"])
    return Readings(
        wall_s=[reading["wall_s"] for reading in readings],
        cpu_s=[reading["cpu_s"] for reading in readings],
        switches=[reading["switches"] for reading in readings],
        metrics={name: [reading["metrics"].get(name) for reading in readings] for name in names},
    )


def _cpu_times():
    import psutil

    return psutil.cpu_times()


def _steal_share(before, after) -> float | None:
    if not hasattr(before, "steal"):
        return None
    total = sum(after[:8]) - sum(before[:8])  # guest times are within user's already
    return max(0.0, after.steal - before.steal) / total if total > 0 else 0.0
