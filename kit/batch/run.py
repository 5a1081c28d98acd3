"""Executes runs one after the other, skips what is finished, and goes on after a failure."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kit.batch import process
from kit.batch.locks import machine_to_ourselves
from kit.batch.plans import Run
from kit.batch.runs import Claim, Runs, key
from kit.batch.screen import WIDTH, Screen, paragraph
from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import recommendation, store

RESUMES = "interrupted; the same command resumes it"


@dataclass(frozen=True)
class Outcome:
    """How one run of a batch ended. note: lines of its recommendations, or its error and the path of its log."""

    state: Literal["finished", "skipped", "failed", "cancelled"]
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Batch:
    """What the runs of a batch share. force: execute finished ones again, beside the old ones.
    report: folder of a report, written again after each run."""

    runs: Runs
    force: bool = False
    report: str | None = None
    screen: Screen = field(default_factory=Screen)

    def execute(self, asked: list[Run]) -> int:
        """Execute the runs, one after the other, and return what `summary` returns."""
        self.runs.attempts(asked[0].notebook.name, key(asked[0]))  # raises where runs can't be kept
        outcomes = dict.fromkeys(heads(asked), Outcome("cancelled"))
        with interruptible():
            try:
                for head, run in zip(outcomes, asked, strict=True):
                    outcomes[head] = self.say(head, self._one(head, run))
                    if outcomes[head].state == "cancelled":
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                self.screen.say(RESUMES)
        return self.summary(outcomes)

    def _one(self, head: str, run: Run) -> Outcome:
        """Execute one run unless it is finished, alone on this machine; its failure, of whatever kind, is its own."""
        try:
            name = key(run)
            if done := self.done(run, name):
                return done
            self.screen.say(f"{head} {run.settings}".rstrip())
            with machine_to_ourselves(lambda text: self.screen.say(f"{head}: {text}")) as holding:
                claim = self.claim(run, name)
                outcome = claim if isinstance(claim, Outcome) else self._fill(head, run, claim, holding)
                self.write_report()  # before others may measure: it takes a core
                return outcome
        except (UserError, OSError) as error:
            return Outcome("failed", note=str(error))

    def done(self, run: Run, key: str) -> Outcome | None:
        """Return the outcome if a run is finished already, and is not to be executed again."""
        finished = [a for a in self.runs.attempts(run.notebook.name, key) if a.status.state == "finished"]
        if self.force or not finished:
            return None
        status = finished[-1].status
        note = f"finished {status.ended} with this notebook, parameters, code and packages; --force runs it again"
        return Outcome("skipped", status.seconds, note)

    def claim(self, run: Run, key: str, machine: str = "") -> Claim | Outcome:
        """Take the next free folder; the outcome if another batch did the run meanwhile, or is at it."""
        if done := self.done(run, key):
            return done
        attempts = self.runs.attempts(run.notebook.name, key)
        if self.force or not any(attempt.alive for attempt in attempts):
            for attempt in attempts:
                self.runs.settle(attempt)
            if claim := self.runs.claim(run, key, 1 + max((a.number for a in attempts), default=0), machine):
                return claim
        return Outcome("skipped", note="another batch is at this run; the same command shows how it ended")

    def _fill(self, head: str, run: Run, claim: Claim, holding: int) -> Outcome:
        began, error, state = time.monotonic(), "", ""
        try:
            show = partial(self.screen.progress, head, claim.folder)
            error = process.execute(run, claim.folder, claim.log, holding, show, os.environ)
        except KeyboardInterrupt:
            state = "cancelled"
        return self.end(claim, time.monotonic() - began, error, state)

    def end(self, claim: Claim, seconds: float, error: str, state: str = "") -> Outcome:
        """Keep what came of a run whose folder is filled, and return how it ended.
        error: why it failed, or nothing. state: if it is neither finished nor failed."""
        faulty, headlines = _found(claim.folder)
        error = "interrupted" if state else error or faulty
        state, note = state or ("failed" if error else "finished"), error or headlines
        if self.runs.staged:
            self.screen.say(f"uploading the run to {store.clean(self.runs.url)}", passing=True)
        try:
            ended = {"state": state, "ended": store.now(), "seconds": round(seconds, 3), "error": store.clean(error)}
            self.runs.keep(claim, **ended)
        except Exception as problem:  # a file system may raise what it likes; the run still stands here
            place = store.clean(self.runs.url)
            note = f"{state}, but it could not be kept at {place} ({problem}): it is in {claim.folder}"
            state = "failed" if state == "finished" else state
        return Outcome(state, round(seconds, 3), note if state == "finished" else f"{note}\n{self.runs.shown(claim)}")

    def write_report(self) -> None:
        if self.report is None:
            return
        from kit import report

        self.screen.say("writing the report", passing=True)
        try:
            self.screen.say(f"report: {report.write([self.runs.url], self.report)}", passing=True)
        except Exception as error:  # a report that can't be written costs no run
            self.screen.say(f"the report could not be written: {error}")

    def say(self, head: str, outcome: Outcome) -> Outcome:
        """Show how a run ended, in a line."""
        seconds = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None and outcome.state != "skipped" else ""
        note = f": {outcome.note.splitlines()[0]}" if outcome.note and outcome.state != "finished" else ""
        self.screen.say(f"{head}: {outcome.state}{seconds}{note}")
        return outcome

    def summary(self, outcomes: dict[str, Outcome]) -> int:
        """Print how the runs ended; return 0, 1 if any failed, 2 if all by a user's mistake, 130 if cancelled."""
        last = [*outcomes.values()][-1]
        if last.seconds is None or last.state == "skipped":
            self.write_report()  # the last run was not executed, so it has not written it
        width = min(max(map(len, outcomes)), WIDTH - 21)  # result and seconds take 21
        print(f"\n{'run':{width}}  {'result':9}  {'seconds':>8}")
        for head, one in outcomes.items():
            seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
            print(f"{fmt.shown(head, width):{width}}  {one.state:9}  {seconds:>8}".rstrip())
            for line in one.note.splitlines():
                print(paragraph(line, "    "))
        failed = [1 + one.note.startswith("UserError: ") for one in outcomes.values() if one.state == "failed"]
        return 130 if any(one.state == "cancelled" for one in outcomes.values()) else min(failed, default=0)


def heads(asked: list[Run]) -> list[str]:
    """Return how each run is named in what a batch prints: `[2/5] 02_training`."""
    return [f"[{number}/{len(asked)}] {run.notebook.name}" for number, run in enumerate(asked, 1)]


@contextmanager
def interruptible(interrupt: Callable[..., Any] = signal.default_int_handler) -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and a closed terminal (unless under `nohup`) end a batch in the same orderly way."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _found(folder: Path) -> tuple[str, str]:
    """Return what is wrong with the records of a run that came to its end, or nothing; and their recommendations."""
    lines = []
    for path in sorted(folder.glob("records/*.json")):
        try:
            record = store.read(path)
        except UserError as error:
            return f"record {error}", ""
        if not record.complete:
            return f"record {path.name} is not complete: its comparison was interrupted", ""
        lines.append(f"{fmt.shown(record.asked.comparison, 60)}: {recommendation.of(record).headline}")
    return "", "\n".join(lines)
