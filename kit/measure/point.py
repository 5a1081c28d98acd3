"""One comparison at one size: bring the variants up, let them take rounds, conclude. Survives being cut short."""

import statistics as plain
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kit.machine.fingerprint import available_mib
from kit.measure import reach, statistics
from kit.measure.interruption import undisturbed
from kit.measure.process import Start
from kit.measure.progress import Progress
from kit.measure.rounds import Rules, Seat, Table, leave_together
from kit.record.document import CONTROL, Memory, Point, Quality, Variant

MEMORY_SHARE = 0.8
"""Share of the available memory that all variants together may take; above it they live in pairs."""

Check = Callable[[Any, Any], Quality | bool]


@dataclass(frozen=True)
class Skipped:
    """Why a variant is not run, and what to do to have it. state: skipped, or failed if it could not even be sent."""

    reason: str
    remedy: str
    state: Literal["skipped", "failed"] = "skipped"


class Measurement:
    """The comparison at one size while it is measured. `point()` says at any time what is known so far."""

    def __init__(
        self,
        size: float | None,
        variants: dict[str, bytes | Skipped],
        baseline: str,
        *,
        rules: Rules,
        seed: int,
        start: Start,
        check: Check | None,
        progress: Progress,
    ):
        """variants: by name the packed (function, arguments), or why it is skipped; check: the quality check."""
        self.size, self.baseline, self.rules, self.seed = size, baseline, rules, seed
        self._start, self._check, self._progress = start, check, progress
        self._skipped = {name: value for name, value in variants.items() if isinstance(value, Skipped)}
        packed = {name: value for name, value in variants.items() if not isinstance(value, Skipped)}
        self._names = list(variants)
        self._seats = {name: Seat(name, work) for name, work in packed.items()}
        self._control = Seat(CONTROL, packed[baseline])
        self._reference: Any = None
        self._tables: list[Table] = []
        self._together = True
        self._began = time.monotonic()
        self._seconds: float | None = None

    def run(self) -> None:
        """Measure. Whatever happens, no worker is left behind."""
        try:
            if self._bring_up_all():
                self._play(list(self._others()), self.rules)
            else:
                self._together = False
                self._end_all()
                self._in_pairs()
        finally:
            self._end_all()
            self._reference = None
            self._seconds = time.monotonic() - self._began

    def point(self) -> Point:
        """Return what is known so far."""
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._began
        return Point(
            size=self.size,
            seed=self.seed,
            together=self._together,
            seconds=seconds,
            sessions=[table.session() for table in self._tables],
            variants=[self._variant(name) for name in self._names],
        )

    def _others(self) -> list[Seat]:
        return [seat for name, seat in self._seats.items() if name != self.baseline]

    def _everyone(self) -> list[Seat]:
        return [self._seats[self.baseline], self._control, *self._others()]

    def _bring_up_all(self) -> bool:
        """Prepare everyone; return False as soon as it is clear that memory does not hold all at once."""
        room = MEMORY_SHARE * available_mib()
        everyone = self._everyone()
        for number, seat in enumerate(everyone):
            known = [s for s in everyone[:number] if s.memory and s.worker]
            hungriest = max((s.resident_mib + s.memory.peak_mib for s in known), default=0.0)
            if number > 2 and sum(s.resident_mib for s in known) + hungriest > room:
                return False
            self._bring_up(seat)
            if seat.name in (self.baseline, CONTROL) and seat.failed:
                return True
        return True

    def _in_pairs(self) -> None:
        others = self._others()
        rules = Rules(self.rules.seconds / max(1, len(others)), self.rules.target, self.rules.max_rounds)
        for name in [seat.name for seat in others]:
            seats = [self._fresh(self.baseline), self._fresh(CONTROL), self._fresh(name)]
            for seat in seats:
                self._bring_up(seat)
            self._play(seats[2:], rules)
            self._end_all()

    def _fresh(self, name: str) -> Seat:
        """Put a new seat in the place of the one called `name`: a session's readings stay with its own seats."""
        if name == CONTROL:
            self._control = Seat(CONTROL, self._control.packed)
            return self._control
        self._seats[name] = Seat(name, self._seats[name].packed)
        return self._seats[name]

    def _bring_up(self, seat: Seat) -> None:
        """Start a worker, prepare, make the cold call, weigh, and check the first two answers. What is there for
        correctness only is concluded at once: idle ranks need not wait beside the rounds of the others."""
        self._progress.preparing(self.size, seat.name)
        began = time.monotonic()
        with undisturbed():
            seat.worker = self._start()
        prepared = seat.order("prepare", seat.packed)
        up_s = time.monotonic() - began
        cold = seat.order("cold")
        if cold is None:
            return
        seat.prepare_s, seat.cold_s = prepared["prepare_s"], cold["cold_s"]
        seat.start_s = up_s + cold["wall_s"]  # its answer is not worked out again by a fresh process
        seat.correctness_only = prepared["correctness_only"]
        if seat.name == self.baseline:
            self._reference = cold["answer"]
        quality = self._quality(seat, cold["answer"])
        del cold
        weighed = seat.order("weigh")
        if weighed is None:
            return
        if quality.state in ("held", "reference"):
            quality = self._quality(seat, weighed["answer"], again="second")
        seat.quality = quality
        seat.resident_mib = weighed["resident_mib"]
        seat.memory = Memory(
            peak_mib=weighed["peak_mib"],
            standing_mib=prepared["standing_mib"],
            method=weighed["method"],
            device_peak_mib=weighed["device_mib"],
        )
        if seat.correctness_only:
            if seat.name not in (self.baseline, CONTROL):
                self._conclude(seat)
                seat.leave()
            return
        calibrated = seat.order("calibrate")
        if calibrated is not None:
            seat.repeats, seat.reading_s = calibrated["repeats"], calibrated["reading_s"]

    def _renew(self, seats: list[Seat]) -> None:
        """Replace the processes of these seats by fresh ones, started side by side and prepared in turn."""
        alive = [seat for seat in seats if not seat.failed]
        leave_together(alive)
        for seat in alive:
            with undisturbed():
                seat.worker = self._start()
        for seat in alive:
            self._progress.preparing(self.size, seat.name)
            seat.order("prepare", seat.packed)
            seat.order("resume", seat.repeats)

    def _quality(self, seat: Seat, answer: Any, again: str = "") -> Quality:
        """Check one answer against the baseline's first; again: which one it is, if not the first. A check
        that breaks is `unchecked`, never a pass."""
        is_reference = seat.name == self.baseline
        if self._check is None:
            state = "reference" if is_reference else "unchecked"
            return Quality(state=state, measure="not asked", asked=False)
        try:
            found = _found(self._check(answer, self._reference))
        except Exception as error:
            found = Quality(state="unchecked", measure="the check", note=f"it raised {type(error).__name__}: {error}")
        if is_reference and not (again and found.state == "broken"):
            return Quality(state="reference", measure=found.measure, value=found.value, bound=found.bound)
        if again and found.state == "broken":
            note = f"the {again} answer is not the first: {found.note}"
            return Quality(state="broken", measure=found.measure, value=found.value, bound=found.bound, note=note)
        return found

    def _play(self, others: list[Seat], rules: Rules) -> None:
        baseline = self._seats[self.baseline]
        if baseline.failed or self._control.failed:
            return
        taking_part = [seat for seat in others if not seat.failed and not seat.correctness_only]
        seats = [baseline, self._control, *taking_part]
        if not baseline.correctness_only:
            table = Table(seats, rules, self.seed + len(self._tables), self._renew)
            self._tables.append(table)
            table.play(self._progress.measuring)
        for seat in seats:
            self._conclude(seat)

    def _conclude(self, seat: Seat) -> None:
        """Check a last answer too, for work that only began well is not work well done, and ask for the proof."""
        if seat.quality is not None and seat.quality.state in ("held", "reference"):
            last = seat.order("again")
            if last is not None:
                seat.quality = self._quality(seat, last["answer"], again="last")
        seat.engagement = seat.order("engagement")
        seat.ceiling = seat.order("ceiling")

    def _end_all(self) -> None:
        """End all workers; if a second Ctrl-C interrupts that, without waiting for any."""
        try:
            leave_together(self._everyone())
        except BaseException:
            with undisturbed():
                for seat in self._everyone():
                    if seat.worker is not None:
                        seat.worker.kill()
            raise

    def _table_of(self, seat: Seat) -> int | None:
        return next((i for i, table in enumerate(self._tables) if seat in table.seats), None)

    def _variant(self, name: str) -> Variant:
        if name in self._skipped:
            why = self._skipped[name]
            return Variant(name=name, state=why.state, verdict=why.state, reason=why.reason, remedy=why.remedy)
        seat, position = self._seats[name], self._table_of(self._seats[name])
        known = dict(
            name=name,
            session=position,
            prepare_s=seat.prepare_s,
            cold_s=seat.cold_s,
            repeats=seat.repeats,
            memory=seat.memory,
            quality=seat.quality,
            engagement=seat.engagement,
        )
        if seat.failed:
            return Variant(**known, state="failed", verdict="failed", reason=seat.failed)
        if position is None and seat.engagement:
            return Variant(**known, state="measured", **self._without_rounds(seat))
        if position is None or not seat.readings:
            return Variant(**known, **self._never_measured())
        table, readings = self._tables[position], seat.readings
        known |= dict(state="measured", warm_s=plain.median(seat.wall_s()), metrics=_medians(readings))
        known |= dict(reach=reach.of(seat.ceiling, known["metrics"]))
        if name == self.baseline:
            return Variant(**known, verdict="baseline")
        verdict, reason = self._verdict(seat, table)
        baseline = table.seats[0]
        saving = plain.median(baseline.wall_s()) - known["warm_s"]
        extra = _once_s(seat) - _once_s(baseline)
        return Variant(
            **known,
            effect=table.effect(seat),
            verdict=verdict,
            reason=reason,
            breakeven_calls=statistics.breakeven_calls(extra, saving) if saving > 0 else None,
        )

    def _never_measured(self) -> dict:
        for seat in (self._seats[self.baseline], self._control):
            if seat.failed:
                reason = f"nothing to compare it with: {self.baseline} failed: {seat.failed}"
                return dict(state="skipped", verdict="unresolved", reason=reason)
        return dict(state="skipped", verdict="skipped", reason="it was interrupted before its turn")

    def _without_rounds(self, seat: Seat) -> dict:
        """Return verdict and reason of a variant that was not timed because it, or the baseline, said so."""
        baseline = self._seats[self.baseline]
        if seat is baseline:
            return dict(verdict="baseline", reason=f"correctness only: {seat.correctness_only}")
        if unsound := self._unsound(seat, baseline, self._control):
            return dict(zip(("verdict", "reason"), unsound, strict=True))
        if seat.correctness_only:
            return dict(verdict="correctness only", reason=seat.correctness_only)
        reason = f"no speed is claimed of {self.baseline}: {baseline.correctness_only}"
        return dict(verdict="unresolved", reason=reason)

    def _verdict(self, seat: Seat, table: Table) -> tuple[str, str]:
        """Return the verdict and its reason: quality and engagement first, then speed."""
        if unsound := self._unsound(seat, *table.seats[:2]):
            return unsound
        verdict = statistics.verdict(table.effect(seat), table.floor(), self.rules.target)
        return verdict, self._why_unresolved(table) if verdict == "unresolved" else ""

    def _unsound(self, seat: Seat, baseline: Seat, control: Seat) -> tuple[str, str] | None:
        """Return verdict and reason where answers or engagement do not allow any claim; None where they do."""
        if seat.quality and seat.quality.state == "broken":
            return "invalid", f"its answer is not good enough: {seat.quality.note or _against_bound(seat.quality)}"
        if seat.engagement and seat.engagement.state == "fell back":
            return "invalid", f"it fell back to {seat.engagement.note}"
        for own in (baseline, control):
            if own.quality and own.quality.state == "broken":
                return "unresolved", f"{self.baseline}'s own answers differ: {own.quality.note}"
        if baseline.engagement and baseline.engagement.state == "fell back":
            return "unresolved", f"{self.baseline} fell back to {baseline.engagement.note}"
        if seat.quality and seat.quality.state == "unchecked" and seat.quality.asked:
            return "unresolved", f"its answer was not checked: {seat.quality.note}"
        return None

    def _why_unresolved(self, table: Table) -> str:
        rounds = len(table.order)
        if table.stopped == "baseline failed":
            return f"{self.baseline} failed in round {rounds}"
        if table.stopped == "interrupted" and rounds < statistics.MIN_ROUNDS:
            return f"it was interrupted after {_rounds(rounds)}; {statistics.MIN_ROUNDS} are needed"
        if table.stopped == "rounds" and rounds < statistics.MIN_ROUNDS:
            return f"max_rounds={self.rules.max_rounds} allows too few; {statistics.MIN_ROUNDS} are needed"
        if rounds < statistics.MIN_ROUNDS:
            needed = f"{statistics.MIN_ROUNDS} take about {(table.round_s or 0) * statistics.MIN_ROUNDS:.0f} s"
            return f"only {_rounds(rounds)} fitted in {self.rules.seconds:g} s; {needed}"
        if table.stopped == "rounds":
            return f"{_rounds(rounds)} are not enough to tell; raise max_rounds="
        sets = "1 set" if len(table.starts) == 1 else f"{len(table.starts)} sets"
        return f"{_rounds(rounds)} in {sets} of processes are not enough to tell; raise seconds="


