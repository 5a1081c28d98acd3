"""Executes runs one after the other, skips what is finished, and goes on after a failure."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from kit.batch import notebooks, processes
from kit.batch.locks import machine_to_ourselves
from kit.batch.plans import Run
from kit.batch.runs import Attempt, Claim, Runs, key
from kit.batch.screen import Screen, table
from kit.errors import UserError
from kit.machine import ceilings
from kit.record import store, words
from kit.record.document import Record, Variant


@dataclass(frozen=True)
class Outcome:
    """How one run of a batch ended. note: its verdicts, or the last line of its error. log: where it stands."""

    label: str
    state: Literal["finished", "skipped", "failed", "cancelled"]
    seconds: float | None = None
    note: str = ""
    log: str = ""


@dataclass(frozen=True)
class Turn:
    """A run whose turn it is. known: numbers of its attempts that had ended when the batch began.
    machine: key of the machine that it is for, if not this one."""

    run: Run
    key: str
    known: set[int]
    head: str
    machine: str | None = None


@dataclass(frozen=True)
class Batch:
    """What the runs of a batch share. force: execute finished ones again, beside the old ones.
    report: folder of a report, written anew after each run."""

    runs: Runs
    screen: Screen
    force: bool = False
    report: str | None = None

    def execute(self, asked: list[Run]) -> list[Outcome]:
        """Execute the runs and return how each ended; those that an interruption did not let begin are cancelled."""
        turns, outcomes = self._turns(asked), []
        with interruptible():
            try:
                for turn in turns:
                    outcomes.append(self._one(turn))
                    self.screen.say(f"{turn.head}: {in_words(outcomes[-1])}")
                    if outcomes[-1].state == "cancelled":
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                self.screen.say("interrupted; the same command goes on from here")
        if {outcome.state for outcome in outcomes} <= {"skipped"}:
            self.write_report()  # nothing was executed, so nothing has written it
        return outcomes + [Outcome(run.label, "cancelled") for run in asked[len(outcomes) :]]

    def _turns(self, asked: list[Run]) -> list[Turn]:
        keys = [key(run) for run in asked]
        known = [self.ended(run.notebook.name, k) for run, k in zip(asked, keys, strict=True)]
        heads = [f"[{n}/{len(asked)}] {run.label}" for n, run in enumerate(asked, 1)]
        return [Turn(*parts) for parts in zip(asked, keys, known, heads, strict=True)]

    def ended(self, notebook: str, key: str) -> set[int]:
        """Return the numbers of the attempts at a run that have ended."""
        return {a.number for a in self.runs.attempts(notebook, key) if a.status.state != "running"}

    def _one(self, turn: Turn) -> Outcome:
        """Execute one run unless it is finished, alone on this machine; its failure, of whatever kind, is its own."""
        try:
            if done := self.done(turn):
                return done
            with machine_to_ourselves(lambda text: self.screen.say(f"{turn.head}: {text}")) as holding:
                claim = self._claim(turn)
                if isinstance(claim, Outcome):
                    return claim
                outcome = self._fill(turn, claim, holding)
                self.write_report()  # before others may measure: it takes a core
                return outcome
        except (UserError, OSError) as error:
            return Outcome(turn.run.label, "failed", note=str(error))

    def done(self, turn: Turn) -> Outcome | None:
        """Return the outcome if there is nothing to do: it is finished, or failed in another batch since ours began."""
        return self._done(turn, self._attempts(turn))

    def _attempts(self, turn: Turn) -> list[Attempt]:
        return self.runs.attempts(turn.run.notebook.name, turn.key)

    def _done(self, turn: Turn, attempts: list[Attempt]) -> Outcome | None:
        if self.force:
            return None
        for attempt in reversed(attempts):
            status, log = attempt.status, self._log(attempt.folder)
            if status.state == "finished":
                return Outcome(turn.run.label, "skipped", status.seconds, f"finished {status.ended}", log)
            if status.state == "failed" and attempt.number not in turn.known:
                return Outcome(turn.run.label, "failed", status.seconds, status.error, log)
        return None

    def _claim(self, turn: Turn) -> Claim | Outcome:
        """Take the next free folder; wait for a batch on another machine that is at this run."""
        while (claim := self.claim(turn)) is None:
            time.sleep(5 if self.runs.staged else 1)
        return claim

    def claim(self, turn: Turn) -> Claim | Outcome | None:
        """Take the next free folder; None while another batch is at this run, the outcome if one did it meanwhile."""
        attempts = self._attempts(turn)
        if done := self._done(turn, attempts):
            return done
        if not self.force and any(attempt.alive for attempt in attempts):
            self.screen.show(f"{turn.head}: waiting for the same run, which is under way elsewhere")
            return None
        for attempt in attempts:
            self.runs.bury(attempt)
        number = 1 + max((a.number for a in attempts), default=0)
        return self.runs.claim(turn.run, turn.key, number, turn.machine) or self.claim(turn)

    def _fill(self, turn: Turn, claim: Claim, holding: int) -> Outcome:
        """Execute the notebook of a claimed folder, and keep what came of it."""
        began, interrupted, error = time.monotonic(), False, ""
        try:
            self._measure_ceilings(turn, claim.folder)
            self.screen.show(f"{turn.head}: running")
            began = time.monotonic()
            error = processes.execute(turn.run, claim, holding, self._watch(turn, claim))
        except KeyboardInterrupt:
            interrupted = True
        return self.end(turn, claim, time.monotonic() - began, error, interrupted)

    def end(self, turn: Turn, claim: Claim, seconds: float, error: str, interrupted: bool = False) -> Outcome:
        """Keep what came of a run whose folder is filled, and return how it ended. error: why it failed, or nothing."""
        error = "interrupted" if interrupted else error or _faulty(claim.folder)
        state = "cancelled" if interrupted else "failed" if error else "finished"
        seconds, note = round(seconds, 3), error or _verdicts(claim.folder)
        if problem := self._keep(turn, claim, state, seconds, error):
            state, note = "failed" if state == "finished" else state, problem
        return Outcome(turn.run.label, state, seconds, note, self._log(claim.kept))

    def _measure_ceilings(self, turn: Turn, folder: Path) -> None:
        """Leave in the run's folder what this machine can do at best now. It never costs the run."""
        if not ceilings.at_hand():
            self.screen.show(f"{turn.head}: measuring what this machine can do at best")
        try:
            ceilings.leave(folder)
        except Exception as error:
            self.screen.say(f"{turn.head}: what this machine can do at best could not be measured: {error}")

    def _watch(self, turn: Turn, claim: Claim) -> Callable[[], None]:
        def watch() -> None:
            self.screen.progress(turn.head, processes.progress(claim.folder))
            self.runs.beat(claim)

        return watch

    def _keep(self, turn: Turn, claim: Claim, state: str, seconds: float, error: str) -> str:
        """Leave the run's folder in order; return why it could not be kept where it belongs, or nothing."""
        notebooks.tidy(claim.folder / "notebook.ipynb", turn.run.notebook)
        for path in claim.folder.glob("progress.*"):
            path.unlink()
        ended = {"state": state, "ended": store.now(), "seconds": seconds, "error": store.clean(error)}
        try:
            self.runs.keep(claim, msgspec.structs.replace(claim.status, **ended))
        except Exception as problem:  # a file system may raise what it likes; the run still stands here
            place = store.clean(self.runs.url)
            return f"{state}, but it could not be kept at {place} ({problem}): it is in {claim.folder}"
        return ""

    def _log(self, folder: str) -> str:
        """Return the log of a run's folder as a person here would name it."""
        if self.runs.staged:
            return store.clean(f"{self.runs.files.unstrip_protocol(folder)}/log.txt")
        relative = os.path.relpath(f"{folder}/log.txt")
        return f"{folder}/log.txt" if relative.startswith("..") else relative

    def write_report(self) -> None:
        """Write the report anew, if one is wanted."""
        if self.report is None:
            return
        from kit import report

        try:
            self.screen.say(f"report: {report.write([self.runs.url], self.report)}")
        except Exception as error:  # a report that can't be written costs no run
            self.screen.say(f"the report could not be written: {error}")


