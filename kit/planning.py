"""`kit plan`: which difference can be seen in a given time, on this machine now or by what a notebook's runs took."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kit.errors import UserError
from kit.measure import planner, statistics
from kit.measure.noise import Noise, Now, now, of_session
from kit.record import words
from kit.record.document import Point, Record

BUDGETS_S = (5.0, 20.0, 60.0, 300.0)
CALLS_S = (0.01, 0.1, 1.0)
READY_S = 1.0
"""What is assumed that a variant's process takes to be ready, where no run tells: its imports and its preparation."""

TOO_BUSY = "too busy to tell how noisy it is: ten rounds of a few milliseconds did not fit in 18 s"


def main(notebook: str | None, place: str, resolve: float | None, seconds: float | None, variants: int) -> int:
    """Print the plan and return the exit status, 0. place: where runs are kept; resolve: a difference, as 0.03."""
    if variants < 2:
        raise UserError(f"--variants is {variants}; a comparison has a baseline and at least one more variant")
    if notebook is None:
        _print_for_machine(resolve, seconds, variants)
    else:
        _print_for_notebook(notebook, place, resolve, seconds)
    return 0


def tell(text: str, indent: str = "") -> None:
    """Print a paragraph: folded to a terminal's width, and not folded elsewhere."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    print(textwrap.fill(text, width, initial_indent=indent, subsequent_indent=2 * indent))


# ------------------------------------------------------------------------------------------------ this machine, now


def measured_now() -> Now | None:
    """Measure how noisy this machine is now, and say on a terminal that this takes some seconds; None if it is too busy
    even for that."""
    from kit.machine import fingerprint

    waiting = "measuring how noisy this machine is now …"
    if sys.stderr.isatty():
        print(waiting, end="", file=sys.stderr, flush=True)
    try:
        return now(fingerprint.allowed_threads())
    finally:
        if sys.stderr.isatty():
            print("\r" + " " * len(waiting) + "\r", end="", file=sys.stderr, flush=True)


def noise_in_words(found: Now) -> list[str]:
    """Return sentences on how noisy the machine is now."""
    from kit.machine import fingerprint

    noise, session, cores = found.noise, found.session, fingerprint.usable_cores()
    loads, steals = ([x for x in told if x is not None] for told in (session.load, session.steal))
    sets = words.count(len(session.starts), "sets")
    believed = "" if len(session.starts) >= statistics.MIN_SETS else ", as is believed where few were seen"
    told = [
        f"{len(session.order)} rounds of {words.duration(found.call_s)} of work against itself, in {sets} of "
        f"processes: half of the rounds lie within {words.plus_minus(noise.scatter)}, fresh processes differ by about "
        f"{words.percent(noise.luck)}{believed}."
    ]
    if session.noise and session.noise_floor is not None:
        speed = words.with_interval(session.noise.speedup, session.noise.low, session.noise.high)
        told.append(f"A/A: {speed}; no difference under {in_percent(session.noise_floor)} would count.")
    if loads:
        busy = max(loads)
        stolen = f", {words.percent(sum(steals) / len(steals))} of its time went to other guests" if any(steals) else ""
        told.append(f"Load {words.number(busy, 2)} on {words.count(cores, 'cores')}{stolen}.")
        if busy > 1.2 * cores:
            told.append("Other programs are at work: what is measured now takes longer to tell; end them if you can.")
    return told


def noise_as_data(found: Now) -> dict:
    """Return how noisy the machine is now as plain numbers: shares, seconds, and the A/A interval as ratios."""
    noise, session = found.noise, found.session
    own = session.noise
    return {
        "rounds": len(session.order),
        "starts": len(session.starts),
        "call_s": found.call_s,
        "scatter": noise.scatter,
        "luck": noise.luck,
        "a_a": {"speedup": own.speedup, "low": own.low, "high": own.high} if own else None,
        "noise_floor": session.noise_floor,
        "load": session.load,
        "steal": session.steal,
    }


def assumed(found: Now, call_s: float, variants: int) -> Noise:
    """Return the noise that a comparison of so many variants with calls of `call_s` would meet here now: the scatter
    of the small piece of work, whatever the length of a call."""
    seats = variants + 1  # A/A has a process of its own
    beside_s = max(0.0, found.noise.round_s / len(found.session.variants) - found.call_s)
    return replace(found.noise, round_s=seats * (call_s + beside_s), renewal_s=seats * (READY_S + call_s))


def seen(noise: Noise, seconds: float) -> str:
    """Return the smallest difference that is called in a budget, in words: `4 %`, or `nothing`."""
    difference = planner.resolvable(noise, seconds)
    return in_percent(difference) if difference is not None else "nothing"


def in_percent(difference: float) -> str:
    """Return a difference that can be seen, rounded up to two digits: never less than what can."""
    return f"{words.number(planner.rounded_up(100 * difference), 2).removesuffix('.0')} %"


@dataclass(frozen=True)
class Need:
    """What a difference needs. seconds: None if no time is enough; said: in words; why: no time is enough."""

    seconds: float | None
    said: str
    why: str = ""


def need(noise: Noise, difference: float, sessions: int = 1) -> Need:
    """Return what a difference, as 0.03, needs; sessions: plans of it in a row, where memory allowed only pairs."""
    found = planner.needed(noise, difference)
    if isinstance(found, planner.Unreachable):
        best = f"{in_percent(found.best)} can be seen" if found.best else "nothing can be seen"
        return Need(None, f"no time is enough; {best}", found.why)
    taken = f"{words.count(found.rounds, 'rounds')} in {words.count(len(found.starts), 'sets')} of processes"
    return Need(found.seconds * sessions, f"{found.seconds * sessions:g} s ({taken})")


def _print_for_machine(resolve: float | None, seconds: float | None, variants: int) -> None:
    from kit.batch.screen import table

    found = measured_now()
    if found is None:
        raise UserError(f"this machine is {TOO_BUSY}; end what else it does, or name a notebook that has run here")
    for line in noise_in_words(found):
        tell(line)
    budgets = [seconds] if seconds else [] if resolve else list(BUDGETS_S)
    heads = [f"seen in {budget:g} s" for budget in budgets] + ([f"for {words.percent(resolve)}"] if resolve else [])
    rows, reasons = [], {}
    for call_s in CALLS_S:
        noise = assumed(found, call_s, variants)
        cells = [seen(noise, budget) for budget in budgets]
        if resolve:
            needed = need(noise, resolve)
            cells.append(needed.said)
            reasons |= {needed.why: None} if needed.why else {}
        rows.append([words.duration(call_s), *cells])
    table("", ["a call takes", *heads], rows)
    for why in reasons:
        tell(f"No time is enough: {why}.")
    _print_terms(variants)


def _print_terms(variants: int) -> None:
    tell(
        f"Seen: called in nine cases of ten. In a comparison of {variants} variants whose processes are ready in "
        f"{READY_S:g} s, at one size. Name a notebook to plan by what its own runs took: kit plan 01_dataframes"
    )


# ------------------------------------------------------------------------------------------------ a notebook's runs


@dataclass(frozen=True)
class Met:
    """One comparison at one size of a kept record, and the noise that it met; None under ten rounds."""

    record: Record
    point: Point
    noise: Noise | None

    @property
    def seconds(self) -> float:
        """The budget that it had, at this size."""
        return self.record.how.seconds

    @property
    def factor(self) -> float | None:
        """The notebook's parameter `seconds` for each second of the comparison's own budget; None without one."""
        given = self.record.asked.parameters.get("seconds")
        told = isinstance(given, int | float) and not isinstance(given, bool) and given > 0
        return given / self.record.how.seconds if told else None

    @property
    def title(self) -> str:
        at = words.count(self.point.size, self.record.asked.unit)
        return words.shown(self.record.asked.comparison, 60) + (f" at {at}" if at else "")


def _print_for_notebook(name: str, place: str, resolve: float | None, seconds: float | None) -> None:
    from kit.batch import notebooks

    stem = notebooks.find(name).stem
    kept = [met for record in newest(stem, place) for met in met_by(record)]
    if not kept:
        raise UserError(f"no run of {stem} is kept in {words.shown(place)}; make one: kit run {stem}")
    tell(_on_what([met.record for met in kept], stem))
    budgets = []
    for met in kept:
        print()
        budgets.append(_print_met(met, resolve, seconds))
    if resolve and all(budgets):
        print()
        tell(f"For all of them: kit run {stem} -p seconds={planner.rounded_up(max(budgets)):g}")


def _on_what(records: list[Record], stem: str) -> str:
    from kit.machine import fingerprint

    last = words.shown(max(record.written for record in records)[:10], 10)
    other = {record.machine.key for record in records} - {fingerprint.machine().key}
    where = "; some of it on another machine" if other else ""
    return f"{stem}, as noisy as when its newest kept runs measured it (until {last}{where})."


def _print_met(met: Met, resolve: float | None, seconds: float | None) -> float | None:
    """Print one comparison at one size; return the notebook's `seconds` that `resolve` needs, if any are enough."""
    noise = met.noise
    if noise is None:
        tell(f"{met.title}: fewer than ten rounds in {met.seconds:g} s, which tell nothing of its noise")
        return None
    half = words.plus_minus(noise.scatter)
    tell(f"{met.title}: {words.shown(noise.variant, 60)} scatters most, half of its rounds within {half}")
    sessions = max(1, len(met.point.sessions))
    for budget in dict.fromkeys([met.seconds, *([seconds / (met.factor or 1)] if seconds else [])]):
        now = ", as now" if budget == met.seconds else ""
        tell(f"{budget:g} s{now}: {seen(noise, budget / sessions)} can be seen", "  ")
    difference = resolve or (None if seconds else met.record.how.target)
    if difference is None:
        return None
    needed = need(noise, difference, sessions)
    given = planner.rounded_up(needed.seconds * met.factor) if needed.seconds and met.factor else None
    parameter = f": -p seconds={given:g}" if given else ""
    told = f"needs {needed.said}{parameter}" if needed.seconds else f": {needed.said} ({needed.why})"
    tell(f"{words.percent(difference)} {told}".replace(" :", ":"), "  ")
    return given


