"""One comparison at one size: bring the variants up, let them take rounds, conclude. Survives being cut short."""

import statistics as plain
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from kit.machine.fingerprint import available_mib
from kit.measure import statistics
from kit.measure.interruption import undisturbed
from kit.measure.process import Start
from kit.measure.progress import Progress
from kit.measure.session import Rules, Session
from kit.measure.variant import VariantProcess, leave_together
from kit.measure.work import TIME
from kit.measure.worker import one_line
from kit.record import formatting as fmt
from kit.record.document import CheckResult, Memory, Point, State, Variant, Verdict

MEMORY_SHARE = 0.8
"""Share of the available memory that all variants together may take; above it the others are skipped."""

Check = Callable[[Any, Any], CheckResult | bool]


def not_run(name: str, reason: str, remedy: str = "", state: State = "skipped") -> Variant:
    """Return the row of a variant that is not run. state: skipped, or failed if it could not even be sent."""
    return Variant(name=name, state=state, verdict=state, reason=reason, remedy=remedy)


class SizeRun:
    """The comparison at one size while it is measured. `point()` says afterwards what is known."""

    def __init__(
        self,
        size: float | None,
        variants: dict[str, VariantProcess | Variant],
        baseline: str,
        control: VariantProcess,
        *,
        rules: Rules,
        seed: int,
        start: Start,
        check: Check | None,
        progress: Progress,
    ):
        """variants: by name, those that are not run as their rows; control: the baseline once more, packed apart, for
        A/A; check: the quality check."""
        self.size, self.rules, self.seed = size, rules, seed
        self._start, self._check, self._progress = start, check, progress
        self._variants, self._baseline, self._control = dict(variants), variants[baseline], control
        self._reference: Any = None
        self._session: Session | None = None
        self._seconds = 0.0

    def run(self) -> None:
        """Measure. Whatever happens, no worker is left behind: a second Ctrl-C waits until all have ended."""
        began = time.monotonic()
        try:
            self._start_all()
            self._take_rounds()
        finally:
            self._reference = None
            self._seconds = time.monotonic() - began
            with undisturbed():
                leave_together(self._all_processes())

    def peak_names(self) -> set[str]:
        """Return the names of the machine's peaks that must be measured for these variants."""
        return {variant.peak.name for variant in self._all_processes() if variant.peak} - {TIME}

    def point(self, peaks: Mapping[str, float | None] | None = None) -> Point:
        """Return what is known after `run`, however it ended. peaks: of the machine, by name."""
        return Point(
            size=self.size,
            seed=self.seed,
            seconds=self._seconds,
            sessions=[self._session.found()] if self._session else [],
            variants=[
                variant if isinstance(variant, Variant) else self._found(variant, peaks or {})
                for variant in self._variants.values()
            ],
        )

    def _all_processes(self) -> list[VariantProcess]:
        """Return the baseline, A/A, and the others that are run."""
        running = [variant for variant in self._variants.values() if isinstance(variant, VariantProcess)]
        return [self._baseline, self._control, *(variant for variant in running if variant is not self._baseline)]

    def _start_all(self) -> None:
        """Set up all variants, as long as memory holds all of them at once: the rest is skipped."""
        room, everyone = MEMORY_SHARE * available_mib(), self._all_processes()
        for number, variant in enumerate(everyone):
            alive = [v for v in everyone[:number] if v.memory and v.worker]
            hungriest = max((v.resident_mib + v.memory.peak_mib for v in alive), default=0.0)
            taken = sum(v.resident_mib for v in alive) + hungriest
            if number > 2 and taken > room:
                reason = f"memory holds no more: those before it take {fmt.mib(taken)}, all may take {fmt.mib(room)}"
                remedy = f"measure it by only=[{variant.name!r}]"
                self._variants[variant.name] = not_run(variant.name, reason, remedy)
                continue
            self._start_one(variant)
            if number < 2 and variant.failed:
                return

    def _launch(self, variant: VariantProcess) -> None:
        with undisturbed():
            variant.worker = self._start(python=variant.python)

    def _start_one(self, variant: VariantProcess) -> None:
        """Start a worker, set up, make the first call and check its answer, and measure memory and seconds of the
        second. What is checked, not timed, is concluded at once: idle ranks need not wait during others' rounds."""
        self._progress.preparing(self.size, variant.name)
        began = time.monotonic()
        self._launch(variant)
        setup = variant.order("setup", variant.packed)
        up_s = time.monotonic() - began
        first = variant.order("first_call")
        if first is None:
            return
        variant.setup_s, variant.first_call_s = setup["setup_s"], first["first_call_s"]
        variant.start_s = up_s + first["wall_s"]  # its answer is not worked out again by a fresh process
        variant.not_timed, variant.seeded, variant.made_s = setup["not_timed"], setup["seeded"], setup["made_s"]
        if variant is self._baseline:
            self._reference = first["answer"]
        variant.check = self._checked(variant, first["answer"])
        del first
        second = variant.order("second_call")
        if second is None:
            return
        variant.resident_mib = second["resident_mib"]
        variant.call_s, variant.times_itself = second["call_s"], second["times_itself"]
        variant.memory = Memory(
            peak_mib=second["peak_mib"], after_setup_mib=setup["after_setup_mib"], method=second["method"]
        )
        if variant.not_timed and variant not in (self._baseline, self._control):
            self._conclude(variant)
            variant.leave()

    def _restart(self, variants: list[VariantProcess]) -> None:
        """Replace the processes of these variants by fresh ones, started side by side and set up in turn, in the order
        given, which is another one each time: who starts first finds other caches and another machine."""
        alive = [variant for variant in variants if not variant.failed]
        leave_together(alive)
        for variant in alive:
            self._launch(variant)
        for variant in alive:
            self._progress.preparing(self.size, variant.name)
            variant.order("setup", variant.packed)
            variant.order("warm_up", variant.calls[-1], variant.blocks, variant.untimed_call)

    def _checked(self, variant: VariantProcess, answer: Any, is_last: bool = False) -> CheckResult:
        """Check one answer, the first or the last, against the baseline's first. A check that raises is `not checked`,
        never a pass."""
        is_reference = variant is self._baseline
        if self._check is None:
            state = "reference" if is_reference else "not checked"
            return CheckResult(state=state, metric="not asked", asked=False)
        try:
            found = _as_check_result(self._check(answer, self._reference))
        except Exception as error:
            found = CheckResult(state="not checked", metric="the check", note=f"it raised {one_line(error)}")
        if is_last and found.state == "failed":
            return replace(found, note=f"the last answer is not the first: {found.note}")
        return replace(found, state="reference", note="") if is_reference else found

    def _take_rounds(self) -> None:
        baseline, control, *others = self._all_processes()
        if baseline.failed or control.failed:
            return
        taking_part = [variant for variant in others if not variant.failed and not variant.not_timed]
        variants = [baseline, control, *taking_part]
        if not baseline.not_timed:
            self._session = Session(variants, self.rules, self.seed, self._restart)
            self._session.run(self._progress.measuring)
        for variant in variants:
            self._conclude(variant)

    def _conclude(self, variant: VariantProcess) -> None:
        """Check a last answer too, for work that only began well is not work well done, and ask for the proof."""
        if variant.check is not None and variant.check.state in ("passed", "reference"):
            last = variant.order("last_answer")
            if last is not None:
                variant.check = self._checked(variant, last["answer"], is_last=True)
        facts = variant.order("facts", bool(variant.python))
        if facts is not None:
            variant.execution_proof, variant.peak, variant.versions = facts

    def _found(self, variant: VariantProcess, peaks: Mapping[str, float | None]) -> Variant:
        """Return what is known of a variant."""
        timed = self._session is not None and variant in self._session.variants
        known = dict(
            name=variant.name,
            session=0 if timed else None,
            made_s=variant.made_s,
            setup_s=variant.setup_s,
            first_call_s=variant.first_call_s,
            repeats=variant.calls[-1] if variant.calls else 1,
            memory=variant.memory,
            check=variant.check,
            execution_proof=variant.execution_proof,
            versions=variant.versions,
        )
        measured = timed and bool(variant.measurements and self._baseline.measurements)
        state, verdict, reason = self._verdict(variant, timed, measured)
        speed = self._speed(variant, peaks) if measured and state == "measured" else {}
        return Variant(**known, **speed, state=state, verdict=verdict, reason=reason)

    def _speed(self, variant: VariantProcess, peaks: Mapping[str, float | None]) -> dict[str, Any]:
        """Return what the rounds show of a variant, as fields of its row."""
        median_s, columns = plain.median(variant.wall_s()), variant.columns().metrics
        metrics = {name: plain.median(v for v in column if v is not None) for name, column in columns.items()}
        share = variant.peak and variant.peak.share(metrics, median_s, peaks)
        found = dict(median_s=median_s, metrics=metrics, peak_share=share)
        if variant is self._baseline:
            return found
        saving = plain.median(self._baseline.wall_s()) - median_s
        extra = _once_s(variant) - _once_s(self._baseline)
        breakeven = statistics.breakeven_calls(extra, saving) if saving > 0 else None
        return found | dict(effect=self._session.effect(variant), breakeven_calls=breakeven)

    def _verdict(self, variant: VariantProcess, timed: bool, measured: bool) -> tuple[State, Verdict, str]:
        """Return state, verdict and reason: quality and execution proof first, then speed."""
        baseline, session = self._baseline, self._session
        if variant.failed:
            return "failed", "failed", variant.failed
        if not measured and (timed or not variant.execution_proof):
            if why := baseline.failed or self._control.failed:
                return "skipped", "inconclusive", f"nothing to compare it with: {baseline.name} failed: {why}"
            return "skipped", "skipped", "it was interrupted before its turn"
        if variant is baseline:
            return "measured", "baseline", f"checked, not timed: {variant.not_timed}" if variant.not_timed else ""
        if unsound := self._unsound(variant):
            return "measured", *unsound
        if variant.not_timed:
            return "measured", "checked, not timed", variant.not_timed
        if baseline.not_timed:
            return "measured", "inconclusive", f"no speed is claimed of {baseline.name}: {baseline.not_timed}"
        verdict = statistics.verdict(session.effect(variant), session.floor(), self.rules.equivalence_margin)
        return "measured", verdict, self._why_inconclusive(session) if verdict == "inconclusive" else ""

    def _unsound(self, variant: VariantProcess) -> tuple[Verdict, str] | None:
        """Return verdict and reason where answers or execution proof do not allow any claim; None where they do."""
        check, proof, baseline = variant.check, variant.execution_proof, self._baseline
        if check and check.state == "failed":
            return "rejected", f"its answer is not good enough: {fmt.check(check).removeprefix('failed: ')}"
        if proof and proof.state == "fell back":
            return "rejected", f"it fell back to {proof.note}"
        for own in (baseline, self._control):
            if own.check and own.check.state == "failed":
                return "inconclusive", f"{baseline.name}'s own answers differ: {own.check.note}"
        if baseline.execution_proof and baseline.execution_proof.state == "fell back":
            return "inconclusive", f"{baseline.name} fell back to {baseline.execution_proof.note}"
        if check and check.state == "not checked" and check.asked:
            return "inconclusive", f"its answer was not checked: {check.note}"
        return None

    def _why_inconclusive(self, session: Session) -> str:
        fewest, taken = statistics.MIN_ROUNDS, fmt.count(len(session.order), "rounds")
        if session.stopped == "baseline failed":
            return f"{self._baseline.name} failed in round {len(session.order)}"
        if len(session.order) < fewest:
            if session.stopped == "interrupted":
                return f"it was interrupted after {taken}; {fewest} are needed"
            if session.stopped == "rounds":
                return f"max_rounds={self.rules.max_rounds} allows too few; {fewest} are needed"
            needed = fmt.duration((session.round_s or 0) * fewest)
            return f"only {taken} fitted in {self.rules.time_budget_s:g} s; {fewest} take about {needed}"
        more = "max_rounds" if session.stopped == "rounds" else "time_budget_s"
        return f"{taken}, processes started {fmt.count(len(session.starts), 'times')}, do not decide; raise {more}"


def _as_check_result(returned: Any) -> CheckResult:
    """Return what a check returned as a CheckResult. Anything but True, False or a whole CheckResult is no pass: an
    accuracy of 0.2 or a text is as true as True is."""
    if isinstance(returned, CheckResult):
        if returned.state not in ("passed", "failed", "not checked"):
            raise ValueError(f"the state of a CheckResult is passed, failed or not checked; got {returned.state!r}")
        value, bound = (number if number is None else float(number) for number in (returned.value, returned.threshold))
        return replace(returned, value=value, threshold=bound)
    yes = returned.item() if getattr(returned, "ndim", None) == 0 else returned  # of NumPy, or a tensor
    if isinstance(yes, bool):
        note = "" if yes else "it returned False"
        return CheckResult(state="passed" if yes else "failed", metric="the check", note=note)
    note = f"it returned {returned!r:.60}; a check returns True, False or a CheckResult"
    return CheckResult(state="not checked", metric="the check", note=" ".join(note.split()))


def _once_s(variant: VariantProcess) -> float:
    """Return the seconds spent once, before the calls are warm."""
    return variant.made_s + (variant.setup_s or 0.0) + (variant.first_call_s or 0.0) - plain.median(variant.wall_s())
