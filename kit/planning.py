"""`kit plan`: the minimum detectable effect of a budget, by a notebook's kept runs; this machine's noise."""

from functools import partial

import cloudpickle
import numpy as np

from kit.errors import UserError
from kit.measure import power
from kit.record import formatting as fmt
from kit.record.document import CONTROL, Point, Record
from kit.runs import files

BUDGETS_S = (5.0, 20.0, 60.0)
PROBE_S = 6.0
"""Time budget of the small comparison that measures a machine's noise now."""


def main(notebook: str, runs: str, resolve: float | None) -> int:
    """Print the plan and return the exit status, 0. runs: where runs are kept; resolve: a difference, as 0.03."""
    from kit.batch import notebooks

    stem = notebooks.find(notebook).stem
    measured = [(record, point) for record in newest(stem, runs) for point in record.points]
    if not measured:
        raise UserError(f"no run of {stem} is kept in {fmt.shown(runs)}; make one: kit run {stem}")
    budgets_s = [_print_one(*one, resolve) for one in measured]
    if resolve and all(budgets_s):
        print(f"\nfor all of them: kit run {stem} -p time_budget_s={rounded_up(max(budgets_s)):g}")
    return 0


def this_machine() -> list[str]:
    """Return lines on this machine's noise now, by a function compared with itself: A/A ratio, floor, and the minimum
    detectable effect of some budgets."""
    noise, session = _probed()
    if noise is None:
        return ["This machine is too busy to measure its noise: ten rounds of a few milliseconds did not fit in 18 s."]
    own = session.noise
    first = (
        f"A function of 5 ms against itself, {len(session.order)} rounds, {len(session.starts)} process restarts: A/A "
        f"{fmt.with_interval(own.speedup, own.low, own.high)}, noise floor {fmt.percent(session.noise_floor)}."
    )
    return [first, *(f"Time budget {budget_s:g} s: {_detectable(noise, budget_s)}." for budget_s in BUDGETS_S)]


def _probed() -> tuple[power.Noise | None, object]:
    from kit.machine import fingerprint
    from kit.measure.point import SizeRun
    from kit.measure.process import SpawnedWorker
    from kit.measure.progress import Progress
    from kit.measure.session import Rules
    from kit.measure.variant import VariantProcess

    made = partial(VariantProcess, packed=cloudpickle.dumps((_piece_of_work, ())))
    start, names = partial(SpawnedWorker, fingerprint.allowed_threads(), 30.0), ["function", "same function"]
    probe = SizeRun(
        None, {name: made(name) for name in names}, names[0], made(CONTROL), rules=Rules(PROBE_S, 1e-9, 1000), seed=1,
        start=start, check=None, progress=Progress("noise of this machine", "", None),
    )  # fmt: skip
    probe.run()
    sessions = probe.point().sessions
    return (power.noise_of(sessions[0], names[0], 1000), sessions[0]) if sessions else (None, None)


def _piece_of_work():
    """Return a call of about 5 ms that uses the processor, its caches and the interpreter."""
    numbers = np.random.default_rng(0).random(40_000)
    return lambda: float(np.sort(numbers).sum()) + sum(range(60_000))


def _print_one(record: Record, point: Point, resolve: float | None) -> float | None:
    """Print one comparison at one size; return the notebook's time budget that `resolve` needs, if any is enough."""
    how, at = record.how, fmt.count(point.size, record.asked.unit)
    title = fmt.shown(record.asked.comparison, 60) + (f" at {at}" if at else "")
    noise = power.noise_of(point.sessions[0], record.asked.baseline, how.max_rounds) if point.sessions else None
    if noise is None:
        print(f"{title}: fewer than ten rounds, too few to measure its noise")
        return None
    given = record.asked.parameters.get("time_budget_s")
    share = how.time_budget_s / given if isinstance(given, int | float) and given > 0 else 1.0  # of the notebook's
    print(f"{title}: {fmt.shown(noise.variant, 60)} varies most, ± {fmt.percent(noise.variation)} per round")
    for times in (1, 3, 10):
        print(f"  time budget {times * how.time_budget_s:g} s: {_detectable(noise, times * how.time_budget_s)}")
    difference = resolve or how.equivalence_margin
    print(f"  to detect {fmt.percent(difference)}: ", end="")
    if (needed := power.needed(noise, difference)) is None:
        return print("not possible, the floor of process restarts, or max_rounds, is higher")
    needed_s = rounded_up(needed.time_budget_s)
    print(f"time budget {needed_s:g} s ({needed.rounds} rounds, {len(needed.starts)} process restarts)")
    return needed_s / share


def _detectable(noise: power.Noise, budget_s: float) -> str:
    found = power.minimum_detectable_effect(noise, budget_s)
    return f"minimum detectable effect {rounded_up(100 * found):g} %" if found is not None else "detects nothing"


def rounded_up(number: float) -> float:
    """Return a number of two digits, rounded up: 130 for 121."""
    step = 10.0 ** (np.floor(np.log10(number)) - 1)
    return float(f"{np.ceil(number / step - 1e-9) * step:.6g}")


def newest(notebook: str, place: str) -> list[Record]:
    """Return the newest complete record of each of a notebook's comparisons. What can't be read is passed over."""
    found = [file for file in files.find([place]).records if f"/{notebook}/" in file.path]
    whole = [r for _, r in files.read_records(found, []) if r.complete and r.how.time_budget_s > 0]
    by_name = {record.asked.comparison: record for record in sorted(whole, key=lambda r: r.written)}
    return [by_name[name] for name in sorted(by_name)]