def met_by(record: Record) -> Iterator[Met]:
    """Yield what each size of a record met. Where memory allowed only pairs, the session that scattered most."""
    how = record.how
    for point in record.points if how.seconds > 0 else ():
        budget = how.seconds / max(1, len(point.sessions))
        found = [
            of_session(point, s, record.asked.baseline, budget, how.target, how.max_rounds) for s in point.sessions
        ]
        yield Met(record, point, max(filter(None, found), key=lambda noise: noise.scatter, default=None))


def newest(notebook: str, place: str) -> list[Record]:
    """Return the newest record of each of a notebook's comparisons, of this machine where it has one. Those that can't
    be read, or were interrupted, are passed over."""
    from kit.stored import gather

    files = []
    for inside in (notebook, f"interactive/{notebook}"):
        try:
            files += gather.find([f"{place.rstrip('/')}/{inside}"]).records
        except UserError:
            continue
    by_comparison: dict[str, list] = {}
    for file in files:
        by_comparison.setdefault(_comparison(file.name), []).append(file)
    found = (
        _newest_of(sorted(same, key=lambda f: _written(f.name), reverse=True))
        for _, same in sorted(by_comparison.items())
    )
    return [record for record in found if record]


def _newest_of(files: list) -> Record | None:
    from kit.machine import fingerprint
    from kit.stored import gather

    elsewhere = None
    for _, record in gather.read_records(files, []):
        if record.complete and record.machine.key == fingerprint.machine().key:
            return record
        elsewhere = elsewhere or (record if record.complete else None)
    return elsewhere


_NAME = re.compile(r"(.*)-(\d{8}T\d{6}Z-[0-9a-f]+)\.json")


def _comparison(name: str) -> str:
    """Return the part of a record's file name that its comparison gave it."""
    return match[1] if (match := _NAME.fullmatch(name)) else Path(name).stem


def _written(name: str) -> str:
    return match[2] if (match := _NAME.fullmatch(name)) else ""