def _found(said: Any) -> Quality:
    """Return what a check said as a Quality. Anything but yes, no or a whole Quality is no pass: an accuracy of 0.2 or
    a text is as true as True is."""
    if isinstance(said, Quality):
        if said.state not in ("held", "broken", "unchecked"):
            raise ValueError(f"the state of a Quality is held, broken or unchecked; got {said.state!r}")
        value, bound = (number if number is None else float(number) for number in (said.value, said.bound))
        return msgspec.structs.replace(said, value=value, bound=bound)
    yes = said.item() if getattr(said, "ndim", None) == 0 else said  # NumPy's and a tensor's yes and no
    if isinstance(yes, bool):
        return Quality(state="held" if yes else "broken", measure="the check", note="" if yes else "it said no")
    note = f"it returned {said!r:.60}; a check returns True, False or a Quality"
    return Quality(state="unchecked", measure="the check", note=" ".join(note.split()))


def _rounds(number: int) -> str:
    return "1 round" if number == 1 else f"{number} rounds"


def _once_s(seat: Seat) -> float:
    """Return the seconds spent once, before the calls are warm."""
    return (seat.prepare_s or 0.0) + (seat.cold_s or 0.0) - plain.median(seat.wall_s())


def _against_bound(quality: Quality) -> str:
    return (
        f"{quality.measure} {quality.value:.6g}, bound {quality.bound:.6g}"
        if quality.value is not None and quality.bound is not None
        else quality.measure
    )


def _medians(readings: list[dict]) -> dict[str, float | None]:
    names = dict.fromkeys(name for reading in readings for name in reading["metrics"])
    return {name: plain.median(r["metrics"][name] for r in readings if name in r["metrics"]) for name in names}