def execute(asked: list[Run], runs: Runs, force: bool = False, report: str | None = None) -> int:
    """Execute the runs asked for, print a table of how they ended, and return the exit status: 0, 1 if any failed,
    130 if interrupted. The arguments are those of `Batch`."""
    batch = Batch(runs, Screen(), force, report)
    if any(run.resources for run in asked):
        batch.screen.say("resources that a plan asks for count on a cluster only: here they are ignored")
    return summary(batch.execute(asked))


def summary(outcomes: list[Outcome]) -> int:
    """Print how the runs of a batch ended, and return its exit status."""
    _print(outcomes)
    states = {outcome.state for outcome in outcomes}
    return 130 if "cancelled" in states else int("failed" in states)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def interruptible(interrupt: Callable[..., None] = _interrupt) -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and a closed terminal (unless under `nohup`) end a batch in the same orderly way."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _faulty(folder: Path) -> str:
    """Return what is wrong with the records of a run that came to its end, or nothing."""
    for path in sorted((folder / "records").glob("*.json")):
        try:
            if not store.read(path).complete:
                return f"record {path.name} is not complete: its comparison was interrupted"
        except UserError as error:
            return f"record {error}"
    return ""


def _verdicts(folder: Path) -> str:
    return "; ".join(_verdict(store.read(path)) for path in sorted((folder / "records").glob("*.json")))


def _verdict(record: Record) -> str:
    """Return a record's verdicts at its largest size: `delays: Polars 6.1× faster, DuckDB same, 2 skipped`."""
    point = words.largest(record)
    others = [variant for variant in (point.variants if point else []) if variant.verdict != "baseline"]
    said = [_verdict_of(variant) for variant in others if variant.verdict != "skipped"]
    if skipped := len(others) - len(said):
        said.append(f"{skipped} skipped")
    return f"{words.shown(record.asked.comparison, 60)}: {', '.join(said) or 'nothing to compare'}"


def _verdict_of(variant: Variant) -> str:
    name = words.shown(variant.name, 60)
    if variant.effect is None or variant.verdict not in ("faster", "slower"):
        return f"{name} {variant.verdict}"
    ratio = variant.effect.speedup if variant.verdict == "faster" else 1 / variant.effect.speedup
    return f"{name} {words.times(ratio)} {variant.verdict}"


def _print(outcomes: list[Outcome]) -> None:
    """Print how the runs ended: one row each, the log below the rest on a terminal, which is narrow."""
    rows = [[outcome.label, outcome.state, _seconds(outcome)] for outcome in outcomes]
    if sys.stdout.isatty():
        heads, ends = (
            ["verdict or last error line, and log"],
            [["\n".join(filter(None, [o.note, o.log]))] for o in outcomes],
        )
    else:
        heads, ends = ["verdict or last error line", "log"], [[o.note, o.log] for o in outcomes]
    table("", ["run", "result", "seconds", *heads], [row + end for row, end in zip(rows, ends, strict=True)])


def in_words(outcome: Outcome) -> str:
    """Return how a run ended, in a line."""
    seconds = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None and outcome.state != "skipped" else ""
    return f"{outcome.state}{seconds}" + (f": {outcome.note}" if outcome.note else "")


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
