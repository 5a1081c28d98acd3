"""A session: all variants once per round, in a fresh random order, until each is decided or the budget is spent."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from kit.measure import statistics
from kit.measure.variant import VariantProcess, choose_calls
from kit.record import document
from kit.record.document import Effect


@dataclass(frozen=True)
class Rules:
    """When rounds end. time_budget_s: of the rounds; equivalence_margin: largest difference of equals, as 0.03."""

    time_budget_s: float
    equivalence_margin: float
    max_rounds: int


RESTART_SHARE, LARGEST_RESTART_SHARE = 0.4, 0.65
"""Shares of the time budget that may go into restarting all processes; the larger where four sets take it, since under
four only large differences count."""
OVERTIME = 3
"""Up to so many times the budget may be spent to reach the smallest number of rounds that decides anything."""
MAX_STARTS, SHORTEST_SET = 10, 5
"""Sets of fresh processes in a session; rounds in each after the first, at least: ten in more than four sets."""


def most_restarts(time_budget_s: float, restart_s: float) -> int:
    """Return how often all processes are restarted in a budget, if a restart takes `restart_s` seconds."""
    enough, affordable = statistics.MIN_SETS - 1, int(RESTART_SHARE * time_budget_s / max(restart_s, 1e-6))
    if affordable < enough and enough * restart_s <= LARGEST_RESTART_SHARE * time_budget_s:
        affordable = enough
    return min(MAX_STARTS - 1, affordable)


def fitting(rules: Rules, round_s: float, restart_s: float) -> tuple[int, int]:
    """Return the rounds and restarts that fit into the budget: as many restarts as leave each set its rounds."""
    for restarts in range(most_restarts(rules.time_budget_s, restart_s), -1, -1):
        left_s = rules.time_budget_s - restarts * restart_s
        rounds = max(1, min(rules.max_rounds, int(left_s / max(round_s, 1e-6))))
        if rounds >= statistics.MIN_ROUNDS + restarts * _shortest_set(restarts):
            break
    return rounds, restarts


def rounds_of_a_set(rounds: int, restarts: int) -> int:
    """Return after how many rounds processes are restarted, at the earliest after the first ten."""
    share = math.ceil(rounds / (1 + restarts))
    if restarts and share < statistics.MIN_ROUNDS:  # the first set is longer
        share = (rounds - statistics.MIN_ROUNDS) // restarts
    return max(_shortest_set(restarts), share)


def _shortest_set(restarts: int) -> int:
    return SHORTEST_SET if restarts < statistics.MIN_SETS else statistics.MIN_ROUNDS


class Session:
    """The variants that are measured together (the baseline, its control A/A, and the others) and their rounds."""

    def __init__(
        self, variants: list[VariantProcess], rules: Rules, seed: int, restart: Callable[[list[VariantProcess]], None]
    ):
        """restart: replaces the processes of these variants, in this order, by fresh ones that are as warm."""
        self.variants = variants
        self.rules = rules
        self.order: list[list[int]] = []
        self.interim_analyses: list[int] = []
        self.starts = [0]
        self.load: list[float | None] = []
        self.steal: list[float | None] = []
        self.stopped = "interrupted"
        self.round_s: float | None = None
        """Wall-clock seconds of a round, the mean so far; more than the measurements' where work times itself."""
        self._restart = restart
        self._restarting_s = 0.0
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._half_width: float | None = None

    def run(self, report: Callable[[str, int, int, float | None], None]) -> None:
        """Take rounds, with fresh processes after each equal share of them, until all is decided or time is up.

        report(variant, round, rounds, half width) is called before each measurement.
        """
        start, planned, share, restarts = time.monotonic(), [], math.inf, 0
        choose_calls(self.variants, self._random)
        rounds, _ = fitting(self.rules, sum(variant.measurement_s for variant in self.variants), self._restart_s())
        while True:
            self._round(lambda name, rounds=rounds: report(name, len(self.order), rounds, self._half_width))
            taken, spent = len(self.order), time.monotonic() - start
            self.round_s = round_s = (spent - self._restarting_s) / taken
            if self.variants[0].failed or self.variants[1].failed:
                self.stopped = "baseline failed"
                return
            if taken == statistics.MIN_ROUNDS:  # the real cost of a round is known now
                rounds, restarts = fitting(self.rules, round_s, self._restart_s())
                rounds = max(taken, rounds)
                share = rounds_of_a_set(rounds, restarts)
                planned = statistics.plan_interim_analyses(rounds, share if restarts else 0)
            last = self._out_of_time(spent, round_s) or taken in (self.rules.max_rounds, *planned[-1:])
            if taken in planned or last:
                self.interim_analyses.append(taken)
                if self._decided():
                    self.stopped = "settled"
                    return
                if last:
                    self.stopped = "rounds" if taken == self.rules.max_rounds else "budget"
                    return
            most = min(restarts, most_restarts(self.rules.time_budget_s, self._restart_s()))
            if taken - self.starts[-1] >= share and len(self.starts) <= most:
                self._restart_all(spent)

    def found(self) -> document.Session:
        """Return what the session has found so far."""
        return document.Session(
            variants=[variant.name for variant in self.variants],
            order=self.order,
            interim_analyses=self.interim_analyses,
            starts=self.starts,
            calls={variant.name: variant.calls for variant in self.variants},
            blocks={variant.name: variant.blocks for variant in self.variants},
            untimed_call=[variant.name for variant in self.variants if variant.untimed_call],
            measurements={variant.name: variant.columns() for variant in self.variants},
            noise=self.noise(),
            variance="seeds" if any(variant.seeded for variant in self.variants) else "machine",
            noise_floor=math.expm1(floor) if (floor := self.floor()) is not None else None,
            stopped=self.stopped,
            load=self.load,
            steal=self.steal,
            round_s=self.round_s,
            restart_s=self._restart_s(),
        )

    def effect(self, variant: VariantProcess) -> Effect | None:
        """Return the paired ratio of `variant` to the baseline over the rounds so far."""
        return statistics.effect(statistics.log_ratios(self.variants[0].wall_s(), variant.wall_s()), self.starts)

    def noise(self) -> Effect | None:
        """Return the baseline's ratio to itself."""
        return self.effect(self.variants[1])

    def floor(self) -> float | None:
        """Return the smallest log-ratio that can count so far."""
        return statistics.noise_floor(self.noise(), statistics.effective_starts(self.starts, len(self.order)))

    def _out_of_time(self, spent_s: float, round_s: float) -> bool:
        """Return whether the next round would pass the budget. What was spent on fewer rounds than can decide anything
        would be lost, so up to that number the budget may be overrun."""
        needed_s = statistics.MIN_ROUNDS * round_s
        overrun = len(self.order) < statistics.MIN_ROUNDS and needed_s <= OVERTIME * self.rules.time_budget_s
        return not overrun and spent_s + round_s > self.rules.time_budget_s

    def _restart_s(self) -> float:
        if len(self.starts) > 1:
            return self._restarting_s / (len(self.starts) - 1)
        baseline, control, *others = self.variants
        # what the first start of a program did once (a model trained, a file converted) is not done again
        return 2 * min(baseline.start_s, control.start_s) + sum(v.start_s for v in others if not v.failed)

    def _restart_all(self, spent_s: float) -> None:
        if spent_s + self._restart_s() > self.rules.time_budget_s:
            return
        began = time.monotonic()
        choose_calls(self.variants, self._random)
        self._restart([self.variants[i] for i in self._random.permutation(len(self.variants))])
        self._restarting_s += time.monotonic() - began
        self.starts.append(len(self.order))

    def _round(self, report: Callable[[str], None]) -> None:
        alive = [i for i, variant in enumerate(self.variants) if not variant.failed]
        visits = [int(i) for i in self._random.permutation(alive)]
        # one of the baseline and all variants, one of A/A
        seed, control_seed = map(int, np.random.default_rng([self._seed, len(self.order)]).integers(1, 2**31, 2))
        self.order.append(visits)
        before = psutil.cpu_times()
        for position in visits:
            report(self.variants[position].name)
            self.variants[position].measure(control_seed if position == 1 else seed)
        self.load.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else None)
        spent = [after - at for after, at in zip(psutil.cpu_times(), before, strict=True)]
        self.steal.append(max(0.0, spent[7]) / sum(spent[:8]) if len(spent) > 8 and sum(spent[:8]) > 0 else None)

    def _decided(self) -> bool:
        """Analyse the data: has every variant that speed can judge its verdict, and a speed-up known well enough?"""
        floor = self.floor()
        timed = [v for v in self.variants[2:] if not v.failed and not (v.check and v.check.state == "failed")]
        effects = [self.effect(variant) for variant in timed]
        self._half_width = max((h for e in effects if (h := statistics.half_width(e)) is not None), default=None)
        margin = self.rules.equivalence_margin
        decided = all(statistics.verdict(e, floor, margin) != "inconclusive" for e in effects)
        return decided and (self._half_width or 0.0) <= statistics.PRECISION
