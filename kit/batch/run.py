"""Executes runs one after the other, skips what is finished, and goes on after a failure."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from kit.batch import notebooks, processes
from kit.batch.plans import Run
from kit.batch.runs import Attempt, Claim, Runs, Status, key, machine_to_ourselves
from kit.batch.screen import Screen, table
from kit.errors import UserError
from kit.record import store
from kit.record.document import Record


@dataclass(frozen=True)
class Outcome:
    """How one run of a batch ended. note: its verdicts, or the last line of its error. log: where it stands."""

    label: str
    state: Literal["finished", "skipped", "failed", "cancelled"]
    seconds: float | None = None
    note: str = ""
    log: str = ""


def batch(asked: list[Run], runs: Runs, force: bool = False, report: str | None = None) -> int:
    """Execute the runs asked for, print a table of how they ended, and return 0, 1 if any failed, 130 if interrupted.

    force: execute finished runs again, beside the old ones. report: folder of a report, written anew after each run.
    """
    screen, outcomes = Screen(), []
    known = {key(run): {attempt.number for attempt in runs.attempts(run.notebook.name, key(run))} for run in asked}
    with _interruptible():
        try:
            for n, run in enumerate(asked, 1):
                one = _One(run, key(run), runs, force, known[key(run)], f"[{n}/{len(asked)}] {run.label}", screen)
                outcomes.append(one.execute(lambda: _report(report, runs, screen)))
                screen.say(f"{one.head}: {_in_words(outcomes[-1])}")
        except KeyboardInterrupt:
            screen.say("interrupted: what was finished is kept, and the same command goes on from here")
            outcomes += [Outcome(run.label, "cancelled") for run in asked[len(outcomes) :]]
    heads = ["run", "result", "seconds", "verdict or last error line", "log"]
    table("", heads, ([o.label, o.state, _seconds(o), o.note, o.log] for o in outcomes))
    states = {outcome.state for outcome in outcomes}
    return 130 if "cancelled" in states else int("failed" in states)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and a closed terminal end a batch in the same orderly way."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    names = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if _is_ours(number)]
    before = {number: signal.signal(number, interrupt) for number in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ours(number: int) -> bool:
    """Leave SIGHUP ignored where `nohup` asked for that."""
    return number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN


@dataclass(frozen=True)
class _One:
    """One run on its way. known: numbers of the attempts that stood there when the batch began."""

    run: Run
    key: str
    runs: Runs
    force: bool
    known: set[int]
    head: str
    screen: Screen

    def execute(self, afterwards: Callable[[], None]) -> Outcome:
        """Execute it unless it is finished, alone on this machine, and call `afterwards` before others may measure."""
        if done := self._done(self._attempts()):
            return done
        with machine_to_ourselves(lambda text: self.screen.say(f"{self.head}: {text}")) as holding:
            claim = self._claim()
            if isinstance(claim, Outcome):
                return claim
            outcome = self._fill(claim, holding)
            afterwards()
            return outcome

    def _attempts(self) -> list[Attempt]:
        return self.runs.attempts(self.run.notebook.name, self.key)

    def _done(self, attempts: list[Attempt]) -> Outcome | None:
        """Return the outcome if there is nothing to do: it is finished, or failed in another batch since ours began."""
        if self.force:
            return None
        for attempt in reversed(attempts):
            status, log = attempt.status, f"{_shown(attempt.folder)}/log.txt"
            if status.state == "finished":
                return Outcome(self.run.label, "skipped", status.seconds, f"finished {status.ended}", log)
            if status.state == "failed" and attempt.number not in self.known:
                return Outcome(self.run.label, "failed", status.seconds, status.error, log)
        return None

    def _claim(self) -> Claim | Outcome:
        """Take the next free folder, unless another batch, on another machine, is at it or did it meanwhile."""
        while True:
            attempts = self._attempts()
            if done := self._done(attempts):
                return done
            if not self.force and any(attempt.alive for attempt in attempts):
                time.sleep(1)
                continue
            self._bury(attempts)
            if claim := self.runs.claim(self.run, self.key, 1 + max((a.number for a in attempts), default=0)):
                return claim

    def _bury(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            if attempt.status.state == "running" and not attempt.alive and not self.runs.staged:
                self.runs.bury(attempt)

    def _fill(self, claim: Claim, holding: int) -> Outcome:
        """Execute the notebook of a claimed folder and keep what came of it, whatever happens."""
        self.screen.say(f"{self.head}: running")
        began, state, error = time.monotonic(), "cancelled", "interrupted"
        try:
            watch = lambda: self.screen.show(self.head, processes.progress(claim.folder))  # noqa: E731
            error = processes.execute(self.run, claim, holding, watch) or _faulty(claim.folder)
            state = "failed" if error else "finished"
        finally:
            seconds = round(time.monotonic() - began, 3)
            note = error or _verdicts(claim.folder)
            kept = self._keep(claim, state, seconds, error)
        return Outcome(
            self.run.label, "failed" if kept else state, seconds, kept or note, f"{_shown(claim.kept)}/log.txt"
        )

    def _keep(self, claim: Claim, state: str, seconds: float, error: str) -> str:
        """Leave the run's folder in order; return why it could not be uploaded, or ""."""
        notebooks.tidy(claim.folder / "notebook.ipynb", self.run.notebook)
        (claim.folder / "progress.json").unlink(missing_ok=True)
        before = msgspec.json.decode((claim.folder / "status.json").read_bytes(), type=Status)
        status = msgspec.structs.replace(
            before, state=state, ended=store.now(), seconds=seconds, error=store.clean(error)
        )
        try:
            self.runs.keep(claim, status)
        except Exception as problem:  # a store may raise anything; the run stands in its local folder
            return (
                f"it ran ({state}), but could not be kept at {store.clean(claim.kept)} ({problem}): see {claim.folder}"
            )
        return ""


def _faulty(folder: Path) -> str:
    """Return what is wrong with the records of a run that came to its end, or ""."""
    for path in sorted((folder / "records").glob("*.json")):
        try:
            if not store.read(path).complete:
                return f"record {path.name} is not complete: the comparison was interrupted"
        except UserError as error:
            return f"record {error}"
    return ""


def _verdicts(folder: Path) -> str:
    """Return what a run's records say, in one line."""
    return "; ".join(_verdict(store.read(path)) for path in sorted((folder / "records").glob("*.json")))


def _verdict(record: Record) -> str:
    """Return a record's verdicts at its largest size: `delays: Polars faster 6.1×, DuckDB same`."""
    variants = record.points[-1].variants if record.points else []
    words = [
        f"{variant.name} {variant.verdict}"
        + (f" {variant.effect.speedup:.2g}×" if variant.effect and variant.verdict in ("faster", "slower") else "")
        for variant in variants
        if variant.verdict != "baseline"
    ]
    return f"{record.asked.comparison}: {', '.join(words)}" if words else record.asked.comparison


def _report(folder: str | None, runs: Runs, screen: Screen) -> None:
    if folder is None:
        return
    import kit.report

    try:
        kit.report.write([runs.url], folder)
    except Exception as error:  # a report that can't be written costs no run
        screen.say(f"the report could not be written: {error}")


def _in_words(outcome: Outcome) -> str:
    seconds = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None and outcome.state != "skipped" else ""
    return f"{outcome.state}{seconds}" + (f": {outcome.note}" if outcome.note else "")


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f}"


def _shown(folder: str) -> str:
    """Return a folder as a person here would name it."""
    if "://" in folder:
        return store.clean(folder)
    relative = os.path.relpath(folder)
    return folder if relative.startswith("..") else relative
